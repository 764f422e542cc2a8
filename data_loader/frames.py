"""Which frames of a clip: equal segments, the middle of each at test, a random one when training (PAPER: Training)."""
import torch


def pick(length: int, num_frames: int, how: str = "uniform", generator: torch.Generator | None = None) -> list[int]:
    """`num_frames` ascending indices into a clip of `length` >= 1 frames.

    The clip is cut into equal segments; "uniform" takes the frame in the middle of each, "random" a uniformly drawn
    place of each. Every frame can be drawn; a clip shorter than `num_frames` shows frames more than once.
    """
    return [int(place) for place in _places(length, num_frames, how, generator)]


def windows(length: int, num_frames: int, stride: int) -> list[list[int]]:
    """Sliding windows of the family: window w takes frame w * stride of each segment, while that is inside of it."""
    if stride < 1:
        raise ValueError(f"a stride of {stride} frames does not move a window; 1 or more is needed")
    starts = [i * length // num_frames for i in range(num_frames)]
    shortest = max(1, length // num_frames)
    return [[min(start + offset, length - 1) for start in starts] for offset in range(0, shortest, stride)]


def _places(length: int, num_frames: int, how: str, generator: torch.Generator | None) -> list[float]:
    if length < 1 or num_frames < 1:
        raise ValueError(f"{num_frames} frames of a clip of {length}: both must be at least 1")
    if how == "uniform":
        return [(2 * i + 1) * length // (2 * num_frames) for i in range(num_frames)]
    if how == "random":
        draws = torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
        return [min(int((i + draw) * length / num_frames), length - 1) for i, draw in enumerate(draws)]
    raise ValueError(f"frames are picked 'uniform' or 'random', not {how!r}")
