"""Files -> clips as a model reads them, with the pictures to draw on and the seconds of the frames.

B = 1 clip, T frames, C channels, H, W pixels, P panel side.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_loader.decode.clip_reader import ClipReader
from data_loader.decode.timestamps import frame_seconds
from data_loader.frames import pick
from data_loader.reader import read_clip, read_frames
from data_loader.readers.image_reader import is_image
from data_loader.transforms import build_transform
from model import load_model
from model.miles import MILES
from parse_config import UserError
from scripts.figures.heatmap import PANEL

File = str | os.PathLike
MEMORY = 1 << 29  # bytes of whole frames that are held at once


class Clip(NamedTuple):
    """One clip.

    Args:
        name: of its file
        video_BTCHW: what the model reads
        picture_TPPC: the same view, uint8
        titles: one per frame
    """

    name: str
    video_BTCHW: Tensor
    picture_TPPC: np.ndarray
    titles: list[str]

    def titled_pictures(self) -> list[tuple[np.ndarray, str]]:
        """(picture, title) of each frame."""
        return list(zip(self.picture_TPPC, self.titles))


def open_models(
    models: MILES | File | Sequence[MILES | File], device: str = "cpu"
) -> list[MILES]:
    """One or several models, or what `load_model` opens -> models in eval mode that can read files."""
    if isinstance(models, MILES | str | os.PathLike):
        models = [models]

    return [
        model if isinstance(model, MILES) else load_model(model, device)
        for model in models
    ]


def read_clips(
    model: MILES, source: Tensor | File | Sequence[File], panel: int = PANEL
) -> list[Clip]:
    """Reads one or several files as the model's test split does, or takes a normalised video_BTCHW apart.

    Raises BrokenVideo, OSError, and UserError for a tensor of another size than the model's.
    """
    if isinstance(source, Tensor):
        return [
            _clip_of_tensor(model, video_TCHW[None], f"clip {i}", panel)
            for i, video_TCHW in enumerate(source)
        ]
    if isinstance(source, str | os.PathLike):
        source = [source]

    return [_clip_of_file(model, path, panel) for path in source]


def _clip_of_file(model: MILES, path: File, panel: int) -> Clip:
    """One frame of a file that has one, such as an image; else `num_frames`, the middle of each segment."""
    reader = clip_reader(model)

    def choose_frames(length: int) -> list[int]:
        if length == 1:
            return [0]
        return pick(length, reader.video.num_frames)

    video = reader.video
    frame_TCHW, indices = read_clip(
        path,
        choose_frames,
        reader=video.reader,
        deadline=video.deadline,
        limits=video.limits,
    )
    titles = frame_titles(path, indices, frame_seconds(path, video.deadline))
    return _clip_of_frames(reader, path, frame_TCHW, titles, panel)


def whole_clip(
    model: MILES, path: File, fps: float, max_frames: int, panel: int = PANEL
) -> tuple[Clip, list[float]]:
    """Reads frames all through a video: about `fps` per second, at most `max_frames`.

    Returns (the frames as a clip, their seconds).
    """
    reader = clip_reader(model)
    video = reader.video
    seconds = frame_seconds(path, video.deadline)
    num_frames = 0

    def choose_first(length: int) -> list[int]:
        nonlocal num_frames
        num_frames = length
        return [0]

    first_TCHW, _ = read_clip(
        path,
        choose_first,
        reader=video.reader,
        deadline=video.deadline,
        limits=video.limits,
    )

    indices = spread_frames(seconds, num_frames, fps, max_frames)
    chunk_size = max(1, MEMORY // first_TCHW[0].numel())
    chunks = []
    for start in range(0, len(indices), chunk_size):
        chunk_indices = indices[start : start + chunk_size]
        frame_TCHW = read_frames(
            path, chunk_indices, video.reader, video.deadline, video.limits
        )
        titles = frame_titles(path, chunk_indices, seconds)
        chunks.append(_clip_of_frames(reader, path, frame_TCHW, titles, panel))

    clip = Clip(
        chunks[0].name,
        torch.cat([chunk.video_BTCHW for chunk in chunks], 1),
        np.concatenate([chunk.picture_TPPC for chunk in chunks]),
        [title for chunk in chunks for title in chunk.titles],
    )
    return clip, [frame_second(seconds, index) for index in indices]


def spread_frames(
    seconds: Sequence[float], num_frames: int, fps: float, max_frames: int
) -> list[int]:
    """Ascending indices of frames evenly in time: about `fps` per second, at most `max_frames`.

    seconds: when each frame begins. `num_frames` is what the decoder finds, which may be another number.
    """
    times = np.asarray([frame_second(seconds, index) for index in range(num_frames)])
    num_chosen = min(num_frames, max_frames, max(1, round(times[-1] * fps) + 1))
    targets = np.linspace(times[0], times[-1], num_chosen)
    return sorted({int(np.abs(times - target).argmin()) for target in targets})


def frame_second(seconds: Sequence[float], index: int) -> float:
    """When a frame begins; a frame beyond the known ones begins with the last of them."""
    return seconds[min(index, len(seconds) - 1)]


def frame_titles(
    path: File, indices: Sequence[int], seconds: Sequence[float]
) -> list[str]:
    """When each frame begins, or "image"."""
    if is_image(os.fspath(path)):
        return ["image"] * len(indices)
    return [f"{frame_second(seconds, index):.2f} s" for index in indices]


def clip_reader(model: MILES) -> ClipReader:
    """The model's own reader, or one for its `preprocessing`."""
    if isinstance(model.clip_reader, ClipReader):
        return model.clip_reader
    return ClipReader(model.preprocessing)


def _clip_of_frames(
    reader: ClipReader, path: File, frame_TCHW: Tensor, titles: list[str], panel: int
) -> Clip:
    view = build_transform(
        False, input_res=panel, center_crop=panel, norm_mean=(0,) * 3, norm_std=(1,) * 3
    )
    return Clip(
        Path(path).name,
        reader.transform(frame_TCHW, None)[None],
        _to_uint8(view(frame_TCHW, None)),
        titles,
    )


def _clip_of_tensor(model: MILES, video_BTCHW: Tensor, name: str, panel: int) -> Clip:
    settings = clip_reader(model).video
    if tuple(video_BTCHW.shape[3:]) != (settings.input_res,) * 2:
        raise UserError(
            f"a clip of {tuple(video_BTCHW.shape[3:])} pixels is given, the model reads "
            f"{settings.input_res} x {settings.input_res}"
        )

    mean_C11 = torch.tensor(settings.norm_mean).view(-1, 1, 1)
    std_C11 = torch.tensor(settings.norm_std).view(-1, 1, 1)
    plain_TCHW = torch.nn.functional.interpolate(
        video_BTCHW[0].cpu() * std_C11 + mean_C11, (panel, panel), mode="bilinear"
    )
    titles = [f"frame {i}" for i in range(len(plain_TCHW))]
    return Clip(name, video_BTCHW, _to_uint8(plain_TCHW), titles)


def _to_uint8(frame_TCHW: Tensor) -> np.ndarray:
    """Frames of values from 0 to 1 -> uint8 (T, H, W, C)."""
    return (frame_TCHW.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
