"""Files -> clips as a data set's test split makes them, without a data set. B clips, T frames."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from data_loader.frames import pick
from data_loader.reader import read_clip
from data_loader.settings import video_settings
from data_loader.transforms import build_transform


class ClipReader:
    """paths -> float32 video_BTCHW: the middle frame of each segment, the test transform.

    `video_params` are those of a data set. Raises BrokenVideo naming the file, FileNotFoundError.
    """

    def __init__(self, video_params: Mapping[str, Any]):
        self.video = video_settings(video_params, "test")
        self.transform = build_transform(False, **self.video.transform_args)

    def __call__(self, paths: Sequence[str | os.PathLike]) -> torch.Tensor:
        return torch.stack([self.clip(path) for path in paths])

    def clip(
        self, path: str | os.PathLike, start: float | None = None, end: float | None = None
    ) -> torch.Tensor:
        """float32 video_TCHW of the frames that begin between `start` and `end` (seconds), or of all."""
        clip_TCHW, _ = read_clip(
            path,
            lambda length: pick(length, self.video.num_frames),
            reader=self.video.reader,
            start=start,
            end=end,
            deadline=self.video.deadline,
        )
        return self.transform(clip_TCHW, None)
