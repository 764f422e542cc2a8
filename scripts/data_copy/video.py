"""One video -> its H.264 copy, with every frame that the reader sees at the time at which the reader sees it.

H, W: pixels of the copy.
"""

import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from data_loader.decode import process
from data_loader.decode.timestamps import frame_seconds
from data_loader.readers import BrokenVideo
from data_loader.readers.source import DEFAULT_FRAME_RATE, Source
from parse_config import UserError

TICKS = 90_000  # per second at least, in the copies' time stamps
TOLERANCE = 1e-3  # seconds by which the copy's frames may be early or late
TURN = 1.0  # seconds after which the child process says that it is alive: a long video may take hours

COMPLETE = object()


class Settings(NamedTuple):
    """How files are rewritten: short side in pixels, frames between keyframes, x264's quality."""

    side: int
    keyframe: int
    crf: int


class TargetError(UserError):
    """A file of the copy cannot be written: its disk is full, read-only or broken. No other can be written either."""

    def __init__(self, path: str, reason: str) -> None:
        remedy = "make room there or make it writable, or choose another folder"
        super().__init__(f"{path}: cannot be written ({reason}); {remedy}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["TargetError"], tuple[str, str]]:
        return TargetError, (self.path, self.reason)


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with a short side of `side` (never enlarged), both even as H.264 wants them."""
    scale = min(1.0, side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def write_video(
    source: Path, target: Path, settings: Settings, deadline: float | None = 60.0
) -> None:
    """Every frame of the best video stream, upright, with its time stamp; no sound. The copy is read and compared.

    deadline: seconds after which a decoder that gives no frame is ended; None or 0: no limit, in this process. Raises
    BrokenVideo for a source that cannot be copied, TargetError, OSError.
    """
    with open(source, "rb"):
        pass
    path = str(source)
    turn = min(TURN, deadline / 4) if deadline else TURN
    call = partial(process.call, path=path, deadline=deadline)
    call(_begin, path, str(target), settings)
    while not call(_go_on, path, turn):
        pass


# The copy that the child process works on, between two calls.
_copying: Iterator[None] | None = None


def _begin(source: str, target: str, settings: Settings) -> None:
    global _copying
    _copying = _copy(source, target, settings)


def _go_on(source: str, turn: float) -> bool:
    """Work for `turn` seconds; whether the copy is complete."""
    if _copying is None:
        raise BrokenVideo(source, "the process that decodes has ended")
    until = time.monotonic() + turn
    while next(_copying, COMPLETE) is not COMPLETE:
        if time.monotonic() > until:
            return False
    return True


def _copy(source: str, target: str, settings: Settings) -> Iterator[None]:
    """Write and compare; yields after every frame."""
    seconds, written = yield from _encode(source, target, settings)
    if _first_difference(written, seconds) is not None:
        # the reader does not take the time stamps as they are: they begin anew on the way, or some are absent
        _check_order(source, seconds)
        yield from _encode(source, target, settings, seconds)
    yield from _compare(source, target, seconds)


def _encode(
    source_path: str,
    target: str,
    settings: Settings,
    seconds: list[float] | None = None,
) -> Generator[None, None, tuple[list[float], list[float]]]:
    """Write the copy, its frames at `seconds`, or as their time stamps say.

    Returns when each frame begins in the source, by the reader's word, and in the copy, in seconds after the first.
    """
    stamps: list[int | None] = []
    options = {"movflags": "+faststart"}
    with Source(source_path) as source, _writing(source_path, target):
        clock = _Clock(source, seconds)
        with av.open(target, "w", format="mp4", options=options) as output:
            encoder = None
            for frame in source.frames():
                stamps.append(frame.pts)
                if encoder is None:
                    encoder = _Encoder(source, output, clock, frame, settings)
                encoder.write(frame, clock.stamp(frame))
                yield
            if encoder is None:
                reason = f"holds no frame that can be decoded ({source.damage or 'no packets'})"
                raise BrokenVideo(source_path, reason)
            encoder.end()
        return source.seconds(stamps), clock.written


def _first_difference(measured: list[float], expected: list[float]) -> int | None:
    """The first frame that is TOLERANCE early or late; None if there is none."""
    pairs = zip(measured, expected, strict=True)
    for number, (measured_start, expected_start) in enumerate(pairs):
        if abs(measured_start - expected_start) > TOLERANCE:
            return number
    return None


def _check_order(source: str, seconds: list[float]) -> None:
    """Raise BrokenVideo if a frame begins before the one that is shown before it."""
    for number, (before, after) in enumerate(pairwise(seconds), 1):
        if after < before - TOLERANCE:
            raise BrokenVideo(
                source,
                f"frame {number} begins at {after:.3f} s and the one before it at {before:.3f} s: time stamps that do "
                "not rise cannot be copied; use the original",
            )


def _compare(source: str, target: str, seconds: list[float]) -> Iterator[None]:
    """Decode the copy as the reader does; raises BrokenVideo if frames are missing or come at other times."""
    stamps = []
    with Source(target) as copy:
        for frame in copy.frames():
            stamps.append(frame.pts)
            yield
        copied_seconds = copy.seconds(stamps)

    for measured in (copied_seconds, frame_seconds(target)):
        if len(measured) != len(seconds):
            reason = f"its copy has {len(measured)} frames and not {len(seconds)}"
            raise BrokenVideo(source, reason)
        number = _first_difference(measured, seconds)
        if number is not None:
            raise BrokenVideo(
                source,
                f"frame {number} begins at {seconds[number]:.3f} s and in the copy at {measured[number]:.3f} s; use "
                "the original",
            )


@contextmanager
def _writing(source: str, target: str) -> Iterator[None]:
    """Errors of the system while the copy is written become TargetError, those of the encoder BrokenVideo."""
    try:
        yield
    except OSError as error:
        raise target_error(target, error) from None
    except av.FFmpegError as error:
        reason = f"cannot be written as H.264 ({error.strerror})"
        raise BrokenVideo(source, reason) from None


def target_error(path: str | Path, error: OSError) -> TargetError:
    return TargetError(str(path), error.strerror or str(error))


class _Clock:
    """When the frames of the copy begin, in a `tick` that divides the source's, so that nothing is rounded.

    seconds: of each frame; None: as its time stamp says, or evenly spaced if it has none. written: seconds after the
    first frame of those that were asked for.
    """

    def __init__(self, source: Source, seconds: list[float] | None) -> None:
        rate = source.stream.average_rate or source.stream.guessed_rate
        self.rate = rate or Fraction(DEFAULT_FRAME_RATE)
        self.written: list[float] = []
        self._seconds = seconds
        unit = source.time_base
        subdivisions = max(1, math.ceil(TICKS / unit.denominator))
        self.tick = Fraction(1, unit.denominator * subdivisions)
        self._ticks_per_unit = unit.numerator * subdivisions
        self._first: int | None = None
        self._last = -1

    def stamp(self, frame: av.VideoFrame) -> int:
        """Of the next frame, in ticks after the first."""
        # H.264 has no two at one time
        self._last = max(self._last + 1, self._ticks(frame, len(self.written)))
        self.written.append(float(self._last * self.tick))
        return self._last

    def _ticks(self, frame: av.VideoFrame, number: int) -> int:
        if self._seconds is not None:
            return round(self._seconds[number] / self.tick)
        if frame.pts is None:
            return round(number / self.rate / self.tick)
        if self._first is None:
            self._first = frame.pts
        return (frame.pts - self._first) * self._ticks_per_unit


class _Encoder:
    """The H.264 stream of an output file, of the size of its first frame."""

    def __init__(
        self,
        source: Source,
        output: OutputContainer,
        clock: _Clock,
        first_frame: av.VideoFrame,
        settings: Settings,
    ) -> None:
        self.source = source
        self.output = output
        self.clock = clock
        self.settings = settings
        self.size = scaled_size(first_frame.width, first_frame.height, settings.side)
        self.stream: VideoStream | None = None
        self._reformatter = VideoReformatter()

    def write(self, frame: av.VideoFrame, stamp: int) -> None:
        """The frame as the reader shows it: RGB, upright, in the size of the first frame."""
        picture_HWC = self._picture(frame)
        rgb = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")
        encoded = rgb.reformat(format="yuv420p")
        if self.stream is None:
            self.stream = self._add_stream(encoded.width, encoded.height)
        encoded.pts = stamp
        encoded.time_base = self.clock.tick
        encoded.pict_type = 0  # the encoder chooses
        self.output.mux(self.stream.encode(encoded))

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3), in the size of the copy."""
        quarter_turns = (frame.rotation // 90) % 4
        if any(component.is_alpha for component in frame.format.components):
            # what is transparent looks as the reader makes it look
            shown_HWC = np.rot90(self.source.picture(frame), -quarter_turns)
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(shown_HWC), format="rgb24"
            )
        rgb = self._reformatter.reformat(
            frame, *self.size, "rgb24", interpolation="AREA", threads=1
        )
        rgb_HWC = rgb.to_ndarray().astype(np.uint8, copy=False)
        return np.ascontiguousarray(np.rot90(rgb_HWC, quarter_turns))

    def end(self) -> None:
        """Write the frames that the encoder still holds."""
        assert self.stream is not None, "no frame was written"
        self.output.mux(self.stream.encode())

    def _add_stream(self, width: int, height: int) -> VideoStream:
        options = {
            "crf": str(self.settings.crf),
            "preset": "veryfast",
            "g": str(self.settings.keyframe),
            "sc_threshold": "0",
        }
        stream = self.output.add_stream(
            "libx264", rate=self.clock.rate, options=options
        )
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        stream.time_base = self.clock.tick
        stream.codec_context.time_base = self.clock.tick
        stream.codec_context.thread_count = 1
        return stream


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/prepare_data.py --help")
