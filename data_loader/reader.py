"""Path + indices -> frames: one entry for videos and images, with a deadline. T frames, C = 3, H, W in pixels."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from data_loader import isolated
from data_loader.readers import READERS, BrokenVideo, av_reader
from data_loader.readers.image_reader import is_image

__all__ = ["BrokenVideo", "count_frames", "read_clip", "read_frames"]


def read_clip(path: str, choose: Callable[[int], Sequence[int]], reader: str = "auto", start: float | None = None,
              end: float | None = None, deadline: float | None = 60.0) -> tuple[Tensor, list[int]]:
    """uint8 (T, C, H, W) and the indices: `choose(length)` says which of the frames between start and end (seconds).

    `reader`: "auto" (images by their first bytes, else "av") or a name of READERS. `deadline`: seconds after which a
    decoder counts as hung; it then runs in a process of its own; None or 0 decodes here, without a limit.
    Raises BrokenVideo (path and reason), FileNotFoundError.
    """
    path = str(path)
    try:
        kind = "image" if reader != "image" and is_image(path) else reader
    except IsADirectoryError:
        raise BrokenVideo(path, "is a folder") from None
    kind = "av" if kind == "auto" else kind
    if kind == "image" or not deadline:
        frames_THWC, indices = READERS.get(kind, "video_params.reader")(path, choose, start, end)
    else:
        READERS.get(kind, "video_params.reader")
        frames_THWC, indices = isolated.read(kind, path, choose, start, end, deadline)
    return torch.from_numpy(frames_THWC).permute(0, 3, 1, 2), indices


def read_frames(path: str, indices: Sequence[int], reader: str = "auto") -> Tensor:
    """uint8 (T, C, H, W): the frames of a sequential decode at `indices`. Raises BrokenVideo, FileNotFoundError."""
    return read_clip(path, lambda length: list(indices), reader, deadline=None)[0]


def count_frames(path: str) -> int:
    """Decodable frames of a video, 1 for an image. Raises BrokenVideo, FileNotFoundError."""
    return 1 if is_image(str(path)) else av_reader.count(str(path))
