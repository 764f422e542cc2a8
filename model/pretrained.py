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
from model.text import own_files
from model.weights import load_weights, read_checkpoint
from model.weights.listed import (
    CONFIG,
    LIST,
    PREPROCESSING,
    TEXT,
    WEIGHTS,
    list_files,
)
from model.weights.read import read_json
from model.weights.write import save_tensors
from parse_config import ConfigError, check_args, merge, naming

REMEDY = "scripts/export.py makes such a folder of a checkpoint"


def save(model: Any, folder: Path) -> None:
    """Write `model` (MILES) into `folder`, which exists. Raises ConfigError if its tokenizer cannot be had."""
    own_text_model = {"model": TEXT, "pretrained": False}
    overrides = {"video_params": {"pretrained": False}, "text_params": own_text_model}
    arch = {"type": "MILES", "args": merge(model.settings, overrides)}
    tokenizer = model.tokenizer
    # Of a model that was saved here before; huggingface_hub would keep an old card.
    outdated_text = [path for path in (folder / TEXT).glob("*.*") if path.is_file()]
    for path in (folder / "README.md", *outdated_text):
        path.unlink(missing_ok=True)
    own_files.write(
        folder / TEXT, tokenizer, model.text_model.config, model.text_use.stated
    )
    # Copies: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    _write_json(folder / PREPROCESSING, model.preprocessing)
    _write_json(folder / CONFIG, {"arch": arch, LIST: list_files(folder)})


def load(
    model_class: Callable[..., Any], folder: Path, changes: Mapping[str, Any]
) -> Any:
    """A model of `model_class` (MILES) in eval mode from a folder that `save` wrote.

    `changes` are laid over its arguments. Raises ConfigError for files that are missing or do not belong together,
    FileNotFoundError for a folder without a config.json.
    """
    args = _read_args(folder)
    _check_present(folder)
    checkpoint = read_checkpoint(folder / WEIGHTS)
    preprocessing = read_preprocessing(folder)
    args = merge(args, {"text_params": {"model": str(folder / TEXT)}})
    # What a file says never decides that code is run.
    args["text_params"].pop("trust_remote_code", None)
    args = merge(args, changes)
    check_args(model_class, args, f"{folder / CONFIG}: arch.args", ("pretrained",))
    model = model_class(**args, pretrained=False)
    temporal_fix = model.settings["video_params"].get("load_temporal_fix", "zeros")
    load_weights(model, checkpoint, temporal_fix=temporal_fix, name=str(folder))
    is_resized = preprocessing["input_res"] != model.preprocessing["input_res"]
    if is_resized and "video_params" not in changes:
        raise ConfigError(
            f"{folder / PREPROCESSING}: says {preprocessing['input_res']} px, and the model takes "
            f"{model.preprocessing['input_res']}: the files do not belong together; export the model again"
        )
    if is_resized:
        preprocessing.pop("center_crop", None)
    model.update_preprocessing(preprocessing)
    _ = model.tokenizer  # read, and compared with the model, while its files are there
    return model.eval()


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """`video_params` of an exported folder, {} for another. Raises ConfigError for a file without them."""
    path = folder / PREPROCESSING
    if not path.is_file():
        return {}
    preprocessing = read_json(path)
    for key in ("num_frames", "input_res"):
        if key not in preprocessing:
            raise ConfigError(f"{path}: has no {key}; {REMEDY}")
    return preprocessing


def _read_args(folder: Path) -> dict[str, Any]:
    """arch.args of an exported folder."""
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: holds no {CONFIG}; {REMEDY}")
    arch = read_json(folder / CONFIG).get("arch")
    if not isinstance(arch, dict) or not isinstance(arch.get("args"), dict):
        raise ConfigError(f"{folder / CONFIG}: has no arch; {REMEDY}")
    return arch["args"]


def _check_present(folder: Path) -> None:
    for name in (WEIGHTS, PREPROCESSING, f"{TEXT}/config.json"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder}: lacks {name}, a file of this model; get the folder again, or export the model again"
            )


def locate(source: str | os.PathLike, **hub_arguments: Any) -> Path:
    """A folder, or a hub id -> the folder it was downloaded to. Raises ConfigError, FileNotFoundError.

    `hub_arguments`: revision, cache_dir, token, ... of huggingface_hub.
    """
    name = os.path.expanduser(source)
    if not name:
        raise ConfigError(
            "from_pretrained: '' is given, a folder or a hub id is needed"
        )
    if Path(name).is_dir():
        return Path(name)
    try:
        validate_repo_id(name)
        offline = hub_arguments.get("local_files_only") or not hub.reachable()
        hub_arguments["local_files_only"] = offline
        return Path(snapshot_download(name, **hub_arguments))
    except HFValidationError:
        raise FileNotFoundError(
            f"{name}: no such folder (looked for {Path(name).absolute()})"
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
