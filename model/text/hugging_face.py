"""Any Hugging Face encoder as text encoder, by hub name or folder.

B captions, L tokens, D width.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from model import hub
from model.text import pooling as pooling_rules
from model.text.stated import Stated, read_stated
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


# Text towers of pairs that AutoModel does not build by themselves.
TOWERS = {
    "siglip_text_model": "SiglipTextModel",
    "siglip2_text_model": "Siglip2TextModel",
    "xclip_text_model": "XCLIPTextModel",
}
ABSENCE_ERRORS = (OSError, ValueError, ImportError)
LOADING_ERRORS = (
    *ABSENCE_ERRORS,
    SafetensorError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
)
DEFAULT_LENGTH = 512  # tokens, of a model without a table of positions


class TextUse(NamedTuple):
    """How captions become one vector each.

    pooling: cls, mean, last or eos. max_length: tokens, with those that begin and end a text. stated: both as the
    model's folder or type gives them.
    """

    pooling: str
    max_length: int
    stated: Stated


def build_text_model(
    model: str = DEFAULT,
    pretrained: bool = True,
    pooling: str = "cls",
    max_length: int | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The transformers model that `text_params` describe, without a pooler (nothing would train it).

    Of a pair like CLIP it is the text tower, of T5 the encoder. Raises ConfigError if the model is neither here nor on
    the hub, if weights are missing in it, or if it is no text encoder.

    Args:
        model: Hugging Face encoder: hub name or folder
        pretrained: load the model's weights; false takes the shape alone
        pooling: cls (the first token), mean (over tokens), last (the last token), eos (the end-of-text token, as CLIP
            does), or auto (what the model's folder states, else by its type)
        max_length: tokens after which captions are cut; default: what the model can take
        trust_remote_code: run Python code that comes with the model, where the library has none for it
    """
    pooling_rules.check_name(pooling)
    model = located(model)
    if model in DEFAULT_CONFIGS and not Path(model).is_dir():
        config = DEFAULT_CONFIGS[model]()
    else:
        config = _load(AutoConfig.from_pretrained, model, trust_remote_code)
    library_class = _library_class(config, model)
    text_model: Any
    if pretrained:
        text_model = _load_pretrained(library_class, model, trust_remote_code)
    else:
        text_model = _from_shape(library_class, config, model, trust_remote_code)
    text_model = _text_tower(text_model, model)
    if getattr(text_model, "pooler", None) is not None:
        text_model.pooler = None
    if isinstance(getattr(text_model, "head", None), nn.Linear):
        text_model.head = nn.Identity()  # SigLIP's pooler
    return text_model.train()


def text_use(
    text_model: PreTrainedModel,
    model: str = DEFAULT,
    pooling: str = "cls",
    max_length: int | None = None,
    **_: Any,
) -> TextUse:
    """How `text_model` is used under `text_params`. Raises ConfigError for settings that do not fit it."""
    model = located(model)
    stated = Stated()
    if model not in DEFAULT_CONFIGS or Path(model).is_dir():
        stated = read_stated(model)
    chosen = pooling_rules.choose(text_model, pooling, stated.pooling)
    positions = count_positions(text_model)
    longest = stated.max_length or positions or DEFAULT_LENGTH
    if positions:
        longest = min(longest, positions)
    if max_length is not None:
        _check_length(max_length, positions, model)
    default = Stated(chosen if pooling == "auto" else stated.pooling, longest)
    return TextUse(chosen, max_length or longest, default)


def longest_text(params: Mapping[str, Any]) -> int:
    """The tokens that the model of `text_params` takes, from its shape alone. Raises ConfigError."""
    with torch.device("meta"):
        text_model = build_text_model(**{**params, "pretrained": False})
    return text_use(text_model, **params).max_length


def count_positions(text_model: PreTrainedModel) -> int | None:
    """The longest sequence that has positions; None where they are not counted.

    Models after RoBERTa number positions from the padding's id on: of 514 rows 512 can be used.
    """
    for name, module in text_model.named_modules():
        padding_idx = getattr(module, "padding_idx", None)
        if name.split(".")[-1] == "position_embeddings" and padding_idx is not None:
            weight: Any = module.weight
            return weight.shape[0] - padding_idx - 1
    positions = getattr(text_model.config, "max_position_embeddings", None)
    return positions if positions and positions > 0 else None


