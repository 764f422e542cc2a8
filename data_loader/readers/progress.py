"""What the decoder of this process works on and how much it has done, for the process that waits for it.

Both are written into memory that the two share, so that nothing is sent while all goes well. Where nobody waits,
nothing is written.
"""

import struct
from typing import NamedTuple

PIXELS_PER_SECOND = (
    20e6  # of a slow decoder; for each picture it is waited so much longer
)
HEADER = struct.Struct("dI")  # seconds; bytes of the description
SIZE = 512  # bytes of the shared memory
_board: memoryview | None = None


class Progress(NamedTuple):
    """seconds: how much longer than the deadline may be waited; description: of the file, "" if it is not yet open."""

    seconds: float
    description: str


def report_to(board: memoryview) -> None:
    """From now on this process writes into `board`, `SIZE` bytes of shared memory."""
    global _board
    _board = board


def describe(description: str) -> None:
    """Say what is being decoded: codec, length, size."""
    if _board is None:
        return
    text = description.encode("utf-8", "replace")[: SIZE - HEADER.size]
    seconds, _ = HEADER.unpack_from(_board)
    _board[HEADER.size : HEADER.size + len(text)] = text
    HEADER.pack_into(_board, 0, seconds, len(text))


def decode_begins(width: int, height: int) -> None:
    """Say that a picture of this size is now decoded."""
    if _board is None:
        return
    seconds, length = HEADER.unpack_from(_board)
    HEADER.pack_into(_board, 0, seconds + width * height / PIXELS_PER_SECOND, length)


def clear(board: memoryview) -> None:
    """Forget the last call's progress."""
    HEADER.pack_into(board, 0, 0.0, 0)


def read(board: memoryview) -> Progress:
    """The progress that the other process has written."""
    seconds, length = HEADER.unpack_from(board)
    text = bytes(board[HEADER.size : HEADER.size + length])
    return Progress(seconds, text.decode("utf-8", "replace"))
