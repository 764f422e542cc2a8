"""Which frames of a clip are read: one of each equal segment, its middle for testing, a random one for training."""

from dataclasses import dataclass

import torch

from data_loader import seeding


@dataclass(frozen=True)
class FrameChoice:
    """`pick` for a clip whose length is not yet known: called with it, in whatever process, it gives the indices.

    seeds: of the random draws; none for "uniform"
    """

    num_frames: int
    how: str = "uniform"
    seeds: tuple[int, ...] = ()

    def __call__(self, length: int) -> list[int]:
        generator = seeding.generator(*self.seeds) if self.seeds else None
        return pick(length, self.num_frames, self.how, generator)


def pick(
    length: int,
    num_frames: int,
    how: str = "uniform",
    generator: torch.Generator | None = None,
) -> list[int]:
    """`num_frames` ascending indices into a clip of `length` frames, both 1 or more.

    The clip is divided into equal segments; "uniform" takes the middle of each (of two middle frames the first, as
    Frozen in Time does), "random" draws one from each, every frame with the same probability. A clip shorter than
    `num_frames` shows frames more than once. Raises ValueError.
    """
    if length < 1 or num_frames < 1:
        raise ValueError(
            f"{num_frames} frames of a clip of {length}: both must be at least 1"
        )

    if how == "uniform":
        return _pick_middle(length, num_frames)
    if how == "random":
        return _pick_random(length, num_frames, generator)
    raise ValueError(f"frames are picked 'uniform' or 'random', not {how!r}")


def _pick_middle(length: int, num_frames: int) -> list[int]:
    if length < num_frames:
        return _fractional_indices(length, [0.5] * num_frames)
    segments = _segments(length, num_frames)
    return [(start + end - 1) // 2 for start, end in segments]


def _pick_random(
    length: int, num_frames: int, generator: torch.Generator | None
) -> list[int]:
    draws = torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
    if length < num_frames:
        return _fractional_indices(length, draws)
    segments = _segments(length, num_frames)
    return [
        min(start + int(draw * (end - start)), end - 1)
        for (start, end), draw in zip(segments, draws)
    ]


def _fractional_indices(length: int, offsets: list[float]) -> list[int]:
    """Indices into a clip whose segments are shorter than a frame; `offsets`: in [0, 1), within each segment."""
    count = len(offsets)
    return [
        min(int((i + offset) * length / count), length - 1)
        for i, offset in enumerate(offsets)
    ]


def windows(length: int, num_frames: int, stride: int) -> list[list[int]]:
    """Sliding windows of the Frozen-in-Time codebases: window w takes frame w * stride of each segment.

    There are as many as all segments have frames for. Raises ValueError.
    """
    if length < 1 or num_frames < 1 or stride < 1:
        raise ValueError(
            f"{num_frames} frames of a clip of {length}, stride {stride}: all must be at least 1"
        )
    starts = [start for start, _ in _segments(length, num_frames)]
    offsets = range(0, max(1, length // num_frames), stride)
    return [[start + offset for start in starts] for offset in offsets]


def _segments(length: int, num_frames: int) -> list[tuple[int, int]]:
    """(start, end) of `num_frames` equal segments of a clip, end not included."""
    edges = [i * length // num_frames for i in range(num_frames + 1)]
    return list(zip(edges, edges[1:]))
