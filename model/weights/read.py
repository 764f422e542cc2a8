"""Checkpoint files -> tensors and plain data, on the CPU; never runs what is in the file.

Formats: torch.save's (zip since torch 1.6, and the legacy one before), safetensors, and folders that hold one.
"""

import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.weights.allowed_calls import CALLS, storage_type
from model.weights.safe_unpickler import Named, SafeUnpickler, UnsafeCheckpoint, plain
from parse_config import ConfigError

LEGACY = 0x1950A86A20F9469CFC6C, 1001  # magic number and version of torch.save before 1.6
FOLDER = ("model.safetensors", "pytorch_model.bin", "model.pth", "open_clip_model.safetensors")
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    AssertionError,
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """{"state_dict": name -> tensor, and what else the file holds, as plain data}; all tensors on the CPU.

    Objects of classes that are not built become {"class": name, attribute: value, ...}. A bare dict of tensors becomes
    the state_dict. Raises FileNotFoundError; UnsafeCheckpoint for a file that calls anything; ConfigError for one that
    is damaged or no checkpoint.
    """
    path = find(path)
    try:
        if path.suffix == ".safetensors":
            return {"state_dict": load_file(path), **_beside(path)}
        with path.open("rb") as file:
            content = plain(_open(file))
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(
            f"{path}: refused, because reading it would {error}; nothing of it was run. Get the "
            f"weights as .safetensors, or have someone who trusts the file save its state_dict "
            f"alone"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except DAMAGED as error:
        raise ConfigError(
            f"{path}: is damaged or no checkpoint ({type(error).__name__}: {error}); "
            f"{path.stat().st_size:,} bytes, get it again"
        ) from None
    return _with_state_dict(content, path)


def find(path: str | Path) -> Path:
    """The file itself, or the one that a folder holds; FileNotFoundError saying where it was looked for."""
    path = Path(path)
    if path.is_dir():
        inside = [path / name for name in FOLDER if (path / name).is_file()]
        if not inside:
            raise FileNotFoundError(f"{path}: is a folder without {', '.join(FOLDER)}")
        return inside[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint (looked for {path.absolute()})")
    return path


def _open(file: BinaryIO) -> Any:
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file)
    if start[:1] == b"<" or start.startswith(b"version https://git-lfs"):
        raise ConfigError(
            f"is no checkpoint but {'a web page' if start[:1] == b'<' else 'a Git LFS pointer'}: get the "
            f"file itself"
        )
    if start[257:262] == b"ustar" or not start.startswith(b"\x80") and tarfile.is_tarfile(file):
        raise ConfigError(
            "is a tar archive; unpack it and give the checkpoint inside (torch's own tar format of 2016 "
            "is not read)"
        )
    return _read_legacy(file)


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        roots = [
            name.removesuffix("data.pkl") for name in names if name.split("/")[-1] == "data.pkl"
        ]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in names:
            raise ConfigError(
                "is no checkpoint of torch.save but another zip archive (TorchScript programs are "
                "refused)"
            )
        if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != b"little":
            raise ConfigError(
                "was written on a big-endian machine; save it again on a little-endian one"
            )

        def fetch(key: str, size: int) -> Tensor:
            raw = bytearray(archive.read(f"{roots[0]}data/{key}"))
            return (
                torch.frombuffer(raw, dtype=torch.uint8)
                if raw
                else torch.empty(0, dtype=torch.uint8)
            )

        with archive.open(f"{roots[0]}data.pkl") as data:
            return SafeUnpickler(data, CALLS, _storages(fetch)).load()


def _read_legacy(file: BinaryIO) -> Any:
    def read(storage: Callable = lambda _: None) -> Any:
        return SafeUnpickler(file, CALLS, storage).load()

    if (read(), read()) != LEGACY:
        raise ConfigError("is a pickle, but none that torch.save wrote")
    read()  # facts of the machine that wrote it
    room = os.fstat(file.fileno()).st_size
    filled: dict[str, Tensor] = {}

    def fetch(key: str, size: int) -> Tensor:
        filled[key] = torch.empty(0, dtype=torch.uint8)
        if size + sum(map(len, filled.values())) > room:
            raise EOFError(f"storage {key} is larger than the file")
        filled[key] = torch.empty(size, dtype=torch.uint8)
        return filled[key]

    content = read(_storages(fetch))
    for key in read():
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(len(filled[key]))
        if len(raw) != len(filled[key]) or count < 0:
            raise EOFError(f"storage {key} is cut off")
        if raw:
            filled[key].copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
    return content


def _storages(fetch: Callable[[str, int], Tensor]) -> Callable[[Any], Any]:
    """Persistent ids ("storage", type, key, device, elements[, view]) -> flat tensors; one memory for each key."""
    memory: dict[str, Tensor] = {}

    def storage(saved: Any) -> Any:
        kind, name, key, _, count, *view = saved
        if kind == "module":
            return name
        if kind != "storage" or not isinstance(name, Named):
            raise UnsafeCheckpoint(f"read a persistent object {kind!r}")
        dtype = storage_type(name)
        if key not in memory:
            memory[key] = fetch(key, count * dtype.itemsize)
        flat = memory[key].view(dtype)
        return flat[view[0][1] :][: view[0][2]] if view and view[0] else flat

    return storage


def _beside(path: Path) -> dict[str, Any]:
    config = path.parent / "config.json"
    return {"config": json.loads(config.read_text(encoding="utf-8"))} if config.is_file() else {}


def _with_state_dict(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, Mapping):
        for inside in (content.get("state_dict"), content.get("model"), content):
            if (
                isinstance(inside, Mapping)
                and inside
                and all(isinstance(value, Tensor) for value in inside.values())
            ):
                rest = (
                    {}
                    if inside is content
                    else {key: value for key, value in content.items() if value is not inside}
                )
                return {**rest, "state_dict": inside}
    raise ConfigError(
        f"{path}: holds no state_dict (a dict of tensors), but "
        f"{', '.join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__}"
    )
