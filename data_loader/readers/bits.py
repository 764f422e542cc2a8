"""Headers that are read bit by bit, the highest bit of a byte first."""

import numpy as np

COLUMN_BYTES = 8
MAX_ZEROS = 15  # before an exponential-Golomb number that is read in columns


class BitReader:
    """Reads numbers one after the other. Raises ValueError past the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the header is cut short")
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """An unsigned exponential-Golomb number, ue(v) in the standards."""
        rest = self._value & ((1 << self._left) - 1)
        zeros = self._left - rest.bit_length()
        self.take(zeros)
        return self.take(zeros + 1) - 1


class BitColumns:
    """Reads the same header of N units at once, of each at most 8 bytes. Raises ValueError past them.

    `data`: uint8; `starts`: where the headers begin in it, int64 (N,). Of a number that only some headers have, `of`
    says which, bool (N,); the others get 0. Bytes that keep start codes out of a unit are left out.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray) -> None:
        offsets = np.arange(COLUMN_BYTES + COLUMN_BYTES // 2)
        position_NB = np.minimum(starts[:, None] + offsets, len(data) - 1)
        bytes_NB = data[position_NB]
        is_escape = (
            (bytes_NB[:, :-2] == 0) & (bytes_NB[:, 1:-1] == 0) & (bytes_NB[:, 2:] == 3)
        )
        for row in np.flatnonzero(is_escape.any(axis=1)):
            content = without_escapes(bytes_NB[row].tobytes())[:COLUMN_BYTES]
            bytes_NB[row, :COLUMN_BYTES] = np.frombuffer(content, np.uint8)
        words = np.ascontiguousarray(bytes_NB[:, :COLUMN_BYTES]).view(">u8")[:, 0]
        self._rest = words.astype(np.uint64)
        self._left = np.full(len(starts), 8 * COLUMN_BYTES)

    def take(self, count: int, of: np.ndarray | None = None) -> np.ndarray:
        """Unsigned numbers of `count` bits, at least one, int64 (N,)."""
        return self._take(np.full(len(self._rest), count), of)

    def golomb(self, of: np.ndarray | None = None) -> np.ndarray:
        """Unsigned exponential-Golomb numbers, int64 (N,)."""
        top = (self._rest >> np.uint64(64 - MAX_ZEROS - 1)).astype(np.int64)
        if (top[slice(None) if of is None else of] == 0).any():
            raise ValueError("a number in a header is too large")
        zeros = MAX_ZEROS + 1 - np.frexp(top)[1]
        numbers = self._take(2 * np.maximum(zeros, 0) + 1, of)
        return np.maximum(numbers - 1, 0)

    def _take(self, counts: np.ndarray, of: np.ndarray | None) -> np.ndarray:
        if of is not None:
            counts = np.where(of, counts, 0)
        self._left -= counts
        if (self._left < 0).any():
            raise ValueError("a header is too long")
        # A shift by all 64 bits is undefined.
        first_halves = (counts // 2).astype(np.uint64)
        second_halves = (counts - counts // 2).astype(np.uint64)
        numbers = (
            self._rest
            >> (np.uint64(32) - first_halves)
            >> (np.uint64(32) - second_halves)
        )
        self._rest = self._rest << first_halves << second_halves
        return numbers.astype(np.int64)


def without_escapes(unit: bytes) -> bytes:
    """A unit of H.264 or HEVC without the bytes that keep start codes out of it."""
    return unit.replace(b"\0\0\3", b"\0\0")
