"""When the frames of a video are shown, how long it is, its division into segments; without decoding it."""

import math
import os

import numpy as np

from data_loader.decode import process
from data_loader.readers import READERS, BrokenVideo, Choose
from data_loader.readers.image_reader import is_image
from data_loader.readers.source import Source

SHORT = 0.25  # share of a segment below which what is left at the end goes with the segment before


def duration(path: str | os.PathLike, deadline: float | None = 60.0) -> float:
    """Seconds from the first frame to the end of the last, by the packets' time stamps.

    Raises BrokenVideo if there are none, or not within `deadline` seconds (in a process of its own; None or 0: here),
    OSError for what cannot be opened.
    """
    path = os.fspath(path)
    with open(path, "rb"):
        pass
    READERS.register("seconds")(
        _seconds
    )  # here, not at import: it is no reader of pictures, and none looks for it
    read = process.read if deadline else lambda name, *args: READERS.get(name)(*args[:-1])
    return float(
        np.asarray(read("seconds", path, [0], None, None, deadline)[0][0]).view(np.float64).item()
    )


def _seconds(
    path: str, choose: Choose, start: float | None, end: float | None
) -> tuple[list[np.ndarray], list[int]]:
    """The bytes of one number in place of a picture, so that it comes through the socket of `isolated`."""
    with Source(path) as source:
        begins = _begins(source)
        if not len(begins):
            raise BrokenVideo(path, f"holds no frame ({source.damage or 'no packets'})")
        rate = float(source.stream.average_rate or source.stream.guessed_rate or 25)
        last = begins[-1] / (len(begins) - 1) if len(begins) > 1 else 1 / rate
        return [np.array([[begins[-1] + last]], np.float64).view(np.uint8)], [0]


def frame_seconds(path: str | os.PathLike) -> list[float]:
    """Seconds after the first frame at which each frame begins, by the container's word; [0.0] of an image. A damaged
    file may hold fewer frames. Raises BrokenVideo for what is no video, OSError."""
    path = os.fspath(path)
    if is_image(path):
        return [0.0]
    with Source(path) as source:
        return _begins(source)


def _begins(source: Source) -> list[float]:
    stamps = [packet.pts for packet in source.packets() if not packet.is_discard]
    return source.seconds(stamps if None in stamps else sorted(stamps))


def segments(start: float, end: float, seconds: float) -> list[tuple[float, float]]:
    """[start, end) cut into pieces of `seconds`; the last is shorter, or, if no more than a quarter of that is left,
    the one before it is longer. At least one piece."""
    count = max(1, math.ceil((end - start) / seconds - SHORT))
    edges = [round(start + number * seconds, 3) for number in range(count)]
    return list(zip(edges, [*edges[1:], round(end, 3)]))
