"""Clips of several segments of one video from a single decode.

T frames, C = 3, H, W in pixels.
"""

import os
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from data_loader.decode import process
from data_loader.frames import pick
from data_loader.readers import BrokenVideo, Pictures
from data_loader.readers.av_reader import decode_positions, decode_sequentially
from data_loader.readers.limits import DEFAULT_LIMITS, Limits, check_clip, limited_to
from data_loader.readers.seek_plan import NotAsPlanned, open_with_plan
from data_loader.readers.source import Source, frame_range

Segment = tuple[float, float]


def read_segments(
    path: str | os.PathLike,
    segments: Sequence[Segment],
    num_frames: int,
    deadline: float | None = 60.0,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Tensor]:
    """A clip, uint8 (T, C, H, W), for each (start, end) in seconds, ascending: what `read_clip` gives for each.

    Each clip is the middle frames of `num_frames` equal parts of its segment. All are held in memory at once. Raises
    BrokenVideo if any of them cannot be read, OSError for what cannot be opened.
    """
    path = os.fspath(path)
    args = (path, list(segments), num_frames, limits)
    frames, _ = process.call(_read_segments, *args, path=path, deadline=deadline)

    clips = []
    for first in range(0, len(segments) * num_frames, num_frames):
        clip_THWC = np.stack(list(frames[first : first + num_frames]))
        clips.append(torch.from_numpy(clip_THWC).permute(0, 3, 1, 2))
    return clips


def _read_segments(
    path: str, segments: list[Segment], num_frames: int, limits: Limits
) -> Pictures:
    """The frames of all segments one after the other, and their positions in the video."""
    with limited_to(limits):
        pictures = _plan_or_decode_segments(path, segments, num_frames)
        height, width, _ = pictures.frames[0].shape
        check_clip(path, len(pictures.frames), width, height)
        return pictures


def _plan_or_decode_segments(
    path: str, segments: list[Segment], num_frames: int
) -> Pictures:
    end = segments[-1][1]
    with (
        suppress(NotAsPlanned, BrokenVideo),
        open_with_plan(path, end) as (source, plan),
    ):
        if plan:
            positions = _positions(
                path, source.seconds(plan.stamps.tolist()), segments, num_frames
            )
            pictures = decode_positions(source, plan, set(positions))
            return Pictures([pictures[position] for position in positions], positions)
    return _decode_segments(path, segments, num_frames)


def _decode_segments(path: str, segments: list[Segment], num_frames: int) -> Pictures:
    """The same from a decode from the first frame on, repeated until the time stamps of its frames are as expected."""
    end = segments[-1][1]
    with Source(path, end) as source:
        positions = _positions(path, source.packet_seconds(), segments, num_frames)
        pictures, seconds = decode_sequentially(source, set(positions))

    while positions != (corrected := _positions(path, seconds, segments, num_frames)):
        positions = corrected
        with Source(path, end) as source:
            pictures, seconds = decode_sequentially(source, set(positions))
    return Pictures([pictures[position] for position in positions], positions)


def _positions(
    path: str, seconds: list[float], segments: list[Segment], num_frames: int
) -> list[int]:
    """Positions in the video of the frames of all segments; `seconds`: when each frame of the video begins."""
    positions = []
    for start, end in segments:
        first, stop = frame_range(seconds, start, end)
        if first == stop:
            raise BrokenVideo(path, "has no frame in a part of it")
        positions += [first + index for index in pick(stop - first, num_frames)]
    return positions
