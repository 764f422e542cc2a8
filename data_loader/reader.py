"""Path + indices -> frames: one entry for videos and images, with a deadline. T frames, C = 3, H, W in pixels.

Frames are exactly those of a decode of the whole file, with every reader; see `readers` for what one is, `readers.h264`
for when a clip is read at the wanted places only, `isolated` for decoders that hang or crash.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from data_loader.decode import process
from data_loader.readers import READERS, BrokenVideo, Choose
from data_loader.readers.image_reader import is_image

__all__ = ["READERS", "BrokenVideo", "count_frames", "read_clip", "read_frames"]


def read_clip(
    path: str | os.PathLike,
    choose: Callable[[int], Sequence[int]],
    reader: str = "auto",
    start: float | None = None,
    end: float | None = None,
    deadline: float | None = 60.0,
) -> tuple[Tensor, list[int]]:
    """uint8 (T, C, H, W), a view of (T, H, W, C), and the T indices; `choose(length)` says which frames.

    `length` and the indices count the frames that begin between `start` and `end` (seconds after the first frame), or
    all. `choose` may be asked a second time, if the file holds fewer frames than it says. `reader`: "auto" or "av",
    "decord", or any other name in READERS; images are recognised by their first bytes. `deadline`: seconds after which
    a video's decoder, which runs in a process of its own, counts as hung; None or 0: no limit, and it runs here.
    Raises BrokenVideo (path and reason) for what cannot be decoded, OSError for what cannot be opened.
    """
    return _read(os.fspath(path), choose, reader, start, end, deadline)


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int],
    reader: str = "auto",
    deadline: float | None = 60.0,
) -> Tensor:
    """uint8 (T, C, H, W): the frames `indices` of the decode of the whole file, in that order, repeats allowed.

    Raises what `read_clip` raises, and IndexError for a frame that the file does not have.
    """
    return _read(os.fspath(path), list(indices), reader, None, None, deadline)[0]


def count_frames(path: str | os.PathLike, deadline: float | None = 60.0) -> int:
    """How many frames a decode of the whole file gives; 1 for an image. Raises what `read_clip` raises."""
    lengths: list[int] = []

    def choose(length: int) -> list[int]:
        lengths.append(length)
        return [0]

    _read(os.fspath(path), choose, "sequential", None, None, deadline)
    return lengths[-1]


def _read(
    path: str,
    choose: Choose,
    reader: str,
    start: float | None,
    end: float | None,
    deadline: float | None,
) -> tuple[Tensor, list[int]]:
    function = READERS.get(reader, "video_params.reader")
    try:
        if is_image(path):
            function, deadline = READERS.get("image"), None
    except IsADirectoryError:
        raise BrokenVideo(path, "is a folder") from None
    if deadline:
        pictures_THWC, indices = process.read(reader, path, choose, start, end, deadline)
    else:
        pictures, indices = function(path, choose, start, end)
        pictures_THWC = np.stack(pictures)
    return torch.from_numpy(pictures_THWC).permute(0, 3, 1, 2), indices
