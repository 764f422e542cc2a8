"""The items of a data set as columns: a string column is one utf-8 blob with int64 offsets, a number column an array.

Small tables lie in memory, large ones in memory-mapped files that all workers share: no Python object per row.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.annotations.packed_strings import Strings, pack

VERSION = 1  # of the files: raise it when their layout changes
STRINGS = {
    "id": "surrogatepass",
    "path": "surrogatepass",
    "caption": "replace",
}  # what becomes of lone surrogates
SECONDS = ("start", "end")
Chunk = Mapping[str, Any]


class Table:
    """Rows of (id, path, captions, start, end). Row i owns the captions first[i]..first[i + 1] - 1 of `caption`.

    id, path, caption: Strings. first: int64 (rows + 1,), None where each row has one caption.
    start, end: float64 (rows,) seconds, NaN where a clip is not cut; None where no clip is.
    notes: plain data found while parsing (layout, protocol, ...).
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        notes: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ):
        self.id, self.path, self.caption = (
            Strings(
                arrays.get(f"{name}.blob", np.zeros(0, np.uint8)),
                arrays.get(f"{name}.offsets", np.zeros(1, int)),
            )
            for name in STRINGS
        )
        self.first, self.start, self.end = (arrays.get(name) for name in ("first", *SECONDS))
        self.notes, self.folder = dict(notes or {}), folder
        captions = len(self.id) if self.first is None else int(self.first[-1])
        assert len(self.path) == len(self.id) and len(self.caption) == captions, (
            "columns of unequal length"
        )
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self.id)

    def __reduce__(self):
        return (
            (Table, (self._arrays, self.notes))
            if self.folder is None
            else (Table.open, (self.folder,))
        )

    def captions(self, row: int) -> range:
        """Where the captions of `row` stand in `caption`."""
        return (
            range(row, row + 1)
            if self.first is None
            else range(int(self.first[row]), int(self.first[row + 1]))
        )

    def counts(self) -> np.ndarray:
        """int64 (rows,): how many captions each row has."""
        return np.ones(len(self), np.int64) if self.first is None else np.diff(self.first)

    def cut(self, row: int) -> tuple[float | None, float | None]:
        """(start, end) of `row` in seconds; None where there is none."""
        start, end = (
            None if column is None or np.isnan(column[row]) else float(column[row])
            for column in (self.start, self.end)
        )
        return start, end

    @classmethod
    def from_columns(
        cls, id: Iterable[str], path: Iterable[str], caption: Iterable[str], **numbers
    ) -> "Table":
        """In memory, from whole columns: strings id, path, caption; where needed also numbers count, start, end.

        Without `count` each row has one caption; with it, `caption` holds all captions in the order of the rows.
        """
        return cls.from_chunks([{"id": id, "path": path, "caption": caption, **numbers}])

    @classmethod
    def from_chunks(
        cls, chunks: Iterable[Chunk], notes: Callable[[], Mapping[str, Any]] = dict
    ) -> "Table":
        """In memory, from chunks of columns as `from_columns` takes them; `notes` is asked after the last one."""
        parts: dict[str, list[np.ndarray]] = {}
        for name, array in _arrays(chunks):
            parts.setdefault(name, []).append(array)
        return cls({name: np.concatenate(arrays) for name, arrays in parts.items()}, notes())

    @classmethod
    def write(
        cls, folder: Path, chunks: Iterable[Chunk], notes: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        """`from_chunks` onto the disk, chunk by chunk, for `open`."""
        types: dict[str, str] = {}
        files: dict[str, Any] = {}
        try:
            for name, array in _arrays(chunks):
                if name not in files:
                    files[name] = open(folder / f"{name}.bin", "wb")  # noqa: SIM115 (closed below)
                    types[name] = array.dtype.str
                files[name].write(array.data)
        finally:
            for file in files.values():
                file.close()
        text = json.dumps({"version": VERSION, "types": types, "notes": dict(notes())}, indent=1)
        (folder / "table.json").write_text(text, encoding="utf-8")

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Table":
        """Map what `write` wrote; takes no time and no memory, whatever the size."""
        folder = Path(folder)
        head = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        arrays = {
            name: _mapped(folder / f"{name}.bin", kind) for name, kind in head["types"].items()
        }
        return cls(arrays, head["notes"], folder)


def _mapped(path: Path, kind: str) -> np.ndarray:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, kind)
    return np.asarray(np.memmap(path, kind, "r"))


def _arrays(chunks: Iterable[Chunk]) -> Iterator[tuple[str, np.ndarray]]:
    """Chunks of columns -> (array name, what to append to it); offsets run on from chunk to chunk."""
    ends = dict.fromkeys((*STRINGS, "first"), 0)
    names: set[str] = set()

    def offsets(name: str, lengths: np.ndarray, begins: bool) -> np.ndarray:
        run = ends[name] + np.cumsum(lengths, dtype=np.int64)
        ends[name] = int(run[-1]) if len(run) else ends[name]
        return np.concatenate([np.zeros(1, np.int64), run]) if begins else run

    for chunk in chunks:
        begins = not names
        names = names or set(chunk)
        assert set(chunk) == names and set(STRINGS) <= names <= {*STRINGS, "count", *SECONDS}, (
            sorted(chunk)
        )
        for name, errors in STRINGS.items():
            blob, lengths = pack(list(chunk[name]), errors)
            yield f"{name}.blob", np.frombuffer(blob, np.uint8)
            yield f"{name}.offsets", offsets(name, lengths, begins)
        if "count" in names:
            yield "first", offsets("first", np.asarray(chunk["count"], np.int64), begins)
        for name in names & set(SECONDS):
            yield name, np.asarray(chunk[name], np.float64)
