"""Headers that are read bit by bit, the highest bit of a byte first."""


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

    def align(self) -> None:
        """Go on at the next whole byte."""
        self._left -= self._left % 8


def without_escapes(unit: bytes) -> bytes:
    """A unit of H.264 or HEVC without the bytes that keep start codes out of it."""
    return unit.replace(b"\0\0\3", b"\0\0")
