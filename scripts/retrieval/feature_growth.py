"""Updates a folder of features after its source has changed: what earlier runs computed, the switch to the new state.

While the folder grows it stays as it was: the new state is written into a hidden folder in it, and takes its place when
it is whole. A kill leaves the old state, or one that the next run finishes.
"""

import json
import os
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.retrieval.contents import KnownContents
from scripts.retrieval.features import Row, load_shard, read_lines

MANIFEST = "manifest.json"
# in the order in which they are moved: the manifest, the last, says that all are
CONTENT_NAMES = ("shards", "rows.jsonl", "ids.jsonl", "bad_files.jsonl", MANIFEST)
# the folder of the new state while it is written; the hash of the list of rows follows
GROWING = ".growing-"
# the folder of the new state when it is whole, until its files are moved
READY = ".ready"
CACHED_SHARDS = 4

# what a row's features depend on, see `row_key` and `video_key`; None where the content of the file is not known
VideoKey = tuple[Any, ...] | None


class Known(NamedTuple):
    """Where the features of a row are.

    shard: the file. position: row of its array, where the video could be read. reason: why it could not, else None.
    """

    shard: Path
    position: int
    reason: str | None


class KnownFeatures:
    """The features of earlier states of a folder, by the content of their files."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._known: dict[VideoKey, Known] = {}
        for folder in folders:
            self._add(folder)
        self._load = lru_cache(CACHED_SHARDS)(load_shard)

    def __contains__(self, row: Row) -> bool:
        return row_key(row) in self._known

    def reason(self, row: Row) -> str | None:
        """Why a known row could not be read; None if it could."""
        return self._known[row_key(row)].reason

    def feature(self, row: Row) -> np.ndarray:
        """The feature (E,) of a known row that could be read."""
        known = self._known[row_key(row)]
        return self._load(known.shard)[known.position]

    def count_gone(self, rows: Iterable[Row]) -> int:
        """How many known rows are not among `rows`."""
        return len(set(self._known) - {row_key(row) for row in rows})

    def _add(self, folder: Path) -> None:
        """Adds the rows of the shards that a folder has."""
        rows = read_lines(folder / "rows.jsonl")
        shard_rows = read_shard_rows(folder)
        for report_path in sorted((folder / "shards").glob("[0-9]*.json")):
            shard_path = _shard_path(report_path)
            if shard_path is None:
                continue
            report = json.loads(report_path.read_text(encoding="utf-8"))
            reasons = dict(report["bad"])
            start = int(report_path.stem) * shard_rows
            position = 0
            for number in range(start, min(start + shard_rows, len(rows))):
                key = row_key(rows[number])
                reason = reasons.get(number)
                if key is not None:
                    self._known[key] = Known(shard_path, position, reason)
                position += reason is None


def _shard_path(report_path: Path) -> Path | None:
    """The features that belong to the report of a shard, which a killed run may not have written."""
    for suffix in (".safetensors", ".npy"):
        path = report_path.with_suffix(suffix)
        if path.is_file():
            return path
    return None


def read_shard_rows(folder: Path) -> int:
    """Rows per shard of a folder, by its manifest."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return manifest["shard_rows"]


def row_key(row: Row) -> VideoKey:
    """All that a row's features depend on, besides the options of the run; None if the file's content is not known."""
    if "text" in row:
        return ("text", row["text"])
    key = video_key(row)
    if key is None:
        return None
    return (*key, row["start"], row["end"])


def video_key(row: Row) -> VideoKey:
    """All that the segments and frames of a video depend on: content, extension, data set, whole span in seconds."""
    if row.get("sha256") is None:
        return None
    suffix = os.path.splitext(row["path"])[1].lower()
    whole_span = row.get("whole", [row["start"], row["end"]])
    return (row["sha256"], suffix, row.get("set"), *whole_span)


def earlier_states(folder: Path) -> list[Path]:
    """The folder, and the hidden ones in it that killed runs have left, as far as they hold rows."""
    states = [folder, *sorted(folder.glob(f"{GROWING}*"))]
    return [
        state
        for state in states
        if (state / MANIFEST).is_file() and (state / "rows.jsonl").is_file()
    ]


def known_contents(folder: Path) -> KnownContents:
    """Stamp and hash of every file that an earlier run has read."""
    known: KnownContents = {}
    for state in earlier_states(folder):
        for row in read_lines(state / "rows.jsonl"):
            if row.get("stamp") is not None:
                known[row["path"]] = (row["stamp"], row["sha256"])
    return known


def known_segments(folder: Path) -> dict[VideoKey, list[Row]]:
    """The rows of the segments of every video that an earlier run has divided."""
    known: dict[VideoKey, list[Row]] = {}
    for state in earlier_states(folder):
        rows_by_path: dict[tuple[str, VideoKey], list[Row]] = {}
        for row in read_lines(state / "rows.jsonl"):
            key = video_key(row)
            if key is not None and "whole" in row:
                rows_by_path.setdefault((row["path"], key), []).append(row)
        known |= {key: rows for (_, key), rows in rows_by_path.items()}
    return known


def growing_folder(folder: Path, listed_sha256: str) -> Path:
    """Where the state with this list of rows is written."""
    return folder / f"{GROWING}{listed_sha256[:16]}"


def take_place(folder: Path, growing: Path) -> None:
    """Puts the whole new state into the place of the old one."""
    os.rename(growing, folder / READY)
    finish_change(folder)


def finish_change(folder: Path) -> None:
    """Moves the files of a whole new state, if there is one, to their places, also where a killed run has begun it."""
    ready = folder / READY
    if not ready.is_dir():
        return
    if (ready / MANIFEST).is_file():
        (folder / MANIFEST).unlink(missing_ok=True)  # nobody reads a mixture
    for name in CONTENT_NAMES:
        if (ready / name).exists():
            _remove(folder / name)
            os.rename(ready / name, folder / name)
    _remove(ready)
    remove_growing(folder)


def remove_growing(folder: Path) -> None:
    """Removes states that were begun and are not needed any more."""
    for growing in folder.glob(f"{GROWING}*"):
        _remove(growing)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
