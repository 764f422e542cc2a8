"""Any Hugging Face encoder as text encoder, by hub name or folder.

B captions, L tokens, D width.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from model import hub
from model.weights.report import Report
from parse_config import ConfigError

log = logging.getLogger(__name__)
disable_progress_bar()

DEFAULT = "distilbert-base-uncased"
JSON_PATH = "arch.args.text_params.model"
# Names whose configuration is the library's default: their shape needs no hub.
DEFAULT_CONFIGS = {
    "distilbert-base-uncased": DistilBertConfig,
    "distilbert/distilbert-base-uncased": DistilBertConfig,
    "bert-base-uncased": BertConfig,
    "google-bert/bert-base-uncased": BertConfig,
}


def build_text_model(
    model: str = DEFAULT,
    pretrained: bool = True,
    pooling: str = "cls",
    max_length: int | None = None,
) -> PreTrainedModel:
    """The transformers model that `text_params` describe, without a pooler (nothing would train it).

    Raises ConfigError if the model is neither here nor on the hub, or if
    weights are missing in it.

    Args:
        model: Hugging Face encoder: hub name or folder
        pretrained: load the model's weights; false takes the shape alone
        pooling: cls (the first token) or mean (over tokens)
        max_length: tokens after which captions are cut; default: what the model can take
    """
    if pooling not in ("cls", "mean"):
        raise ConfigError(
            f"arch.args.text_params.pooling: {pooling!r} is given, cls or mean is needed"
        )
    text_model: Any
    if pretrained:
        text_model = _load_pretrained(model)
    elif model in DEFAULT_CONFIGS and not Path(model).is_dir():
        text_model = AutoModel.from_config(DEFAULT_CONFIGS[model]())
    else:
        text_model = AutoModel.from_config(_load(AutoConfig.from_pretrained, model))
    if getattr(text_model, "pooler", None) is not None:
        text_model.pooler = None
    return text_model.train()


def _load_pretrained(model: str) -> PreTrainedModel:
    text_model, info = _load(AutoModel.from_pretrained, model, output_loading_info=True)
    report = Report(
        f"{model} (text)",
        remedy=f"{JSON_PATH} must be a model whose encoder AutoModel loads whole",
    )
    poolers = {name for name in info["missing_keys"] if name.startswith("pooler.")}
    report.absent = dict.fromkeys(sorted(set(info["missing_keys"]) - poolers), "")
    report.misshapen = {str(entry[0]): "" for entry in sorted(info["mismatched_keys"])}
    report.left_out = dict.fromkeys(
        sorted(info["unexpected_keys"]), "not of the encoder"
    )
    report.missing = dict.fromkeys(sorted(poolers), "dropped: nothing uses it")
    report.loaded = {
        f"text_model.{name}": ""
        for name in text_model.state_dict()
        if name not in info["missing_keys"]
    }
    log.info("%s", report.table())
    report.check(strict=True)
    return text_model


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or folder. Raises ConfigError if it is neither here nor on the hub."""
    return _load(AutoTokenizer.from_pretrained, model)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_length: int
) -> dict[str, Tensor]:
    """Captions -> {"input_ids", "attention_mask"} (B, L), padded to the longest, cut at `max_length` tokens."""
    tokens = tokenizer(
        list(captions),
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=min(max_length, tokenizer.model_max_length),
    )
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def pool(hidden_BLD: Tensor, tokens: Mapping[str, Tensor], pooling: str) -> Tensor:
    """Last hidden states -> (B, D): the first token's ("cls") or the mean over the caption's tokens ("mean")."""
    if pooling == "cls":
        return hidden_BLD[:, 0]
    weight_BL1 = tokens["attention_mask"][..., None].to(hidden_BLD.dtype)
    return (hidden_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)


def set_checkpointing(text_model: PreTrainedModel, on: bool) -> None:
    """Recompute the layers in the backward pass; transformers 5.2x renamed the method."""
    is_renamed = hasattr(text_model, "activation_checkpointing_enable")
    prefix = "activation" if is_renamed else "gradient"
    if on:
        getattr(text_model, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(text_model, f"{prefix}_checkpointing_disable")()


def _load(function: Callable, model: str, **options: Any) -> Any:
    """`function(model)` from a folder, else from the hub or its cache."""
    is_folder = Path(model).is_dir()
    try:
        return function(
            model, local_files_only=is_folder or not hub.reachable(), **options
        )
    except (OSError, ValueError, ImportError) as error:
        if is_folder:
            raise ConfigError(f"{JSON_PATH}: {model}: {error}") from None
        log.debug("%s", error)
        raise hub.absent(
            JSON_PATH, model, model, f"set {JSON_PATH} to its path"
        ) from None
