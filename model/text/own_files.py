"""The text model's configuration and tokenizer as files inside a checkpoint, so that it needs no folder beside it."""

import copy
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from transformers import (
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from model.text.stated import Stated, write_stated
from model.weights.listed import TEXT_SUFFIXES, read_text_files
from parse_config import ConfigError


def write(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    stated: Stated,
) -> None:
    """Write what opens the text model and reads captions for it, without weights, into `folder`.

    Raises ConfigError for a model whose code is not the library's: the code would be missing in it.
    """
    if getattr(config, "auto_map", None):
        raise ConfigError(
            f"the text model ({config.model_type}) runs Python code of its own, which is not kept with weights; take a "
            "model that the library knows"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _without_lengths(tokenizer).save_pretrained(folder)
    config.save_pretrained(folder)
    write_stated(folder, stated)


def _without_lengths(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy without truncation and padding, which each use sets: a model's files do not depend on what it embedded."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer
    copied = copy.deepcopy(tokenizer)
    copied.backend_tokenizer.no_truncation()
    copied.backend_tokenizer.no_padding()
    return copied


def pack(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, stated: Stated
) -> dict[str, Tensor]:
    """{name of the file: its bytes, uint8}, as `write` writes them; {} for a model with code of its own."""
    if getattr(config, "auto_map", None):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), tokenizer, config, stated)
        return read_text_files(Path(folder))


def digest(files: Mapping[str, Tensor]) -> str:
    """SHA-256 of the files that `pack` returned: it tells apart tokenizers and configurations of the text model."""
    total = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].numpy().tobytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


@contextmanager
def unpacked(files: Mapping[str, Tensor]) -> Iterator[str]:
    """A temporary folder that holds the files that `pack` returned.

    Raises ConfigError for a name that is a path or has a suffix that no file of a tokenizer has.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if Path(name).name != name or Path(name).suffix not in TEXT_SUFFIXES:
                raise ConfigError(
                    f"the checkpoint's text model has a file {name!r}, which no tokenizer has; it is not written"
                )
            Path(folder, name).write_bytes(content.numpy().tobytes())
        yield folder
