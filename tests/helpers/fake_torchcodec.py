"""A stand-in for torchcodec that decodes with PyAV, and can be told to go wrong in each of the ways that it may."""

from io import FileIO
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from data_loader.readers import torchcodec_reader
from data_loader.readers.source import Source
from parse_config import ConfigError


def torchcodec_loads() -> bool:
    """Whether the real one is here, with an FFmpeg."""
    try:
        torchcodec_reader.load_torchcodec()
    except ConfigError:
        return False
    return True


class FakeTorchcodec(ModuleType):
    """The module. `opened`: the file of each decoder.

    shift_colours: added to every value of every picture; shift_seconds: to every time stamp; extra_frames: to the
    length; error: raised for each request of a file; message: FFmpeg writes to its log while it decodes.
    """

    def __init__(self, core_library_path: str | None = "fake") -> None:
        super().__init__("torchcodec")
        self.core_library_path = core_library_path
        self.opened: list[str] = []
        self.shift_colours = 0
        self.shift_seconds = 0.0
        self.extra_frames = 0
        self.error: Exception | None = None
        self.message = False
        self.decoders = SimpleNamespace(VideoDecoder=self.open_video)

    def open_video(self, source: FileIO | str, **_: Any) -> "FakeDecoder":
        path = source if isinstance(source, str) else str(source.name)
        if not path.endswith("noise.mp4"):
            self.opened.append(path)
        return FakeDecoder(self, path)


class FakeDecoder:
    """torchcodec's VideoDecoder, in the order NHWC."""

    def __init__(self, module: FakeTorchcodec, path: str) -> None:
        self.module = module
        self.path = path
        with Source(path) as source:
            pairs = [
                (frame.pts, source.picture(frame).copy()) for frame in source.frames()
            ]
            self.seconds = source.time_base * np.array([stamp for stamp, _ in pairs])
        self.pictures = [picture_HWC for _, picture_HWC in pairs]

    def __len__(self) -> int:
        return len(self.pictures) + self.module.extra_frames

    def get_frames_at(self, positions: list[int]) -> SimpleNamespace:
        if self.module.error and self.path in self.module.opened:
            raise self.module.error
        if self.module.message:
            torchcodec_reader._ffmpeg_log.has_messages = True
        frames_THWC = np.stack([self.pictures[position] for position in positions])
        seconds = [
            float(self.seconds[position]) + self.module.shift_seconds
            for position in positions
        ]
        return SimpleNamespace(
            data=torch.from_numpy(frames_THWC + np.uint8(self.module.shift_colours)),
            pts_seconds=torch.tensor(seconds, dtype=torch.float64),
        )
