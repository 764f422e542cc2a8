"""The text model's configuration and tokenizer as files inside a checkpoint, so that it needs no folder beside it."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from parse_config import ConfigError

SUFFIXES = (".json", ".txt", ".model")


def pack(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> dict[str, Tensor]:
    """{name of the file: its bytes, uint8}, as `save_pretrained` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        config.save_pretrained(folder)
        return {
            path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            for path in sorted(Path(folder).iterdir())
            if path.suffix in SUFFIXES and path.stat().st_size
        }


@contextmanager
def unpacked(files: Mapping[str, Tensor]) -> Iterator[str]:
    """A temporary folder that holds the files that `pack` returned. Raises ConfigError for other names."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if Path(name).name != name or Path(name).suffix not in SUFFIXES:
                raise ConfigError(
                    f"the checkpoint's text model has a file {name!r}, which no tokenizer has; it is not written"
                )
            Path(folder, name).write_bytes(content.numpy().tobytes())
        yield folder
