"""decord, frame after frame from the start: its own seeking gives wrong frames on open GOPs, B-frames in avi, and more.

Imported when it is first used, after torch: the other order has crashed for users.
"""
from collections.abc import Callable, Sequence

import numpy as np

from data_loader.readers import READERS, BrokenVideo
from parse_config import ConfigError


@READERS.register("decord")
def read(path: str, choose: Callable[[int], Sequence[int]], start: float | None = None, end: float | None = None,
         ) -> tuple[np.ndarray, list[int]]:
    """See `data_loader.readers`. What decord cannot open (AV1, GIF, ...) is a BrokenVideo that names the reader av."""
    try:
        import decord
    except ImportError:
        raise ConfigError("video_params.reader: decord is not installed; pip install it, or use reader 'av'") from None
    with open(path, "rb"):
        pass
    try:
        video = decord.VideoReader(path, num_threads=1)
        length = _decodable(video)
        first, last = _cut(video, length, start, end)
        if last <= first:
            raise BrokenVideo(path, f"has no frame between {start} and {end} seconds")
        indices = [first + i for i in choose(last - first)]
        return _sequential(video, indices), [i - first for i in indices]
    except (RuntimeError, decord.DECORDError, IndexError, ValueError) as error:
        if isinstance(error, BrokenVideo):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenVideo(path, f"decord: {reason} (reader 'av' may decode it)") from None


def _decodable(video) -> int:
    """len() can promise more frames than come; then they are counted."""
    length = len(video)
    video.seek(0)
    return length


def _cut(video, length: int, start: float | None, end: float | None) -> tuple[int, int]:
    if start is None and end is None:
        return 0, length
    times = video.get_frame_timestamp(range(length))[:, 0]
    inside = np.flatnonzero((times - times[0] >= (start or 0) - 1e-6)
                            & (times - times[0] < (np.inf if end is None else end) - 1e-6))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def _sequential(video, indices: Sequence[int]) -> np.ndarray:
    wanted, found = set(indices), {}
    for i in range(max(indices) + 1):
        frame = video.next()
        if i in wanted:
            found[i] = frame.asnumpy()
    return np.stack([found[i] for i in indices])
