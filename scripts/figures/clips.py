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
    """`video_BTCHW`: what the model reads, one clip. `picture_TPPC`: the same view, uint8. `titles`: one a frame."""

    name: str
    video_BTCHW: Tensor
    picture_TPPC: np.ndarray
    titles: list[str]


def models(given: MILES | File | Sequence[MILES | File], device: str = "cpu") -> list[MILES]:
    """Models, or checkpoints and exported folders -> models in eval mode that can read files."""
    given = [given] if isinstance(given, MILES | str | os.PathLike) else list(given)
    return [one if isinstance(one, MILES) else load_model(one, device) for one in given]


def clips(model: MILES, given: Tensor | File | Sequence[File], panel: int = PANEL) -> list[Clip]:
    """Files, or clips that were read already, as the model's test split reads them. Raises BrokenVideo, OSError."""
    if isinstance(given, Tensor):
        return [
            _from_tensor(model, video[None], f"clip {i}", panel) for i, video in enumerate(given)
        ]
    return [
        _from_file(model, path, panel)
        for path in ([given] if isinstance(given, str | os.PathLike) else given)
    ]


def _from_file(model: MILES, path: File, panel: int) -> Clip:
    """One frame of a file that has one, an image above all; else `num_frames`, the middle of each segment."""
    reader = reader_of(model)
    frame_TCHW, indices = read_clip(
        path,
        lambda length: [0] if length == 1 else pick(length, reader.video.num_frames),
        reader=reader.video.reader,
        deadline=reader.video.deadline,
    )
    return _clip(reader, path, frame_TCHW, indices, panel)


def whole_clip(
    model: MILES, path: File, fps: float, most: int, panel: int = PANEL
) -> tuple[Clip, list[float]]:
    """Frames all through a video, about `fps` a second and not more than `most` -> (them as a clip, their seconds)."""
    reader, asked = reader_of(model), []
    seconds = frame_seconds(path)

    def choose(length: int) -> list[int]:
        at = np.asarray((seconds + seconds[-1:] * length)[:length])
        shown = min(length, most, max(1, round(at[-1] * fps) + 1))
        asked[:] = sorted({int(np.abs(at - t).argmin()) for t in np.linspace(at[0], at[-1], shown)})
        return asked[:1]

    first_TCHW, _ = read_clip(
        path, choose, reader=reader.video.reader, deadline=reader.video.deadline
    )
    part = max(1, MEMORY // first_TCHW[0].numel())
    parts = [
        _clip(
            reader,
            path,
            read_frames(path, asked[i : i + part], reader.video.reader, reader.video.deadline),
            asked[i : i + part],
            panel,
            seconds,
        )
        for i in range(0, len(asked), part)
    ]
    joined = Clip(
        parts[0].name,
        torch.cat([p.video_BTCHW for p in parts], 1),
        np.concatenate([p.picture_TPPC for p in parts]),
        [t for p in parts for t in p.titles],
    )
    return joined, [seconds[min(i, len(seconds) - 1)] for i in asked]


def reader_of(model: MILES) -> ClipReader:
    """The model's own, or one for its `preprocessing`."""
    reader = model.clip_reader
    return reader if isinstance(reader, ClipReader) else ClipReader(model.preprocessing)


def _clip(
    reader: ClipReader,
    path: File,
    frame_TCHW: Tensor,
    indices: Sequence[int],
    panel: int,
    seconds: Sequence[float] | None = None,
) -> Clip:
    view = build_transform(
        False, input_res=panel, center_crop=panel, norm_mean=(0,) * 3, norm_std=(1,) * 3
    )
    seconds = frame_seconds(path) if seconds is None else seconds
    titles = [
        "image" if is_image(os.fspath(path)) else f"{seconds[min(i, len(seconds) - 1)]:.2f} s"
        for i in indices
    ]
    return Clip(
        Path(path).name,
        reader.transform(frame_TCHW, None)[None],
        _pictures(view(frame_TCHW, None)),
        titles,
    )


def _from_tensor(model: MILES, video_BTCHW: Tensor, name: str, panel: int) -> Clip:
    settings = reader_of(model).video
    if tuple(video_BTCHW.shape[3:]) != (settings.input_res,) * 2:
        raise UserError(
            f"a clip of {tuple(video_BTCHW.shape[3:])} pixels is given, the model reads "
            f"{settings.input_res} x {settings.input_res}"
        )
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (settings.norm_mean, settings.norm_std))
    plain_TCHW = torch.nn.functional.interpolate(
        video_BTCHW[0].cpu() * std + mean, (panel, panel), mode="bilinear"
    )
    titles = [f"frame {i}" for i in range(len(plain_TCHW))]
    return Clip(name, video_BTCHW, _pictures(plain_TCHW), titles)


def _pictures(frame_TCHW: Tensor) -> np.ndarray:
    return (frame_TCHW.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
