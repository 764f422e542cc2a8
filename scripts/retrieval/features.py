"""A folder of features, as scripts/extract.py writes it and others read it.

    manifest.json     checkpoint and its hash, source, options, number of rows, whether it is complete
    rows.jsonl        the rows to extract: one per line, {"id", "path", "start", "end"} or {"id", "text"}, and the hash
                      of the file, by which a later run knows what has changed
    shards/00000.safetensors ("features", float32) or .npy, and 00000.json with the rows of it that could not be read
    ids.jsonl         the extracted rows: line i belongs to row i of all shards one after another
    bad_files.jsonl   the rows that could not be read, and why

Every file is written atomically. n rows of a shard, E joint width.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parse_config import UserError
from trainer.files import atomic_write

FORMAT_VERSION = 2
REQUIRED_FIELDS = (
    "kind",
    "checkpoint",
    "checkpoint_sha256",
    "source",
    "segments",
    "precision",
    "files",
    "width",
)
NOT_COMPLETE = "is not complete; run the same scripts/extract.py again, it goes on"
EXTRACT_AGAIN = (
    "remove the folder and run scripts/extract.py again, or give another folder"
)
SHARD_FORMATS = ("safetensors", "npy")
# of an exported folder: they decide its features
HASHED_FILES = ("config.json", "model.safetensors")
Row = dict[str, Any]


class Features:
    """A complete folder: `manifest`, `rows` (of ids.jsonl), `width`, and the shards in order.

    Raises UserError for an incomplete folder, FileNotFoundError for another one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest_path = folder / "manifest.json"
        if not manifest_path.is_file() and (folder / "rows.jsonl").is_file():
            raise UserError(f"{folder}: {NOT_COMPLETE}")
        if not manifest_path.is_file():
            raise FileNotFoundError(
                f"{folder}: holds no manifest.json; give a folder that scripts/extract.py wrote"
            )
        self.manifest = read_json(manifest_path, EXTRACT_AGAIN)
        if not self.manifest.get("complete"):
            raise UserError(f"{folder}: {NOT_COMPLETE}")
        for name in REQUIRED_FIELDS:
            if name not in self.manifest:
                raise UserError(f"{manifest_path}: has no {name!r}; {EXTRACT_AGAIN}")
        self.rows = read_lines(folder / "ids.jsonl")
        self.width: int = self.manifest["width"]
        if len(self.rows) != self.manifest.get("rows", len(self.rows)):
            raise UserError(
                f"{folder / 'ids.jsonl'}: holds {len(self.rows)} rows, and manifest.json says "
                f"{self.manifest['rows']}; {EXTRACT_AGAIN}"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def shards(self) -> Iterator[np.ndarray]:
        """Yields float32 (n, E) of each shard; together as many rows as `rows`. Raises UserError."""
        num_rows = 0
        for path in sorted(
            (self.folder / "shards").glob(f"*.{self.manifest['files']}")
        ):
            shard_nE = load_shard(path)
            if shard_nE.ndim != 2 or shard_nE.shape[1] != self.width:
                raise UserError(
                    f"{path}: holds features of shape {shard_nE.shape}, and manifest.json says a width of "
                    f"{self.width}; {EXTRACT_AGAIN}"
                )
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
            content = (
                io.BytesIO()
            )  # for numpy's own writing does not say that the disk is full
            np.save(content, features_nE)
            file.write(content.getbuffer())


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as JSON lines, atomically."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(_json_line(row) + "\n")


def read_lines(path: Path) -> list[Row]:
    """Reads the rows of a file of JSON lines. Raises UserError for a line that is no object, OSError."""
    rows = []
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}, line {number}: is no JSON object (cut, or changed); make the folder again"
                )
            rows.append(row)
    return rows


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object. Raises UserError with the remedy for another one, OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON file ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no JSON object; {remedy}")
    return content


def _json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON in readable characters; escaped where file names are not valid UTF-8."""
    line = json.dumps(row, ensure_ascii=False)
    if line.encode(errors="replace").decode() == line:
        return line
    return json.dumps(row)


def hash_checkpoint(checkpoint: str | Path) -> str:
    """SHA-256 of a checkpoint file, of that which a run folder holds, or of what decides an exported folder's features.

    Raises FileNotFoundError.
    """
    checkpoint = Path(checkpoint)
    paths = [checkpoint]
    if checkpoint.is_dir():
        paths = _files_of_folder(checkpoint)
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _files_of_folder(folder: Path) -> list[Path]:
    """The files that decide the features of a run folder or an exported folder."""
    # it takes torch, and the index is read without
    from model.weights.read import find

    weights = find(folder)
    if weights.name in HASHED_FILES:
        return [folder / name for name in HASHED_FILES]
    return [weights]


def hash_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of a list of rows of plain data; times of files do not count."""
    digest = hashlib.sha256()
    for row in rows:
        row = {key: value for key, value in row.items() if key != "stamp"}
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
