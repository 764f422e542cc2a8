"""Several cuts of one video in one reading: what `read_clip` gives for each, without looking through the file for each.

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
from data_loader.readers import READERS, BrokenVideo, Choose
from data_loader.readers.av_reader import NotAsPlanned, Pictures, _promised, _walk, jump
from data_loader.readers.h264 import planned
from data_loader.readers.source import Source, cut

Span = tuple[float, float]


def read_spans(
    path: str | os.PathLike,
    spans: Sequence[Span],
    num_frames: int,
    deadline: float | None = 60.0,
) -> list[Tensor]:
    """uint8 (T, C, H, W) for each (start, end) in seconds, ascending: the middle frames of T equal parts.

    Raises BrokenVideo if any of them cannot be read, OSError for what cannot be opened. Pictures are all held at once.
    """
    READERS.register("spans")(_spans)  # here, not at import: its `choose` is not that of a reader
    with open(path, "rb"):
        pass
    choose = [num_frames, *(edge for span in spans for edge in span)]
    read = process.read if deadline else lambda name, *args: READERS.get(name)(*args[:-1])
    pictures_THWC, _ = read("spans", os.fspath(path), choose, None, spans[-1][1], deadline)
    return [
        torch.from_numpy(np.stack(list(part_THWC))).permute(0, 3, 1, 2)
        for part_THWC in (
            pictures_THWC[first : first + num_frames]
            for first in range(0, len(spans) * num_frames, num_frames)
        )
    ]


def _spans(path: str, choose: Choose, start: float | None, end: float | None) -> Pictures:
    num_frames, *edges = choose
    spans = list(zip(edges[::2], edges[1::2]))

    def wanted(seconds: list[float]) -> list[int]:
        found = [cut(seconds, *span) for span in spans]
        if any(first == last for first, last in found):
            raise BrokenVideo(path, "has no frame in a part of it")
        return [
            first + place for first, last in found for place in pick(last - first, int(num_frames))
        ]

    with suppress(NotAsPlanned, BrokenVideo), planned(path, end) as (source, plan):
        if plan:
            places = wanted(source.seconds(plan.stamps))
            seen = jump(source, plan, set(places))
            return [seen[place] for place in places], places
    believed, seconds = None, None
    while seconds is None or believed != wanted(seconds):
        with Source(path, end) as source:
            believed = wanted(_promised(source) if seconds is None else seconds)
            seen, seconds = _walk(source, set(believed))
    return [seen[place] for place in believed], believed
