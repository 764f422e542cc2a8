"""Files or decoded frames -> clips as a data set's test split makes them, without a data set.

B clips, T frames, C = 3 channels, H height, W width.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from data_loader.frames import FrameChoice
from data_loader.reader import read_clip
from data_loader.settings import video_settings
from data_loader.transforms import build_transform
from parse_config import UserError

Video = str | os.PathLike | np.ndarray | torch.Tensor  # a path, or uint8 frames_THWC


class ClipReader:
    """Videos -> float32 video_BTCHW: the middle frame of each segment, the test transform.

    A video is a path, or its decoded RGB frames, uint8 (frames, H, W, 3), one or more. `video_params` are those of a
    data set. Raises BrokenVideo naming the file, FileNotFoundError, UserError for an array of another kind.
    """

    def __init__(self, video_params: Mapping[str, Any]) -> None:
        self.video = video_settings(video_params, "test")
        self.transform = build_transform(False, **self.video.transform_args)
        self._choice = FrameChoice(self.video.num_frames)

    def __call__(self, videos: Sequence[Video]) -> torch.Tensor:
        return torch.stack([self._read(video) for video in videos])

    def _read(self, video: Video) -> torch.Tensor:
        if isinstance(video, np.ndarray | torch.Tensor):
            return self.from_frames(video)
        return self.clip(video)

    def clip(
        self,
        path: str | os.PathLike,
        start: float | None = None,
        end: float | None = None,
    ) -> torch.Tensor:
        """float32 video_TCHW of the frames that begin between `start` and `end` (seconds), or of all."""
        clip_TCHW, _ = read_clip(
            path,
            self._choice,
            reader=self.video.reader,
            start=start,
            end=end,
            deadline=self.video.deadline,
            limits=self.video.limits,
        )
        return self.transform(clip_TCHW, None)

    def from_frames(self, frames_THWC: np.ndarray | torch.Tensor) -> torch.Tensor:
        """float32 video_TCHW of all decoded frames of a video, picked and transformed as those of a file are."""
        if isinstance(frames_THWC, np.ndarray):
            frames_THWC = (
                frames_THWC.copy()
            )  # torch takes no reversed or read-only array
        frames_THWC = torch.as_tensor(frames_THWC)
        is_uint8 = frames_THWC.dtype == torch.uint8
        is_rgb = frames_THWC.ndim == 4 and frames_THWC.shape[3] == 3
        if not is_uint8 or not is_rgb or len(frames_THWC) == 0:
            raise UserError(
                f"a video of shape {tuple(frames_THWC.shape)} and {frames_THWC.dtype} is given; frames are "
                f"uint8 of shape (frames, height, width, 3)"
            )
        picked_THWC = frames_THWC[self._choice(len(frames_THWC))]
        return self.transform(picked_THWC.permute(0, 3, 1, 2), None)
