"""Which frames of a clip: equal segments, the middle of each at test, a random one when training (PAPER: Training)."""

import torch


def pick(
    length: int, num_frames: int, how: str = "uniform", generator: torch.Generator | None = None
) -> list[int]:
    """`num_frames` ascending indices into a clip of `length` frames, both 1 or more.

    The clip is cut into equal segments; "uniform" takes the middle of each (of two middle frames the first, as
    Frozen in Time does), "random" draws from each, so that every frame can come. A clip shorter than `num_frames`
    shows frames more than once.
    """
    if length < 1 or num_frames < 1:
        raise ValueError(f"{num_frames} frames of a clip of {length}: both must be at least 1")
    if how not in ("uniform", "random"):
        raise ValueError(f"frames are picked 'uniform' or 'random', not {how!r}")
    places = (
        torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
        if how == "random"
        else None
    )
    if length < num_frames:  # a segment is a piece of a frame
        places = places or [0.5] * num_frames
        return [
            min(int((i + place) * length / num_frames), length - 1)
            for i, place in enumerate(places)
        ]
    starts = _starts(length, num_frames)
    ends = [*starts[1:], length]
    if places is None:
        return [(start + end - 1) // 2 for start, end in zip(starts, ends)]
    return [
        min(start + int(place * (end - start)), end - 1)
        for start, end, place in zip(starts, ends, places)
    ]


def windows(length: int, num_frames: int, stride: int) -> list[list[int]]:
    """Sliding windows of the family: window w takes frame w * stride of each segment, while all have that many."""
    if length < 1 or num_frames < 1 or stride < 1:
        raise ValueError(
            f"{num_frames} frames of a clip of {length}, stride {stride}: all must be at least 1"
        )
    starts = _starts(length, num_frames)
    return [
        [start + offset for start in starts]
        for offset in range(0, max(1, length // num_frames), stride)
    ]


def _starts(length: int, num_frames: int) -> list[int]:
    return [i * length // num_frames for i in range(num_frames)]
