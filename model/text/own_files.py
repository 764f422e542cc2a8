"""The text model's configuration and tokenizer as files inside a checkpoint, so that it needs no folder beside it."""

import copy
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from model.text.stated import Stated, write_stated
from model.weights.listed import TEXT_SUFFIXES
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
    _unused(tokenizer).save_pretrained(folder)
    config.save_pretrained(folder)
    write_stated(folder, stated)


def _unused(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy without the lengths of its last use, so that a model's files are the same whatever it has embedded."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer
    unused = copy.deepcopy(tokenizer)
    unused.backend_tokenizer.no_truncation()
    unused.backend_tokenizer.no_padding()
    return unused


def pack(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, stated: Stated
) -> dict[str, Tensor]:
    """{name of the file: its bytes, uint8}, as `write` writes them; {} for a model with code of its own."""
    if getattr(config, "auto_map", None):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), tokenizer, config, stated)
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in sorted(Path(folder).iterdir())
            if path.suffix in TEXT_SUFFIXES and path.stat().st_size
        }


def digest(files: Mapping[str, Tensor]) -> str:
    """SHA-256 of the files that `pack` returned: another tokenizer or another shape gives another one."""
    total = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].numpy().tobytes()).hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


@contextmanager
def unpacked(files: Mapping[str, Tensor]) -> Iterator[str]:
    """A temporary folder that holds the files that `pack` returned. Raises ConfigError for other names."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if Path(name).name != name or Path(name).suffix not in TEXT_SUFFIXES:
                raise ConfigError(
                    f"the checkpoint's text model has a file {name!r}, which no tokenizer has; it is not written"
                )
            Path(folder, name).write_bytes(content.numpy().tobytes())
        yield folder
