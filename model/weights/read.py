"""Checkpoint files -> tensors and plain data, on the CPU; never runs what is in the file.

Formats: torch.save's (zip since torch 1.6, and the legacy one before), safetensors, and folders that hold one.
"""

import io
import json
import os
import pickle
import re
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
from model.weights.listed import LIST, TEXT, WEIGHTS, check_files, read_text_files
from model.weights.safe_unpickler import Named, SafeUnpickler, UnsafeCheckpoint, plain
from parse_config import ConfigError

# magic number and version of torch.save before 1.6
LEGACY_HEADER = (0x1950A86A20F9469CFC6C, 1001)
# What the weights in an exported folder are called; the first wins.
FOLDER_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.pth",
    "open_clip_model.safetensors",
)
# What a run's checkpoints are called; the first wins.
RUN_CHECKPOINTS = ("model_best.pth", "checkpoint-latest.pth")
# What reading a damaged file raises.
DAMAGE_ERRORS = (
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


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """{"state_dict": name -> tensor, and what else the file holds, as plain data}; all tensors on the CPU.

    Objects of classes that are not built become {"class": name, attribute: value, ...}. A bare dict of tensors becomes
    the state_dict. Raises FileNotFoundError; UnsafeCheckpoint for a file that calls anything; ConfigError for one that
    is damaged or no checkpoint.
    """
    return _read(find(path), with_values=True)


def read_skeleton(path: str | Path) -> dict[str, Any]:
    """What `read_checkpoint` returns and raises, with tensors on the device "meta": shapes without values.

    Tensors of bytes, which hold small files, have their values. Of a large zip file only a small part is read.
    """
    return _read(find(path), with_values=False)


def find_damage(path: str | Path) -> str:
    """What is wrong with a zip file of torch.save, by the checksums of all that is in it; "" if nothing is.

    Raises OSError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, Path(path).stat().st_size)
            bad_member = archive.testzip()
    except DAMAGE_ERRORS as error:
        return str(error) or type(error).__name__
    return f"{bad_member} has another checksum" if bad_member else ""


def _read(path: Path, with_values: bool) -> dict[str, Any]:
    """`read_checkpoint` of a file; without values the tensors are on the device "meta"."""
    try:
        if path.suffix == ".safetensors":
            config_beside = _config_beside(path)
            return {"state_dict": load_file(path), **config_beside}
        with path.open("rb") as file:
            content = plain(_read_pickle(file, with_values))
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(
            f"{path}: refused, because reading it would {error}; nothing of it was run. Get the "
            f"weights as .safetensors, or have someone who trusts the file save its state_dict "
            f"alone"
        ) from None
    except ConfigError as error:
        if str(error).startswith(str(path.parent)):
            raise
        raise ConfigError(f"{path}: {error}") from None
    except DAMAGE_ERRORS as error:
        raise ConfigError(
            f"{path}: is damaged or no checkpoint ({type(error).__name__}: {error}); "
            f"{path.stat().st_size:,} bytes, get it again"
        ) from None
    return _with_state_dict(content, path)


def find(path: str | os.PathLike) -> Path:
    """The file itself, or the one that a folder holds: an exported model's, or a run's best, else latest checkpoint.

    Of a run with stages that of the last stage that has one. FileNotFoundError says where it was looked for.
    """
    if not str(path):
        raise ConfigError(
            "the path of the model is empty; give a checkpoint, a run folder or an exported folder"
        )
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        stages = sorted(path.glob("stage*/"), key=stage_number, reverse=True)
        candidate_files = [path / name for name in FOLDER_WEIGHTS]
        for folder in (path, *stages):
            candidate_files += [folder / name for name in RUN_CHECKPOINTS]
        for candidate in candidate_files:
            if candidate.is_file():
                return candidate
        raise FileNotFoundError(
            f"{path}: is a folder without a model: neither {' nor '.join(RUN_CHECKPOINTS)} of a run, nor "
            f"{', '.join(FOLDER_WEIGHTS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint (looked for {path.absolute()})"
        )
    return path


def stage_number(folder: Path) -> int:
    """stage2_finetune -> 2; 0 for a folder that is no stage's."""
    match = re.match(r"stage(\d+)", folder.name)
    return int(match[1]) if match else 0


def _read_pickle(file: BinaryIO, with_values: bool) -> Any:
    """What a file of torch.save holds, by its format."""
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file, with_values)
    if start[:1] == b"<":
        raise ConfigError("is no checkpoint but a web page: get the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ConfigError("is no checkpoint but a Git LFS pointer: get the file itself")
    is_pickle = start.startswith(b"\x80")
    if start[257:262] == b"ustar" or (not is_pickle and tarfile.is_tarfile(file)):
        raise ConfigError(
            "is a tar archive; unpack it and give the checkpoint inside (torch's own tar format of 2016 "
            "is not read)"
        )
    return _read_legacy(file)


def _read_zip(file: BinaryIO, with_values: bool) -> Any:
    """The content of a zip file of torch.save. Raises ConfigError, and `DAMAGE_ERRORS` for a damaged one."""
    with zipfile.ZipFile(file) as archive:
        _check_members(archive, os.fstat(file.fileno()).st_size)
        names = set(archive.namelist())
        roots = [
            name.removesuffix("data.pkl")
            for name in names
            if name.split("/")[-1] == "data.pkl"
        ]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in names:
            raise ConfigError(
                "is no checkpoint of torch.save but another zip archive (TorchScript programs are "
                "refused)"
            )
        root = roots[0]
        if (
            f"{root}byteorder" in names
            and archive.read(f"{root}byteorder") != b"little"
        ):
            raise ConfigError(
                "was written on a big-endian machine; save it again on a little-endian one"
            )

        def fetch(key: str, size: int) -> Tensor:
            content = bytearray(archive.read(f"{root}data/{key}"))
            if not content:
                return torch.empty(0, dtype=torch.uint8)
            return torch.frombuffer(content, dtype=torch.uint8)

        # read whole, because only then its checksum is compared
        data = io.BytesIO(archive.read(f"{root}data.pkl"))
        storages = _storage_loader(fetch, with_values)
        return SafeUnpickler(data, CALLS, storages).load()


def _check_members(archive: zipfile.ZipFile, file_size: int) -> None:
    """BadZipFile for members that torch.save does not write: compressed ones, or more than fits into the file."""
    members = archive.infolist()
    compressed = [
        member.filename
        for member in members
        if member.compress_type != zipfile.ZIP_STORED
    ]
    if compressed:
        raise zipfile.BadZipFile(
            f"{compressed[0]} is compressed, which torch.save does not do"
        )
    if sum(member.file_size for member in members) > file_size:
        raise zipfile.BadZipFile("its members are larger than the file")


def _read_legacy(file: BinaryIO) -> Any:
    """The format before torch 1.6: pickles one after the other, then the raw content of each storage."""

    def load(load_storage: Callable[[Any], Any] = _no_storage) -> Any:
        return SafeUnpickler(file, CALLS, load_storage).load()

    if (load(), load()) != LEGACY_HEADER:
        raise ConfigError("is a pickle, but none that torch.save wrote")
    load()  # facts of the machine that wrote it
    file_size = os.fstat(file.fileno()).st_size
    storages: dict[str, Tensor] = {}

    def fetch(key: str, size: int) -> Tensor:
        storages[key] = torch.empty(0, dtype=torch.uint8)
        if size + sum(map(len, storages.values())) > file_size:
            raise EOFError(f"storage {key} is larger than the file")
        storages[key] = torch.empty(size, dtype=torch.uint8)
        return storages[key]

    content = load(_storage_loader(fetch))
    for key in load():
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(len(storages[key]))
        if len(raw) != len(storages[key]) or count < 0:
            raise EOFError(f"storage {key} is cut off")
        if raw:
            storages[key].copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
    return content


def _no_storage(persistent_id: Any) -> None:
    """For pickles without tensors."""
    return None


def _storage_loader(
    fetch: Callable[[str, int], Tensor], with_values: bool = True
) -> Callable[[Any], Any]:
    """Persistent ids ("storage", type, key, device, elements[, view]) -> flat tensors; one memory for each key.

    fetch: (key, size in bytes) -> uint8 (size,)
    with_values: false fetches storages of bytes alone; the others are on the device "meta"
    """
    memory: dict[str, Tensor] = {}

    def load_storage(persistent_id: Any) -> Any:
        category, name, key, _, count, *view = persistent_id
        if category == "module":
            return name
        if category != "storage" or not isinstance(name, Named):
            raise UnsafeCheckpoint(f"read a persistent object {category!r}")
        dtype = storage_type(name)
        if key not in memory:
            size = count * dtype.itemsize
            if with_values or dtype is torch.uint8:
                memory[key] = fetch(key, size)
            else:
                memory[key] = torch.empty(size, dtype=torch.uint8, device="meta")
        flat = memory[key].view(dtype)
        if view and view[0]:
            _, start, length = view[0]
            return flat[start:][:length]
        return flat

    return load_storage


def _config_beside(path: Path) -> dict[str, Any]:
    """{"config", "text_files"} of the folder that a .safetensors file lies in; {} without a config.json there."""
    config_path = path.parent / "config.json"
    if not config_path.is_file():
        return {}
    config = read_json(config_path)
    if path.name in (config.get(LIST) or {}):
        check_files(path.parent, config[LIST])
    return {"config": config, **_text_files_beside(path)}


def _text_files_beside(path: Path) -> dict[str, Any]:
    """The text model's files of an exported folder, as this project's checkpoints hold them; {} for another folder."""
    folder = path.parent / TEXT
    if path.name != WEIGHTS or not (folder / "config.json").is_file():
        return {}
    return {"text_files": read_text_files(folder)}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError for one that holds none, OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON ({error}); get it again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no object in braces; get it again")
    return content


def _with_state_dict(content: Any, path: Path) -> dict[str, Any]:
    """The file's content with its weights under "state_dict", wherever they were."""
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{path}: holds no state_dict (a dict of tensors), but {type(content).__name__}"
        )
    if _is_state_dict(content):
        return {"state_dict": content}
    for key in ("state_dict", "model"):
        state_dict = content.get(key)
        if _is_state_dict(state_dict):
            rest = {
                name: value
                for name, value in content.items()
                if value is not state_dict
            }
            return {**rest, "state_dict": state_dict}
    raise ConfigError(
        f"{path}: holds no state_dict (a dict of tensors), but {', '.join(map(str, content))}"
    )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )
