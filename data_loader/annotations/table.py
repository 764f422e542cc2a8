"""The videos of a data set as columns: a string column is one UTF-8 blob with int64 offsets, a number column an array.

Small tables are in memory, large ones in memory-mapped files that all workers share: no Python object per row.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.annotations.packed_strings import PackedStrings, pack

VERSION = 2  # of the files: raise it when their format changes
# string column -> how lone surrogates are encoded
STRING_COLUMNS = {"id": "surrogatepass", "path": "surrogatepass", "caption": "replace"}
TIME_COLUMNS = ("start", "end")
Chunk = Mapping[str, Any]


class Table:
    """Rows of (id, path, captions, start, end).

    id, path, caption: PackedStrings.
    caption_offsets: int64 (rows + 1,); row i has the captions caption_offsets[i]..caption_offsets[i + 1] - 1 of
        `caption`; None where each row has one caption.
    start, end: float64 (rows,) seconds, NaN where a row is a whole video; None where all rows are.
    notes: plain data found while parsing (layout, protocol, ...).
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        notes: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.id = _string_column(arrays, "id")
        self.path = _string_column(arrays, "path")
        self.caption = _string_column(arrays, "caption")
        self.caption_offsets = arrays.get("first")
        self.start = arrays.get("start")
        self.end = arrays.get("end")
        self.notes = dict(notes or {})
        self.folder = folder
        self._arrays = arrays

        num_captions = len(self.id)
        if self.caption_offsets is not None:
            num_captions = int(self.caption_offsets[-1])
        assert len(self.path) == len(self.id), "columns of unequal length"
        assert len(self.caption) == num_captions, "columns of unequal length"

    def __len__(self) -> int:
        return len(self.id)

    def __reduce__(self) -> tuple[Callable[..., "Table"], tuple[Any, ...]]:
        # a mapped table is pickled as its folder
        if self.folder is None:
            return Table, (self._arrays, self.notes)
        return Table.open, (self.folder,)

    def caption_range(self, row: int) -> range:
        """The indices in `caption` of the captions of `row`."""
        if self.caption_offsets is None:
            return range(row, row + 1)
        return range(int(self.caption_offsets[row]), int(self.caption_offsets[row + 1]))

    def caption_counts(self) -> np.ndarray:
        """int64 (rows,): how many captions each row has."""
        if self.caption_offsets is None:
            return np.ones(len(self), np.int64)
        return np.diff(self.caption_offsets)

    def segment(self, row: int) -> tuple[float | None, float | None]:
        """(start, end) of `row` in seconds; None where there is none."""
        return _seconds(self.start, row), _seconds(self.end, row)

    @classmethod
    def from_columns(
        cls,
        id: Iterable[str],
        path: Iterable[str],
        caption: Iterable[str],
        **numbers: Any,
    ) -> "Table":
        """In memory, from whole columns: strings id, path, caption; where needed also numbers count, start, end.

        Without `count` each row has one caption; with it, `caption` holds all captions in the order of the rows.
        """
        return cls.from_chunks(
            [{"id": id, "path": path, "caption": caption, **numbers}]
        )

    @classmethod
    def from_chunks(
        cls, chunks: Iterable[Chunk], notes: Callable[[], Mapping[str, Any]] = dict
    ) -> "Table":
        """In memory, from chunks of columns as `from_columns` takes them.

        All chunks have the same columns. notes: called after the last chunk.
        """
        pieces: dict[str, list[np.ndarray]] = {}
        for name, array in _to_arrays(chunks):
            pieces.setdefault(name, []).append(array)
        arrays = {name: np.concatenate(column) for name, column in pieces.items()}
        return cls(arrays, notes())

    @classmethod
    def write(
        cls,
        folder: Path,
        chunks: Iterable[Chunk],
        notes: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`from_chunks` to disk, chunk by chunk; `open` reads it.

        folder: an empty folder. It has a file per array, and table.json with their types and the notes.
        """
        dtypes: dict[str, str] = {}
        files: dict[str, Any] = {}
        try:
            for name, array in _to_arrays(chunks):
                if name not in files:
                    files[name] = open(folder / f"{name}.bin", "wb")  # noqa: SIM115 (closed below)
                    dtypes[name] = array.dtype.str
                files[name].write(array.data)
        finally:
            for file in files.values():
                file.close()

        header = {"version": VERSION, "types": dtypes, "notes": dict(notes())}
        (folder / "table.json").write_text(
            json.dumps(header, indent=1), encoding="utf-8"
        )

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Table":
        """Map what `write` wrote; takes no time and no memory, whatever the size."""
        folder = Path(folder)
        header = json.loads((folder / "table.json").read_text(encoding="utf-8"))

        arrays = {
            name: _map_file(folder / f"{name}.bin", dtype)
            for name, dtype in header["types"].items()
        }
        return cls(arrays, header["notes"], folder)


def _string_column(arrays: Mapping[str, np.ndarray], name: str) -> PackedStrings:
    """Column `name`; an empty one where a table has no chunks."""
    blob = arrays.get(f"{name}.blob", np.zeros(0, np.uint8))
    offsets = arrays.get(f"{name}.offsets", np.zeros(1, int))
    return PackedStrings(blob, offsets)


def _seconds(column: np.ndarray | None, row: int) -> float | None:
    """The value of `row`; None where it has none."""
    if column is None or np.isnan(column[row]):
        return None
    return float(column[row])


def _map_file(path: Path, dtype: str) -> np.ndarray:
    # an empty file cannot be mapped
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r"))


class _RunningOffsets:
    """Lengths, chunk by chunk -> offsets that continue from chunk to chunk.

    Concatenated, they are those of all lengths: 0, l0, l0 + l1, ...
    """

    def __init__(self) -> None:
        self.end: int | None = None  # None before the first chunk

    def extend(self, lengths: np.ndarray) -> np.ndarray:
        """int64 (lengths,): where each of them ends; the first chunk is preceded by a zero."""
        is_first_chunk = self.end is None
        start = self.end or 0
        ends = np.concatenate([[start], start + np.cumsum(lengths, dtype=np.int64)])

        self.end = int(ends[-1])
        return ends if is_first_chunk else ends[1:]


def _to_arrays(chunks: Iterable[Chunk]) -> Iterator[tuple[str, np.ndarray]]:
    """Chunks of columns -> (array name, what to append to it).

    String columns become "<name>.blob" and "<name>.offsets", caption counts become offsets ("first").
    """
    offsets = {name: _RunningOffsets() for name in (*STRING_COLUMNS, "first")}
    columns: set[str] = set()

    for chunk in chunks:
        columns = columns or set(chunk)
        assert set(chunk) == columns, sorted(chunk)
        assert set(STRING_COLUMNS) <= columns, sorted(chunk)
        assert columns <= {*STRING_COLUMNS, "count", *TIME_COLUMNS}, sorted(chunk)

        for name, errors in STRING_COLUMNS.items():
            blob, lengths = pack(list(chunk[name]), errors)
            yield f"{name}.blob", np.frombuffer(blob, np.uint8)
            yield f"{name}.offsets", offsets[name].extend(lengths)

        if "count" in columns:
            yield "first", offsets["first"].extend(np.asarray(chunk["count"], np.int64))
        for name in columns & set(TIME_COLUMNS):
            yield name, np.asarray(chunk[name], np.float64)
