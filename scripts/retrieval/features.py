"""A folder of features, as scripts/extract.py writes it and others read it.

    manifest.json     checkpoint and its hash, source, options, number of rows, whether it is complete
    rows.jsonl        the rows to extract: one per line, {"id", "path", "start", "end"} or {"id", "text"}
    shards/00000.safetensors ("features", float32) or .npy, and 00000.json with the rows of it that could not be read
    ids.jsonl         the extracted rows: line i belongs to row i of all shards one after another
    bad_files.jsonl   the rows that could not be read, and why

Every file is written atomically. n rows of a shard, E joint width.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError
from trainer.files import atomic_write

FORMAT_VERSION = 1
SHARD_FORMATS = ("safetensors", "npy")
Row = dict[str, Any]


class Features:
    """A complete folder: `manifest`, `rows` (of ids.jsonl), `width`, and the shards in order.

    Raises UserError for an incomplete folder, FileNotFoundError for another one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest_path = folder / "manifest.json"
        if not manifest_path.is_file():
            raise FileNotFoundError(
                f"{folder}: holds no manifest.json; give a folder that scripts/extract.py wrote"
            )
        self.manifest: dict[str, Any] = json.loads(
            manifest_path.read_text(encoding="utf-8")
        )
        if not self.manifest.get("complete"):
            raise UserError(
                f"{folder}: is not complete; run the same scripts/extract.py again, it goes on"
            )
        self.rows = read_lines(folder / "ids.jsonl")
        self.width: int = self.manifest["width"]

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> Iterator[np.ndarray]:
        """Yields float32 (n, E) of each shard; together as many rows as `rows`. Raises UserError."""
        num_rows = 0
        for path in sorted(
            (self.folder / "shards").glob(f"*.{self.manifest['files']}")
        ):
            shard_nE = load_shard(path)
            num_rows += len(shard_nE)
            yield shard_nE
        if num_rows != len(self):
            raise UserError(
                f"{self.folder}: its shards hold {num_rows} rows and ids.jsonl {len(self)}; a shard is gone: "
                "set complete to false in manifest.json and run scripts/extract.py again"
            )

    def read_all(self) -> np.ndarray:
        """Reads all shards -> float32 (rows, E)."""
        return np.concatenate([np.zeros((0, self.width), np.float32), *self.shards()])


def load_shard(path: Path) -> np.ndarray:
    """Reads the (n, E) features of one shard. Raises UserError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)["features"]
        return np.load(path, allow_pickle=False)
    except (SafetensorError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{path}: is damaged ({error}); remove it, set complete to false in manifest.json, and run "
            "scripts/extract.py again"
        ) from None


def save_shard(path: Path, features_nE: np.ndarray) -> None:
    """Writes one shard atomically, in the format of the path's suffix."""
    from safetensors.numpy import save

    with atomic_write(path, "wb") as file:
        if path.suffix == ".safetensors":
            file.write(save({"features": np.ascontiguousarray(features_nE)}))
        else:
            np.save(file, features_nE)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as JSON lines, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(_json_line(row) + "\n")


def read_lines(path: Path) -> list[Row]:
    """Reads the rows of a file of JSON lines."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def _json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON in readable characters; escaped where file names are not valid UTF-8."""
    line = json.dumps(row, ensure_ascii=False)
    if line.encode(errors="replace").decode() == line:
        return line
    return json.dumps(row)


def local_path(checkpoint: str | Path) -> Path:
    """A checkpoint file, the one that a run folder holds, or the exported folder that a hub id was downloaded to."""
    from model import hub, pretrained
    from model.weights.read import find

    if hub.is_hub_id(checkpoint):
        return pretrained.locate(checkpoint)
    return find(checkpoint)


def hash_checkpoint(checkpoint: str | Path) -> str:
    """SHA-256 of a checkpoint file, or of all files of an exported folder that decide its features.

    Preprocessing and tokenizer are among those. Raises FileNotFoundError, ConfigError.
    """
    from model.weights.listed import fingerprint

    return fingerprint(local_path(checkpoint))


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of a list of rows of plain data."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