def located(model: str) -> str:
    """A hub name as it is, a path with ~ expanded. Raises ConfigError for what is no name."""
    if not isinstance(model, str) or not model.strip():
        raise ConfigError(
            f"{JSON_PATH}: {model!r} is given, a hub name or the path of a folder is needed"
        )
    return os.path.expanduser(model)


def _check_length(max_length: int, positions: int | None, model: str) -> None:
    if max_length < 1 or (positions and max_length > positions):
        limit = f"1 to {positions}" if positions else "1 or more"
        raise ConfigError(
            f"arch.args.text_params.max_length: {max_length} is given, and {model} takes {limit} tokens; leave it out "
            "for as many as the model takes"
        )


def _library_class(config: PretrainedConfig, model: str) -> Any:
    """The class of transformers that opens the text encoder of such a configuration."""
    kind = type(config)
    is_encoder_apart = (
        kind in MODEL_FOR_TEXT_ENCODING_MAPPING
        and kind in MODEL_MAPPING
        and MODEL_FOR_TEXT_ENCODING_MAPPING[kind] is not MODEL_MAPPING[kind]
    )
    if is_encoder_apart:
        return AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"{JSON_PATH}: {model} is an encoder-decoder ({config.model_type}), whose encoder is not used alone here; "
            "take a text encoder (BERT, CLIP, T5, ...)"
        )
    if config.model_type in TOWERS:
        return getattr(transformers, TOWERS[config.model_type])
    return AutoModel


def _text_tower(text_model: Any, model: str) -> PreTrainedModel:
    """The text tower of a pair of towers, any other model as it is. Raises ConfigError for one without text."""
    config = text_model.config
    if hasattr(config, "text_config"):
        tower = getattr(text_model, "text_model", None)
        if not isinstance(tower, PreTrainedModel) or not _opens_alone(tower, model):
            raise ConfigError(
                f"{JSON_PATH}: {model} is a {config.model_type}, whose text model cannot be opened by itself; take a "
                "text encoder (BERT, CLIP, T5, ...)"
            )
        text_model = tower
    if text_model.main_input_name != "input_ids":
        raise ConfigError(
            f"{JSON_PATH}: {model} is a {config.model_type}, which takes {text_model.main_input_name} and no text; "
            "take a text encoder (BERT, CLIP, T5, ...)"
        )
    return text_model


def _opens_alone(tower: PreTrainedModel, model: str) -> bool:
    """Whether a tower's own configuration builds a model with the tower's names."""
    try:
        with torch.device("meta"):
            library_class = _library_class(tower.config, model)
            rebuilt = _from_shape(library_class, tower.config, model, False)
    except ConfigError:
        return False
    return rebuilt.state_dict().keys() == tower.state_dict().keys()


def _from_shape(
    library_class: Any, config: PretrainedConfig, model: str, trust_remote_code: bool
) -> Any:
    if hasattr(library_class, "_from_config"):
        return library_class._from_config(config)
    try:
        return library_class.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise _unusable(model, error) from None


def _load_pretrained(
    library_class: Any, model: str, trust_remote_code: bool
) -> PreTrainedModel:
    text_model, info = _load(
        library_class.from_pretrained,
        model,
        trust_remote_code,
        output_loading_info=True,
    )
    report = Report(
        f"{model} (text)",
        remedy=f"{JSON_PATH} must be a model whose encoder AutoModel loads whole",
    )
    poolers = {
        name
        for name in info["missing_keys"]
        if name.startswith("pooler.") or name.startswith("text_model.head.")
    }
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


