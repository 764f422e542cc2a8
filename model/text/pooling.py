"""Hidden states of a caption's tokens -> one vector.

B captions, L tokens, D width.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from parse_config import ConfigError

POOLINGS = ("cls", "mean", "last", "eos", "auto")
JSON_PATH = "arch.args.text_params.pooling"
# Model types whose own text embedding is read at the end-of-text token.
EOS_TYPES = ("clip_text_model", "xclip_text_model")
# Model types without a token that is trained to stand for the whole text.
MEAN_TYPES = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
LAST_TYPES = ("siglip_text_model", "siglip2_text_model")
# Model types with bidirectional attention, unless their configuration says is_decoder. For these `is_causal` runs no
# forward pass: MKL reads MKL_CBWR at the process's first product, and `load_model`, which sets it, may come later.
ENCODER_TYPES = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "mt5",
    "roberta",
    "t5",
    "umt5",
    "xlm-roberta",
)
# CLIP's configurations of before 2023 name a wrong token; the end of a text is then its highest id.
WRONG_CLIP_EOS = 2
HIGHEST_ID = -1


def check_name(pooling: str) -> None:
    """Raises ConfigError for a name that is not among `POOLINGS`."""
    if pooling not in POOLINGS:
        raise ConfigError(
            f"{JSON_PATH}: {pooling!r} is given, cls or mean is needed, or one of last, eos, auto"
        )


def choose(text_model: PreTrainedModel, pooling: str, stated: str | None) -> str:
    """The pooling to use: `pooling`, or for auto what the model's folder states, else what fits its type.

    Raises ConfigError for one that gives this model embeddings without meaning, and for a model that takes no tokens.
    """
    causal = is_causal(text_model)
    model_type = text_model.config.model_type
    if pooling == "auto":
        pooling = stated or _by_type(model_type, causal)
    if pooling == "cls" and causal:
        raise ConfigError(
            f"{JSON_PATH}: 'cls' reads the first token, which sees no other in a causal model ({model_type}): all "
            "captions would have one embedding; set it to auto, last, eos or mean"
        )
    if pooling == "eos" and eos_id(text_model) is None:
        raise ConfigError(
            f"{JSON_PATH}: 'eos' is given, and the configuration of the model ({model_type}) names no end-of-text "
            "token (eos_token_id); set it to last or mean"
        )
    return pooling


def pool(
    hidden_BLD: Tensor,
    tokens: Mapping[str, Tensor],
    pooling: str,
    eos_token_id: int | None = None,
) -> Tensor:
    """Last hidden states -> (B, D).

    tokens: "attention_mask" and "input_ids", each (B, L)
    pooling: "cls", the first token; "mean", over the caption's tokens; "last", the last token that is no padding, on
        whichever side that is; "eos", the first end-of-text token (of `eos_id`), else the last token
    """
    if pooling == "cls":
        return hidden_BLD[:, 0]
    mask_BL = tokens["attention_mask"]
    if pooling == "mean":
        weight_BL1 = mask_BL[..., None].to(hidden_BLD.dtype)
        return (hidden_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp(min=1)
    position_B = _last_positions(mask_BL)
    if pooling == "eos":
        position_B = _eos_positions(
            tokens["input_ids"], mask_BL, position_B, eos_token_id
        )
    rows_B = torch.arange(len(hidden_BLD), device=hidden_BLD.device)
    return hidden_BLD[rows_B, position_B]


def eos_id(text_model: PreTrainedModel) -> int | None:
    """The id of the token that ends a text, HIGHEST_ID, or None where the configuration names none."""
    config = text_model.config
    token_id = getattr(config, "eos_token_id", None)
    if isinstance(token_id, list | tuple):
        token_id = token_id[0] if token_id else None
    if token_id == WRONG_CLIP_EOS and config.model_type in EOS_TYPES:
        return HIGHEST_ID
    return token_id


def is_causal(text_model: PreTrainedModel) -> bool:
    """Whether the first token's output stays the same whatever follows it: known by the type, or tried.

    Raises ConfigError for a model that does not turn tokens into hidden states.
    """
    if text_model.config.model_type in ENCODER_TYPES:
        return bool(getattr(text_model.config, "is_decoder", False))
    num_ids = count_embeddings(text_model)
    if num_ids < 3 or text_model.device.type == "meta":
        return False
    first, second, third = num_ids - 1, num_ids - 2, num_ids - 3
    return torch.equal(
        _first_output(text_model, [first, second, third]),
        _first_output(text_model, [first, third, second]),
    )


def count_embeddings(text_model: PreTrainedModel) -> int:
    """The number of token ids that the model has an embedding for."""
    embeddings: Any = text_model.get_input_embeddings()
    return embeddings.weight.shape[0]


@torch.no_grad()
def _first_output(text_model: PreTrainedModel, ids: list[int]) -> Tensor:
    """The last hidden state (D,) of the first of some tokens, without dropout."""
    ids_1L = torch.tensor([ids], device=text_model.device)
    with evaluating(text_model):
        try:
            output = text_model(
                input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L)
            )
            return output.last_hidden_state[0, 0]
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"arch.args.text_params.model: {text_model.config.model_type} does not turn tokens into hidden states "
                f"({reason[:200]}); a text encoder is needed"
            ) from None


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Every part of `module` in eval mode, without dropout; afterwards each in the mode it was in."""
    in_training = [part for part in module.modules() if part.training]
    for part in in_training:
        part.training = False
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


def _by_type(model_type: str, causal: bool) -> str:
    """The pooling that a model of this type was trained with."""
    if model_type in EOS_TYPES:
        return "eos"
    if model_type in MEAN_TYPES:
        return "mean"
    if causal or model_type in LAST_TYPES:
        return "last"
    return "cls"


def _last_positions(mask_BL: Tensor) -> Tensor:
    """Position (B,) of the last token that is no padding."""
    positions_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    return (mask_BL * positions_L).argmax(1)


def _eos_positions(
    ids_BL: Tensor, mask_BL: Tensor, last_B: Tensor, eos_token_id: int | None
) -> Tensor:
    """Position (B,) of each caption's first end-of-text token; `last_B` for a caption without one."""
    if eos_token_id == HIGHEST_ID:
        return (ids_BL * mask_BL).argmax(1)
    is_eos_BL = (ids_BL == eos_token_id) & mask_BL.bool()
    return torch.where(is_eos_BL.any(1), is_eos_BL.int().argmax(1), last_B)
