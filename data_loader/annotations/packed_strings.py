"""Many strings in two arrays, and views that make strings when asked."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np


class Strings(Sequence[str]):
    """A read-only list of strings; string i is blob[offsets[i]:offsets[i + 1]] in utf-8.

    blob: uint8 (bytes,), offsets: int64 (strings + 1,).
    """

    def __init__(self, blob: np.ndarray, offsets: np.ndarray):
        self.blob, self.offsets = blob, offsets

    @classmethod
    def of(cls, values: Iterable[str]) -> "Strings":
        """Pack `values`."""
        blob, lengths = pack(list(values))
        return cls(np.frombuffer(blob, np.uint8), np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start, end = self.offsets[index : index + 2]
        return self.blob[start:end].tobytes().decode("utf-8", "surrogatepass")


class Lazy(Sequence[str]):
    """`count` strings, each made by `get(i)` when asked for."""

    def __init__(self, count: int, get: Callable[[int], str]):
        self._places, self._get = range(count), get

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index):
        places = self._places[index]
        return self._get(places) if isinstance(places, int) else [self._get(i) for i in places]


def pack(values: list[str], errors: str = "surrogatepass") -> tuple[bytes, np.ndarray]:
    """(the strings' utf-8 bytes in a row, int64 length of each in bytes)."""
    joined = "".join(values)
    if joined.isascii():
        return joined.encode(), np.fromiter(map(len, values), np.int64, len(values))
    parts = [value.encode("utf-8", errors) for value in values]
    return b"".join(parts), np.fromiter(map(len, parts), np.int64, len(parts))
