"""Decoders, one a file: `read(path, choose, start=None, end=None) -> (pictures, indices)`.

`choose` is the wanted indices, or a function that returns them for the number of frames between `start` and `end`
(seconds after the first frame). It may be asked again, when a file turns out to hold fewer frames than it says, and
must then answer for the new number. `pictures` are uint8 (H, W, 3) arrays of one size, RGB, upright, one for each
index in the order asked: exactly the frames that a decode of the whole file gives at those places.
A file that cannot be decoded raises `BrokenVideo`; an index that the clip does not have, IndexError.
"""

from collections.abc import Callable, Sequence

from parse_config import Registry, UserError

READERS = Registry("reader", __name__)
Choose = Sequence[int] | Callable[[int], Sequence[int]]


class BrokenVideo(UserError):
    """A file cannot be decoded: `path` and `reason`."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return BrokenVideo, (self.path, self.reason)


def chosen(choose: Choose, length: int) -> list[int]:
    """The wanted indices of a clip of `length` frames; at least one."""
    indices = [int(index) for index in (choose(length) if callable(choose) else choose)]
    if not indices:
        raise UserError("no frame is asked for")
    return indices
