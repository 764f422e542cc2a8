"""Path and indices -> frames: one entry for videos and images, with a deadline. T frames, C = 3, H, W in pixels.

Frames are exactly those of a decode of the whole file, with every reader; see `readers` for what a reader is,
`readers.seek_plan` for which files are decoded only where needed, `decode.process` for decoders that hang or crash.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from data_loader.decode import process, worker
from data_loader.frames import FrameChoice
from data_loader.readers import READERS, BrokenVideo, Choose, Pictures
from data_loader.readers.image_reader import is_image
from data_loader.readers.limits import DEFAULT_LIMITS, Limits, check_clip, limited_to

__all__ = [
    "READERS",
    "BrokenVideo",
    "Limits",
    "count_frames",
    "read_clip",
    "read_frames",
]


def read_clip(
    path: str | os.PathLike,
    choose: Callable[[int], Sequence[int]],
    reader: str = "auto",
    start: float | None = None,
    end: float | None = None,
    deadline: float | None = 60.0,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Tensor, list[int]]:
    """uint8 (T, C, H, W), a view of (T, H, W, C), and the T indices; `choose(length)` says which frames.

    `length` and the indices count the frames that begin between `start` and `end` (seconds after the first frame), or
    all. `choose` may be called a second time, if the file holds fewer frames than it says. `reader`: "auto" or "av",
    "decord", "torchcodec", or any other name in READERS; images are recognised by their first bytes. `deadline`:
    seconds after which a decoder, which runs in a child process, counts as hung, and more where it has much to decode;
    None or 0: no limit, in this process. `limits`: on the size of pictures and clips.
    Raises BrokenVideo (path and reason) for what cannot be decoded, OSError for what cannot be opened.
    """
    return _read(os.fspath(path), choose, reader, start, end, deadline, limits)


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int],
    reader: str = "auto",
    deadline: float | None = 60.0,
    limits: Limits = DEFAULT_LIMITS,
) -> Tensor:
    """uint8 (T, C, H, W): the frames `indices` of the decode of the whole file, in that order, repeats allowed.

    Raises what `read_clip` raises, and IndexError for a frame that the file does not have.
    """
    frames_TCHW, _ = _read(
        os.fspath(path), list(indices), reader, None, None, deadline, limits
    )
    return frames_TCHW


def count_frames(path: str | os.PathLike, deadline: float | None = 60.0) -> int:
    """How many frames a decode of the whole file gives; 1 for an image. Raises what `read_clip` raises."""
    lengths: list[int] = []

    def choose(length: int) -> list[int]:
        lengths.append(length)
        return [0]

    _read(os.fspath(path), choose, "sequential", None, None, deadline, DEFAULT_LIMITS)
    return lengths[-1]


def _read(
    path: str,
    choose: Choose,
    reader: str,
    start: float | None,
    end: float | None,
    deadline: float | None,
    limits: Limits,
) -> tuple[Tensor, list[int]]:
    """What `read_clip` returns.

    `choose` is called in this process, since it need not be picklable; a `FrameChoice` where the file is decoded, which
    saves a question to this process and its answer.
    """
    # raises ConfigError, whatever the file is
    READERS.get(reader, "video_params.reader")
    answer = None
    choose_in_worker = choose
    if callable(choose) and deadline and not isinstance(choose, FrameChoice):
        answer = partial(_chosen, choose)
        choose_in_worker = worker.ask_parent
    args = (reader, path, choose_in_worker, start, end, limits)
    frames_THWC, indices = process.call(
        _call_reader, *args, path=path, deadline=deadline, answer=answer
    )
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2), indices


def _chosen(choose: Callable[[int], Sequence[int]], length: int) -> list[int]:
    return [int(index) for index in choose(length)]


def _call_reader(
    reader: str,
    path: str,
    choose: Choose,
    start: float | None,
    end: float | None,
    limits: Limits,
) -> Pictures:
    """Read the file in this process, with the reader of images if it is one."""
    with limited_to(limits):
        if is_image(path):
            reader = "image"
        frames, indices = READERS.get(reader)(path, choose, start, end)
        height, width, _ = frames[0].shape
        check_clip(path, len(frames), width, height)
        return Pictures(frames, indices)
