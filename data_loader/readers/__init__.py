"""Decoders, one per file: `read(path, choose, start=None, end=None) -> (frames, indices)`.

`choose` is the requested indices, or a function that returns them for the number of frames between `start` and `end`
(seconds after the first frame). It may be called again, when a file turns out to hold fewer frames than its time
stamps promise, and must then answer for the new number. `frames` are uint8 (H, W, 3) arrays of one size, RGB, upright,
one for each index in the order of the request: exactly the frames that a decode of the whole file gives there.
A file that cannot be decoded raises `BrokenVideo`; an index that the clip does not have, IndexError.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from parse_config import Registry, UserError

READERS = Registry("reader", __name__)
Choose = Sequence[int] | Callable[[int], Sequence[int]]


class Pictures(NamedTuple):
    """What a reader returns: frames, uint8 (H, W, 3) each, and the index of each in the clip."""

    frames: Sequence[np.ndarray] | np.ndarray
    indices: list[int]


class BrokenVideo(UserError):
    """A file cannot be decoded: `path` and `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BrokenVideo"], tuple[str, str]]:
        return BrokenVideo, (self.path, self.reason)


def requested_indices(choose: Choose, length: int) -> list[int]:
    """The indices that `choose` requests of a clip of `length` frames; at least one."""
    if callable(choose):
        choose = choose(length)
    indices = [int(index) for index in choose]
    if not indices:
        raise UserError("no frame is asked for")
    return indices
