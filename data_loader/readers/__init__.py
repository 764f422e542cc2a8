"""Decoders, one a file: `read(path, choose, start=None, end=None) -> (frames_THWC uint8, indices)`.

`choose(length)` gets the number of frames between start and end (seconds) and returns the wanted indices, sorted or
not; what comes back are exactly the frames that a decode from the first frame on gives at those indices.
A file that cannot be decoded raises `BrokenVideo`.
"""
from parse_config import Registry, UserError

READERS = Registry("reader", __name__)


class BrokenVideo(UserError):
    """A file cannot be decoded: `path` and `reason`."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return BrokenVideo, (self.path, self.reason)
