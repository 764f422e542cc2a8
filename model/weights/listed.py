"""Which files make one model: an exported folder's list of their hashes, and the fingerprint of a model on disk."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parse_config import ConfigError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSING = "preprocessor_config.json"
TEXT = "text"
LIST = "files"  # key of config.json
# of a tokenizer's and a configuration's files
TEXT_SUFFIXES = (".json", ".txt", ".model")


def is_exported(folder: Path) -> bool:
    """Whether `folder` is, or was, a folder of scripts/export.py or `save_pretrained`."""
    names = (WEIGHTS, PREPROCESSING)
    return folder.is_dir() and any((folder / name).is_file() for name in names)


def deciding_files(folder: Path) -> list[Path]:
    """The files of an exported folder, without its config.json, that decide what the model computes, in order."""
    files = [folder / WEIGHTS, folder / PREPROCESSING, *(folder / TEXT).rglob("*")]
    return sorted(
        path for path in files if path.is_file() and not path.name.startswith(".")
    )


def list_files(folder: Path) -> dict[str, str]:
    """{name below `folder`: SHA-256} of its `deciding_files`."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in deciding_files(folder)
    }


def check_files(folder: Path, listed: Any) -> None:
    """Raises ConfigError unless the files of `folder` are those of its config.json's list."""
    is_list = isinstance(listed, Mapping) and all(
        isinstance(digest, str) for digest in listed.values()
    )
    if not is_list:
        raise ConfigError(
            f"{folder / CONFIG}: {LIST} is no list of hashes; export the model again"
        )
    actual = list_files(folder)
    for name in sorted(set(listed) - set(actual)):
        raise ConfigError(
            f"{folder}: lacks {name}, a file of this model; get the folder again, or export the model again"
        )
    for name in sorted(set(actual) - set(listed)):
        raise ConfigError(
            f"{folder / name}: is no file of the model in this folder ({CONFIG} does not list it); remove it"
        )
    for name, digest in actual.items():
        if listed[name] != digest:
            raise ConfigError(
                f"{folder / name}: is not the file that was exported with {CONFIG} (another SHA-256); get the folder "
                f"again, or, if the change is meant, remove {LIST!r} from {CONFIG}"
            )


def read_text_files(folder: Path) -> dict[str, Tensor]:
    """{name: content, uint8 (bytes,)} of the text model's files directly in `folder`, without empty ones."""
    return {
        path.name: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        for path in sorted(folder.iterdir())
        if path.suffix in TEXT_SUFFIXES and path.stat().st_size
    }


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a checkpoint file; of an exported folder, or its weights, that of all files that decide embeddings."""
    path = Path(path)
    folder = path.parent if path.name == WEIGHTS else path
    if not is_exported(folder):
        return sha256(path)
    digest = hashlib.sha256()
    for file in (folder / CONFIG, *deciding_files(folder)):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            digest.update(f"{name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
