"""Any Hugging Face encoder as text tower, by hub name or folder.

B captions, L tokens, D width.
"""
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, DistilBertConfig, PreTrainedModel

from model import hub
from parse_config import ConfigError

log = logging.getLogger(__name__)

WHERE = "arch.args.text_params.model"
# Names whose configuration is the library's default: their shape needs no hub.
DEFAULTS = {"distilbert-base-uncased": DistilBertConfig, "distilbert/distilbert-base-uncased": DistilBertConfig,
            "bert-base-uncased": BertConfig, "google-bert/bert-base-uncased": BertConfig}


def build_text_model(model: str = "distilbert-base-uncased", pretrained: bool = True, pooling: str = "cls",
                     max_length: int | None = None) -> PreTrainedModel:
    """`text_params` -> the transformers model of that hub name or folder, without a pooler (nothing would train it).

    `pretrained=False` takes the shape alone. `pooling` ("cls", "mean") and `max_length` (tokens; None: what the model
    can take) are for `pool` and `make_tokenize`. Raises ConfigError if the model is neither here nor on the hub.
    """
    if pooling not in ("cls", "mean"):
        raise ConfigError(f"arch.args.text_params.pooling: {pooling!r} is given, cls or mean is needed")
    if pretrained:
        network = _load(AutoModel.from_pretrained, model)
    else:
        config = DEFAULTS[model]() if model in DEFAULTS and not Path(model).is_dir() else \
            _load(AutoConfig.from_pretrained, model)
        network = AutoModel.from_config(config)
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network.train()


def make_tokenize(model: str, max_length: int) -> Callable[[list[str]], dict[str, Tensor]]:
    """Hub name or folder -> function: captions -> {"input_ids", "attention_mask"} (B, L), cut at `max_length`."""
    tokenizer = _load(AutoTokenizer.from_pretrained, model)
    limit = min(max_length, tokenizer.model_max_length)
    names = ["input_ids", "attention_mask"]

    def tokenize(captions: list[str]) -> dict[str, Tensor]:
        tokens = tokenizer(list(captions), return_tensors="pt", padding=True, truncation=True, max_length=limit)
        return {name: tokens[name] for name in names}
    tokenize.tokenizer = tokenizer
    return tokenize


def pool(hidden_BLD: Tensor, tokens: Mapping[str, Tensor], how: str) -> Tensor:
    """Last hidden states -> (B, D): the first token's ("cls") or the mean over the caption's tokens ("mean")."""
    if how == "cls":
        return hidden_BLD[:, 0]
    weight_BL1 = tokens["attention_mask"][..., None].to(hidden_BLD.dtype)
    return (hidden_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)


def _load(function: Callable, model: str):
    """`function(model)` from a folder, else from the hub or its cache."""
    local = Path(model).is_dir()
    try:
        return function(model, local_files_only=local or not hub.reachable())
    except (OSError, ValueError, ImportError) as error:
        if local:
            raise ConfigError(f"{WHERE}: {model}: {error}") from None
        log.debug("%s", error)
        raise hub.absent(WHERE, model, model, "its path") from None


def vocabulary(text_model: torch.nn.Module) -> int:
    """How many words the model's embedding has."""
    return text_model.get_input_embeddings().num_embeddings
