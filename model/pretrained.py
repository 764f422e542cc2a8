"""A model as a self-contained folder, to keep, give away or put on the hub:

model.safetensors         weights, by the released names
config.json               {"arch": {"type", "args"}}: what builds it
preprocessor_config.json  `video_params` of a data set: frames and pixels as the model saw them
text/                     the text model's configuration and its tokenizer
README.md                 model card, see `card`
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.utils import HFValidationError, validate_repo_id

from model import hub
from model.weights import load_weights
from model.weights.write import save_tensors
from parse_config import ConfigError, merge, naming

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSING = "preprocessor_config.json"
TEXT = "text"


def save(model: Any, folder: Path) -> None:
    """Write `model` (MILES) into `folder`, which exists. Raises ConfigError if its tokenizer cannot be had."""
    own_text_model = {"model": TEXT, "pretrained": False}
    overrides = {"video_params": {"pretrained": False}, "text_params": own_text_model}
    arch = {"type": "MILES", "args": merge(model.settings, overrides)}
    tokenizer = model.tokenizer
    # Copies: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    _write_json(folder / CONFIG, {"arch": arch})
    _write_json(folder / PREPROCESSING, model.preprocessing)
    (folder / "README.md").unlink(
        missing_ok=True
    )  # huggingface_hub would keep an old card
    tokenizer.save_pretrained(folder / TEXT)
    model.text_model.config.save_pretrained(folder / TEXT)


def load(
    model_class: Callable[..., Any], folder: Path, changes: Mapping[str, Any]
) -> Any:
    """A model of `model_class` (MILES) in eval mode from a folder that `save` wrote.

    `changes` are laid over its arguments. Raises ConfigError, FileNotFoundError.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder}: holds no {CONFIG}; scripts/export.py makes such a folder of a checkpoint"
        )
    arch = _read_json(folder / CONFIG).get("arch")
    if not arch:
        raise ConfigError(
            f"{folder / CONFIG}: has no arch; scripts/export.py makes such a folder of a checkpoint"
        )
    args = arch["args"]
    if (folder / TEXT).is_dir():
        args = merge(args, {"text_params": {"model": str(folder / TEXT)}})
    model = model_class(**merge(args, changes), pretrained=False)
    temporal_fix = model.settings["video_params"].get("load_temporal_fix", "zeros")
    load_weights(model, folder, temporal_fix=temporal_fix)
    if (folder / PREPROCESSING).is_file():
        preprocessing = _read_json(folder / PREPROCESSING)
        if preprocessing["input_res"] != model.preprocessing["input_res"]:
            preprocessing.pop("center_crop", None)
        model.update_preprocessing(preprocessing)
    return model.eval()


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """`video_params` of an exported folder; {} if it does not say."""
    path = folder / PREPROCESSING
    return _read_json(path) if path.is_file() else {}


def locate(source: str | os.PathLike, **hub_arguments: Any) -> Path:
    """A folder as it is, or a hub id -> the folder it was downloaded to. Raises ConfigError, FileNotFoundError.

    `hub_arguments`: revision, cache_dir, token, ... of huggingface_hub.
    """
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    try:
        validate_repo_id(name)
        offline = hub_arguments.get("local_files_only") or not hub.reachable()
        hub_arguments["local_files_only"] = offline
        return Path(snapshot_download(name, **hub_arguments))
    except HFValidationError:
        raise FileNotFoundError(
            f"{name}: no such folder (looked for {Path(source).absolute()})"
        ) from None
    except (OSError, ValueError):
        raise hub.absent("from_pretrained", name, name, "give its path") from None


def card(model: Any, facts: Mapping[str, str]) -> str:
    """The model card: what it is, how it is used, and what it was made from (`facts`: heading -> text)."""
    video = model.video_model
    frames = model.preprocessing["num_frames"]
    pixels = model.preprocessing["input_res"]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    sections = "".join(f"\n## {heading}\n\n{text}\n" for heading, text in facts.items())
    return f"""---
library_name: pytorch
pipeline_tag: feature-extraction
tags: [video-text-retrieval, miles, model_hub_mixin, pytorch_model_hub_mixin]
---
# MILES: video and text in one space

A dual encoder for text-to-video retrieval after *MILES: Visual BERT Pre-training with Injected Language Semantics for
Video-text Retrieval* (ECCV 2022, arXiv 2204.12408): {millions:.1f}M parameters; space-time transformer of width
{video.embed_dim}, {len(video.blocks)} blocks, patches of {video.patch_size} px; text model
`{model.text_model.config.model_type}`; embeddings of {model.settings["projection_dim"]} numbers.

## Use

With the project's code beside this folder:

```python
from model import load_model
model = load_model("this-folder")
texts, videos = model.encode_text(["a dog runs"]), model.embed_videos(["a.mp4", "b.mp4"])
print(model.similarity(texts, videos))
```

Clips: {frames} frames (the middle one of each of as many equal segments), {pixels} px; all
settings in `{PREPROCESSING}`. Weights alone: `safetensors.torch.load_file("{WEIGHTS}")`.
{sections}"""


def _write_json(path: Path, content: Any) -> None:
    with naming(path):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
