"""When the frames of a video begin, how long it is, and its division into segments, without decoding it."""

import math
import os

from data_loader.decode import process
from data_loader.readers import BrokenVideo, image_reader
from data_loader.readers.source import Source

SHORT = 0.25  # share of a segment below which a remainder at the end joins the segment before it


def duration(path: str | os.PathLike, deadline: float | None = 60.0) -> float:
    """Seconds from the first frame to the end of the last, by the time stamps of the packets.

    `deadline`: seconds that a child process may take; None or 0: no limit, in this process. Raises BrokenVideo if
    there are no frames, or not in time; OSError for what cannot be opened.
    """
    path = os.fspath(path)
    return process.call(_duration, path, path=path, deadline=deadline)


def _duration(path: str) -> float:
    with Source(path) as source:
        seconds = source.packet_seconds()
        if not seconds:
            raise BrokenVideo(path, f"holds no frame ({source.damage or 'no packets'})")
        if len(seconds) > 1:
            last_frame_duration = seconds[-1] / (len(seconds) - 1)
        else:
            last_frame_duration = 1 / source.frame_rate()
        return seconds[-1] + last_frame_duration


def frame_seconds(
    path: str | os.PathLike, deadline: float | None = 60.0
) -> list[float]:
    """Seconds after the first frame at which each frame begins, by the time stamps of the packets; [0.0] of an image.

    A damaged file may hold fewer frames. `deadline`: see `duration`. Raises BrokenVideo for what is no video, OSError.
    """
    path = os.fspath(path)
    return process.call(_frame_seconds, path, path=path, deadline=deadline)


def _frame_seconds(path: str) -> list[float]:
    if image_reader.is_image(path):
        return image_reader.frame_seconds(path)
    with Source(path) as source:
        return source.packet_seconds()


def segments(start: float, end: float, seconds: float) -> list[tuple[float, float]]:
    """Divide [start, end) into segments of `seconds`, at least one.

    The last is shorter; if no more than a quarter of a segment remains, the one before it is longer instead.
    """
    count = max(1, math.ceil((end - start) / seconds - SHORT))
    starts = [round(start + number * seconds, 3) for number in range(count)]
    ends = [*starts[1:], round(end, 3)]
    return list(zip(starts, ends))
