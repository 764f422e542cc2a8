"""What changes in an index when its features have: vectors that stay, go and come. N rows now, M before, E width."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from scripts.retrieval.faiss_index import import_faiss
from scripts.retrieval.features import Row

ROWS_PER_BLOCK = 1 << 16  # compared at once


class Change(NamedTuple):
    """old_row_N: the number that each row had before, -1 for a new vector.

    num_changed: rows that were there before with another vector; num_gone: rows that are not there any more.
    """

    old_row_N: np.ndarray
    num_changed: int
    num_gone: int

    @property
    def num_new(self) -> int:
        """Rows that were not there before, with any vector."""
        return int((self.old_row_N < 0).sum()) - self.num_changed

    @property
    def drops_rows(self) -> bool:
        """Whether any vector that was there is not any more."""
        return self.num_changed + self.num_gone > 0

    @property
    def is_none(self) -> bool:
        """Whether the same rows have the same vectors, in whatever order."""
        return not (self.drops_rows or self.num_new)


def find_change(
    old_rows: Sequence[Row],
    old_index: Any,
    kind: str,
    rows: Sequence[Row],
    rows_NE: np.ndarray,
) -> Change:
    """Compares rows by what they are of and by their vectors.

    old_index: a faiss index of `kind`; rows_NE: float32 vectors of `rows`, of length 1.
    """
    if kind == "ivf":
        old_index.make_direct_map()  # which reconstruct_batch needs
    numbers_by_key: dict[str, list[int]] = {}
    for number in range(len(old_rows) - 1, -1, -1):
        numbers_by_key.setdefault(_key(old_rows[number]), []).append(number)
    candidate_N = np.full(len(rows), -1, np.int64)
    for number, row in enumerate(rows):
        old_numbers = numbers_by_key.get(_key(row))
        if old_numbers:  # of equal rows the first to the first
            candidate_N[number] = old_numbers.pop()
    is_found_N = candidate_N >= 0
    is_same_N = np.zeros(len(rows), bool)
    found_rows = np.flatnonzero(is_found_N)
    for start in range(0, len(found_rows), ROWS_PER_BLOCK):
        block = found_rows[start : start + ROWS_PER_BLOCK]
        old_bE = old_index.reconstruct_batch(candidate_N[block])
        is_same_N[block] = (old_bE == rows_NE[block]).all(1)
    return Change(
        old_row_N=np.where(is_same_N, candidate_N, -1),
        num_changed=int((is_found_N & ~is_same_N).sum()),
        num_gone=len(old_rows) - len(found_rows),
    )


def _key(row: Row) -> str:
    """What a row is of; its resolved path, which only the index has, does not count."""
    return json.dumps(
        {name: value for name, value in row.items() if name != "real"}, sort_keys=True
    )


def update_vectors(
    index: Any, kind: str, change: Change, rows_NE: np.ndarray
) -> np.ndarray:
    """Brings the vectors of an IVF or HNSW index to `rows_NE` -> (N,) the row that each of its vectors belongs to.

    An HNSW index can only get new ones.
    """
    if kind == "ivf":
        _update_ivf(index, change, rows_NE)
        return np.arange(len(rows_NE))
    return _append_hnsw(index, change, rows_NE)


def _update_ivf(index: Any, change: Change, rows_NE: np.ndarray) -> None:
    """Drops, renumbers and adds vectors of an IVF index, whose cells stay: afterwards vector i is row i."""
    faiss = import_faiss()
    is_kept_N = change.old_row_N >= 0
    new_row_M = np.full(index.ntotal, -1, np.int64)
    new_row_M[change.old_row_N[is_kept_N]] = np.flatnonzero(is_kept_N)
    index.set_direct_map_type(faiss.DirectMap.NoMap)  # the only one that can drop rows
    index.remove_ids(np.flatnonzero(new_row_M < 0))
    for cell in range(index.nlist):
        size = index.invlists.list_size(cell)
        if size:
            row_numbers = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
            row_numbers[:] = new_row_M[row_numbers]
    added = np.flatnonzero(~is_kept_N)
    index.add_with_ids(np.ascontiguousarray(rows_NE[added]), added)


def _append_hnsw(index: Any, change: Change, rows_NE: np.ndarray) -> np.ndarray:
    """Adds the new vectors to an HNSW index -> (N,) the row that each vector belongs to."""
    added_rows = np.flatnonzero(change.old_row_N < 0)
    kept_rows = np.flatnonzero(change.old_row_N >= 0)
    index.add(np.ascontiguousarray(rows_NE[added_rows]))
    return np.concatenate(
        [kept_rows[np.argsort(change.old_row_N[kept_rows])], added_rows]
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/index.py --help")