def load_tokenizer(
    model: str, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or folder, which pads at the end.

    Raises ConfigError if it is neither here nor on the hub, or has no token to pad with.
    """
    model = located(model)
    tokenizer = _load(AutoTokenizer.from_pretrained, model, trust_remote_code)
    # Without a file of words the library makes a tokenizer that knows none.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ConfigError(
            f"{JSON_PATH}: {model} holds no words of a tokenizer (tokenizer.json or vocab.txt); get the folder again"
        )
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        # The attention mask hides it: any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"{JSON_PATH}: the tokenizer of {model} has no padding token; set pad_token in its tokenizer_config.json"
        )
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    text_model: PreTrainedModel,
    use: TextUse,
    model: str,
) -> None:
    """Raises ConfigError if the tokenizer does not belong to the model, or `use` leaves no room for a word."""
    rows = pooling_rules.count_embeddings(text_model)
    highest_id = max(tokenizer.get_vocab().values(), default=-1)
    if highest_id >= rows:
        raise ConfigError(
            f"{JSON_PATH}: the tokenizer of {model} has {highest_id + 1} tokens and the model {rows} embeddings: they "
            "do not belong together; get the folder again"
        )
    ends = tokenizer.num_special_tokens_to_add()
    if use.max_length <= ends:
        raise ConfigError(
            f"arch.args.text_params.max_length: {use.max_length} is given, and {ends} tokens begin and end each text; "
            f"{ends + 1} or more are needed"
        )
    if use.pooling == "eos":
        _check_eos(tokenizer, pooling_rules.eos_id(text_model), model)


def _check_eos(
    tokenizer: PreTrainedTokenizerBase, eos_token_id: int | None, model: str
) -> None:
    if eos_token_id == pooling_rules.HIGHEST_ID:
        return
    if eos_token_id not in tokenizer("a")["input_ids"]:
        raise ConfigError(
            f"arch.args.text_params.pooling: 'eos' is given, and the tokenizer of {model} does not end texts with the "
            f"model's end-of-text token (id {eos_token_id}); set it to last or mean"
        )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_length: int
) -> dict[str, Tensor]:
    """Captions -> {"input_ids", "attention_mask"} (B, L), padded to the longest, cut at `max_length` tokens.

    A text without a token has one of padding, so that there is something to pool.
    """
    tokens = tokenizer(
        list(captions),
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=min(max_length, tokenizer.model_max_length),
    )
    ids_BL, mask_BL = tokens["input_ids"].long(), tokens["attention_mask"].long()
    if not ids_BL.shape[1]:
        ids_BL = torch.full((len(captions), 1), tokenizer.pad_token_id)
        mask_BL = torch.ones_like(ids_BL)
    mask_BL[:, 0] = 1
    return {"input_ids": ids_BL, "attention_mask": mask_BL}


def set_checkpointing(text_model: PreTrainedModel, on: bool) -> None:
    """Recompute the layers in the backward pass; transformers 5.2x renamed the method."""
    is_renamed = hasattr(text_model, "activation_checkpointing_enable")
    prefix = "activation" if is_renamed else "gradient"
    if on:
        getattr(text_model, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(text_model, f"{prefix}_checkpointing_disable")()


def _load(
    function: Callable, model: str, trust_remote_code: bool, **options: Any
) -> Any:
    """`function(model)` from a folder, else from the hub or its cache; never asks whether code may be run."""
    is_folder = Path(model).is_dir()
    remedy = f"set {JSON_PATH} to its path"
    if not is_folder and hub.is_path(model):
        raise hub.absent(JSON_PATH, model, model, remedy)
    try:
        return function(
            model,
            local_files_only=is_folder or not hub.reachable(),
            trust_remote_code=trust_remote_code,
            **options,
        )
    except LOADING_ERRORS as error:
        log.debug("%s", error)
        needs_code = "trust_remote_code" in str(error)
        if is_folder or needs_code or not isinstance(error, ABSENCE_ERRORS):
            raise _unusable(model, error) from None
        raise hub.absent(JSON_PATH, model, model, remedy) from None


def _unusable(model: str, error: Exception) -> ConfigError:
    """The error for a model that is there and cannot be opened, in one line."""
    if "trust_remote_code" in str(error):
        return ConfigError(
            f"{JSON_PATH}: {model} comes with Python code of its own, which is not run; if you trust it, set "
            "arch.args.text_params.trust_remote_code to true, or take another model"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(f"{JSON_PATH}: {model}: cannot be opened ({reason[:300]})")
