"""How large pictures and clips may be: a small file can hold pictures that fill the memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from data_loader.readers import BrokenVideo


class Limits(NamedTuple):
    """max_pixels: of one picture; max_clip_bytes: of all frames of a clip, 3 bytes per pixel."""

    max_pixels: int = 64_000_000
    max_clip_bytes: int = 1 << 30


DEFAULT_LIMITS = Limits()
_limits: ContextVar[Limits] = ContextVar("limits")


@contextmanager
def limited_to(limits: Limits) -> Iterator[None]:
    """Within it, the readers of this thread keep to `limits`."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


def current_limits() -> Limits:
    """The limits that the readers of this thread keep to."""
    return _limits.get(DEFAULT_LIMITS)


def check_pixels(path: str, width: int, height: int) -> None:
    """BrokenVideo if a picture of this size is larger than the limit."""
    limit = current_limits().max_pixels
    if width * height > limit:
        raise BrokenVideo(
            path,
            f"has pictures of {width} x {height}, more than the {limit:,} pixels of video_params.max_pixels; "
            "raise it, or leave the file out",
        )


def check_clip(path: str, frames: int, width: int, height: int) -> None:
    """BrokenVideo if so many frames of this size are more than the limit."""
    limit = current_limits().max_clip_bytes
    size = frames * width * height * 3
    if size > limit:
        raise BrokenVideo(
            path,
            f"{frames} frames of {width} x {height} take {size:,} bytes, more than the {limit:,} of "
            "video_params.max_clip_bytes; raise it, or make a smaller copy with scripts/prepare_data.py",
        )
