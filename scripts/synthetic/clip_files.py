"""Writes the files of `clips`: any codec and container that PyAV has, and damage of the usual kinds."""

import os
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from scripts.synthetic.drawing import draw_number

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints its settings otherwise

MILLISECOND = Fraction(1, 1000)
KEY_FRAME = 1  # pict_type
AUDIO_RATE = 16000
FrameWriter = Callable[
    [int | None], None
]  # (frame number; None: the end) -> writes to another stream


def write_clip(
    path: Path,
    codec: str = "libx264",
    length: int = 40,
    size: tuple[int, int] = (96, 64),
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times_ms: Sequence[int] | None = None,
    key_frames: Iterable[int] = (),
    rotation: int = 0,
    hidden_frames: int = 0,
    add_stream: Callable[[OutputContainer], FrameWriter] | None = None,
) -> None:
    """Encode `length` numbered frames of `size` (width, height).

    `times_ms`: of the frames (variable rate); `key_frames`: those that begin a group; `hidden_frames`: so many lie
    before time zero (an edit list hides them); `add_stream` adds a second stream and returns what writes to it.
    """
    with av.open(
        str(path), "w", container_options=container_options or {}
    ) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt

        if times_ms:
            stream.codec_context.time_base = MILLISECOND
        if rotation:
            stream.set_display_rotation(rotation)

        write_frame = add_stream(container) if add_stream else None
        for number in range(length):
            frame = av.VideoFrame.from_ndarray(
                draw_number(number, *size), format="rgb24"
            )
            frame.pict_type = KEY_FRAME if number in key_frames else 0

            if times_ms:
                frame.pts = times_ms[number]
                frame.time_base = MILLISECOND

            _mux(container, stream.encode(frame), hidden_frames)
            if write_frame:
                write_frame(number)
        _mux(container, stream.encode(), hidden_frames)
        if write_frame:
            write_frame(None)


def _mux(
    container: OutputContainer, packets: Iterable[av.Packet], hidden_frames: int = 0
) -> None:
    for packet in packets:
        if hidden_frames and packet.pts is not None and packet.dts is not None:
            packet.pts -= hidden_frames
            packet.dts -= hidden_frames
        container.mux(packet)


def x264(**params: Any) -> dict[str, str]:
    """Options for x264: groups of 12 with three B-frames, and `params`."""
    params = {"keyint": 12, "min_keyint": 12, "scenecut": 0, "bframes": 3, **params}
    pairs = [f"{key.replace('_', '-')}={value}" for key, value in params.items()]
    return {"x264-params": ":".join(pairs)}


def second_video(container: OutputContainer) -> FrameWriter:
    """`add_stream`: a smaller stream of other pictures beside the main one."""
    stream = container.add_stream("libx264", rate=25)
    stream.width = 48
    stream.height = 32
    stream.pix_fmt = "yuv420p"

    def write_frame(number: int | None) -> None:
        frame = None
        if number is not None:
            picture_HWC = draw_number(1023 - number, 48, 32)
            frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")
        _mux(container, stream.encode(frame))

    return write_frame


def audio(container: OutputContainer) -> FrameWriter:
    """`add_stream`: a tone, 40 ms per frame."""
    stream = container.add_stream("aac", rate=AUDIO_RATE, layout="mono")
    assert isinstance(stream, AudioStream)
    samples_per_frame = 640

    def write_frame(number: int | None) -> None:
        frame = None
        if number is not None:
            wave = np.sin(np.arange(samples_per_frame) / 10)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = AUDIO_RATE
            frame.pts = number * samples_per_frame
            frame.time_base = Fraction(1, AUDIO_RATE)
        _mux(container, stream.encode(frame))

    return write_frame


def write_excerpt(
    path: Path, start: float = 0, end: float = 1, **clip_options: Any
) -> None:
    """The bytes of a clip between two fractions of its file."""
    write_clip(path, **clip_options)
    data = path.read_bytes()
    path.write_bytes(data[int(start * len(data)) : int(end * len(data))])


def write_with_hole(path: Path, **clip_options: Any) -> None:
    """A clip with zeros in place of some of its pictures, as an unfinished download leaves them."""
    write_clip(path, **clip_options)
    data = bytearray(path.read_bytes())
    start = int(len(data) * 0.55)
    width = int(len(data) * 0.05)
    data[start : start + width] = bytes(width)
    path.write_bytes(data)


def write_sound(path: Path) -> None:
    """A second of sound without a picture."""
    with av.open(str(path), "w") as container:
        write_frame = audio(container)
        for number in range(25):
            write_frame(number)
        write_frame(None)


def write_text(path: Path, text: str) -> None:
    path.write_text(text)


def write_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
