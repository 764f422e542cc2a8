"""Read-only sequences of strings that keep no Python object per string.

Annotations have millions of strings. As Python objects they would take several times their bytes, and forked workers
would copy them, since reading an object writes its reference count.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np

PIECE = 1 << 16  # strings that are unpacked at once when all are iterated


class PackedStrings(Sequence[str]):
    """A read-only list of strings; string i is blob[offsets[i]:offsets[i + 1]] in UTF-8.

    blob: uint8 (bytes,), offsets: int64 (strings + 1,).
    """

    def __init__(self, blob: np.ndarray, offsets: np.ndarray) -> None:
        self.blob = blob
        self.offsets = offsets

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> "PackedStrings":
        """Pack `strings`."""
        blob, lengths = pack(list(strings))
        return cls(
            np.frombuffer(blob, np.uint8), np.concatenate([[0], np.cumsum(lengths)])
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]

        # a range handles negative indices, and raises IndexError beyond the end
        index = range(len(self))[index]
        start, end = self.offsets[index : index + 2]
        return self.blob[start:end].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), PIECE):
            offsets = self.offsets[first : first + PIECE + 1]
            piece = self.blob[offsets[0] : offsets[-1]].tobytes()
            ends = (offsets[1:] - offsets[0]).tolist()
            starts = [0, *ends[:-1]]
            if piece.isascii():
                text = piece.decode("ascii")
                yield from (text[start:end] for start, end in zip(starts, ends))
            else:
                for start, end in zip(starts, ends):
                    yield piece[start:end].decode("utf-8", "surrogatepass")


class LazyStrings(Sequence[str]):
    """`count` strings, each computed by `get(i)` when it is indexed."""

    def __init__(self, count: int, get: Callable[[int], str]) -> None:
        self._indices = range(count)
        self._get = get

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._get(i) for i in self._indices[index]]
        return self._get(self._indices[index])


def pack(strings: list[str], errors: str = "surrogatepass") -> tuple[bytes, np.ndarray]:
    """Concatenate strings -> (their UTF-8 bytes, int64 length of each in bytes).

    errors: what becomes of characters that UTF-8 cannot encode (lone surrogates), see `str.encode`.
    """
    joined = "".join(strings)
    if joined.isascii():
        return joined.encode(), np.fromiter(map(len, strings), np.int64, len(strings))

    encoded = [string.encode("utf-8", errors) for string in strings]
    return b"".join(encoded), np.fromiter(map(len, encoded), np.int64, len(encoded))
