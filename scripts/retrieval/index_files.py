"""The files of an index folder: written so that a kill at any moment leaves a whole index, checked when they are read.

    manifest.json     kind, number of rows, width, checkpoint and its hash, and under "files" the names and hashes of
    index.faiss       the vectors; index.2.faiss after the first update, and so on
    rows.jsonl        what each vector is of: line i belongs to vector i; rows.2.jsonl after the first update

The manifest is written last, atomically: it alone says which files are the index.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parse_config import UserError
from scripts.retrieval.faiss_index import EFFORT_OPTION, KINDS, import_faiss
from scripts.retrieval.features import Row, read_json, read_lines, write_lines
from trainer.files import atomic_write, sha256, write_json

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
FAISS_CLASSES = {"flat": "IndexFlat", "ivf": "IndexIVF", "hnsw": "IndexHNSW"}
REQUIRED_FIELDS = {
    "index": str,
    "rows": int,
    "width": int,
    "files": dict,
    "checkpoint": str,
    "checkpoint_sha256": str,
    "features": str,
    "min_recall": float | int,
    "trained_rows": int,
    "kind_by_size": bool,
}
BUILD_AGAIN = "build it again with scripts/index.py build"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its fields checked. Raises UserError, FileNotFoundError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: holds no {MANIFEST}; give a folder that scripts/index.py build made"
        )
    manifest = read_json(path, BUILD_AGAIN)
    if manifest.get("format") != FORMAT_VERSION:
        raise UserError(
            f"{path}: was written by another version of scripts/index.py; {BUILD_AGAIN}"
        )
    for name, field_type in REQUIRED_FIELDS.items():
        if not isinstance(manifest.get(name), field_type):
            raise UserError(f"{path}: has no valid {name!r}; {BUILD_AGAIN}")
    index_kind = manifest["index"]
    if index_kind not in KINDS:
        raise UserError(
            f"{path}: index is {index_kind!r}; known: {', '.join(KINDS)}; {BUILD_AGAIN}"
        )
    if index_kind in EFFORT_OPTION and EFFORT_OPTION[index_kind] not in manifest:
        raise UserError(f"{path}: has no {EFFORT_OPTION[index_kind]!r}; {BUILD_AGAIN}")
    effort = manifest.get(EFFORT_OPTION.get(index_kind, ""), 1)
    if not isinstance(effort, int) or effort < 1:
        raise UserError(
            f"{path}: {EFFORT_OPTION[index_kind]} is {effort!r}, 1 or more is needed; {BUILD_AGAIN}"
        )
    return manifest


def file_path(folder: Path, manifest: dict[str, Any], content: str) -> Path:
    """Path of the file that holds `content`, "index" or "rows", which is as the manifest says.

    Raises FileNotFoundError; UserError if it is another file than the one that the manifest was written with.
    """
    entry = manifest["files"].get(content)
    if not isinstance(entry, dict) or not {"name", "sha256"} <= set(entry):
        raise UserError(
            f"{folder / MANIFEST}: does not name the file of its {content}; {BUILD_AGAIN}"
        )
    path = folder / Path(str(entry["name"])).name
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: holds no {path.name}; {BUILD_AGAIN}")
    if sha256(path) != entry["sha256"]:
        raise UserError(
            f"{path}: is not the file that {MANIFEST} was written with (cut, changed, or of another build); "
            f"{BUILD_AGAIN}"
        )
    return path


def read_rows(folder: Path, manifest: dict[str, Any]) -> list[Row]:
    """The rows. Raises what `file_path` raises, and UserError if they are not as many as the manifest says."""
    path = file_path(folder, manifest, "rows")
    rows = read_lines(path)
    if len(rows) != manifest["rows"]:
        raise UserError(
            f"{path}: holds {len(rows)} rows, and {MANIFEST} says {manifest['rows']}; {BUILD_AGAIN}"
        )
    return rows


def read_faiss(folder: Path, manifest: dict[str, Any]) -> Any:
    """The faiss index, in main memory.

    Raises what `file_path` raises, and UserError for another kind, metric or shape than the manifest says.
    """
    faiss = import_faiss()
    path = file_path(folder, manifest, "index")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise UserError(
            f"{path}: cannot be read ({str(error).splitlines()[-1]}); {BUILD_AGAIN}"
        ) from None
    index_kind = manifest["index"]
    if not isinstance(index, getattr(faiss, FAISS_CLASSES[index_kind])):
        raise UserError(
            f"{path}: is a {type(index).__name__}, and {MANIFEST} says {index_kind}; {BUILD_AGAIN}"
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise UserError(
            f"{path}: compares by another metric than the inner product; {BUILD_AGAIN}"
        )
    shape = (index.ntotal, index.d)
    expected_shape = (manifest["rows"], manifest["width"])
    if shape != expected_shape:
        raise UserError(
            f"{path}: holds {shape[0]} vectors of {shape[1]}, and {MANIFEST} says {expected_shape[0]} of "
            f"{expected_shape[1]}; {BUILD_AGAIN}"
        )
    return index


def write_new(
    folder: Path, index: Any, rows: Iterable[Row], manifest: dict[str, Any]
) -> None:
    """Writes a new index folder: into a temporary one, which is renamed. Raises OSError."""
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write_generation(temporary, 1, index, rows, manifest)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(
    folder: Path, index: Any, rows: Iterable[Row], manifest: dict[str, Any]
) -> None:
    """Puts another index into a folder that holds one: under new names, then the manifest, then the old are removed.

    Raises OSError.
    """
    generation = read_manifest(folder).get("generation", 1) + 1
    try:
        _write_generation(folder, generation, index, rows, manifest)
    finally:
        remove_unnamed(folder)


def remove_unnamed(folder: Path) -> None:
    """Removes the files of earlier generations, and those that a killed update has left."""
    named = {entry["name"] for entry in read_manifest(folder)["files"].values()}
    for pattern in ("index.*faiss", "rows.*jsonl", ".*.part"):
        for path in folder.glob(pattern):
            if path.name not in named:
                path.unlink()


def _write_generation(
    folder: Path,
    generation: int,
    index: Any,
    rows: Iterable[Row],
    manifest: dict[str, Any],
) -> None:
    """Writes the vectors and rows under names of the generation, counted from 1, then the manifest. Raises OSError."""
    suffix = "" if generation == 1 else f"{generation}."
    index_path = folder / f"index.{suffix}faiss"
    rows_path = folder / f"rows.{suffix}jsonl"
    files = {"index": _write_faiss(index_path, index)}
    write_lines(rows_path, rows)
    files["rows"] = {"name": rows_path.name, "sha256": sha256(rows_path)}
    content = {
        "format": FORMAT_VERSION,
        "generation": generation,
        **manifest,
        "files": files,
    }
    write_json(folder / MANIFEST, content, indent=1)


def _write_faiss(path: Path, index: Any) -> dict[str, str]:
    """Writes a faiss index atomically -> its entry in the manifest's "files".

    faiss's own writing to a file says nothing when its last block does not fit on the disk.
    """
    faiss = import_faiss()
    digest = hashlib.sha256()
    with atomic_write(path, "wb") as file:

        def write(block: bytes) -> None:
            digest.update(block)
            file.write(block)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
    return {"name": path.name, "sha256": digest.hexdigest()}


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/index.py --help")
