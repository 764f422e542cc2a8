"""A folder of features, as scripts/extract.py writes it and others read it.

    manifest.json     what made it (checkpoint and its hash, source, options), what is in it, whether it is complete
    rows.jsonl        what was to be done: one line a row {"id", "path", "start", "end"} or {"id", "text"}
    shards/00000.safetensors ("features", float32) or .npy, and 00000.json with what could not be read of that shard
    ids.jsonl         what there is: line i belongs to row i of all shards one after another
    bad_files.jsonl   what there is not, and why

Every file comes into being whole, by renaming. n rows of a shard, E joint width.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError

FORMAT = 1
FILES = ("safetensors", "npy")
WEIGHTS = ("config.json", "model.safetensors")  # of an exported folder: what its features depend on
Row = dict[str, Any]


class Features:
    """A complete folder: `manifest`, `rows` (of ids.jsonl), `width`, and the shards in order. Raises UserError,
    FileNotFoundError."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / "manifest.json").is_file():
            raise FileNotFoundError(
                f"{folder}: holds no manifest.json; give a folder that scripts/extract.py wrote"
            )
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if not self.manifest.get("complete"):
            raise UserError(
                f"{folder}: is not complete; run the same scripts/extract.py again, it goes on"
            )
        self.rows = read_lines(folder / "ids.jsonl")
        self.width: int = self.manifest["width"]

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> Iterator[np.ndarray]:
        """float32 (n, E) of each shard; together as many rows as `rows`."""
        found = 0
        for path in sorted((self.folder / "shards").glob(f"*.{self.manifest['files']}")):
            shard_nE = load(path)
            found += len(shard_nE)
            yield shard_nE
        if found != len(self):
            raise UserError(
                f"{self.folder}: its shards hold {found} rows and ids.jsonl {len(self)}; a shard is gone: "
                "set complete to false in manifest.json and run scripts/extract.py again"
            )

    def all(self) -> np.ndarray:
        """float32 (rows, E)."""
        return np.concatenate([np.zeros((0, self.width), np.float32), *self.shards()])


def load(path: Path) -> np.ndarray:
    """The (n, E) array of one shard."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return (
            load_file(path)["features"]
            if path.suffix == ".safetensors"
            else np.load(path, allow_pickle=False)
        )
    except (SafetensorError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{path}: is damaged ({error}); remove it, set complete to false in manifest.json, and run "
            "scripts/extract.py again"
        ) from None


def save(path: Path, features_nE: np.ndarray):
    """Write one shard in the format that its name says."""
    from safetensors.numpy import save as as_bytes

    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        if path.suffix == ".safetensors":
            file.write(as_bytes({"features": np.ascontiguousarray(features_nE)}))
        else:
            np.save(file, features_nE)
        _settle(file, part, path)


def write_json(path: Path, content: Mapping[str, Any]):
    """All of it or nothing, in place of what was there."""
    _write(path, [json.dumps(content, indent=1)])


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]):
    """The same for JSON lines."""
    _write(path, map(_line, rows))


def read_lines(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def _line(row: Mapping[str, Any]) -> str:
    """Readable, if UTF-8 can say it: names of files need not be text."""
    line = json.dumps(row, ensure_ascii=False)
    return line if line.encode(errors="replace").decode() == line else json.dumps(row)


def _write(path: Path, lines: Iterable[str]):
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
        _settle(file, part, path)


def _settle(file: Any, part: Path, path: Path):
    file.flush()
    os.fsync(file.fileno())
    os.replace(part, path)


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a checkpoint, or of what counts in an exported folder."""
    path, found = Path(path), hashlib.sha256()
    for part in [path / name for name in WEIGHTS] if path.is_dir() else [path]:
        with open(part, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of a list of plain rows."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return found.hexdigest()
