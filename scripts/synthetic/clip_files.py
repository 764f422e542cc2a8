"""How `clips` writes its files: any codec and container that PyAV has, and damage of the usual kinds."""

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scripts.synthetic.drawing import draw

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder tells its life otherwise


def write(
    path: Path,
    codec: str = "libx264",
    length: int = 40,
    size: tuple[int, int] = (96, 64),
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    options: dict | None = None,
    muxer: dict | None = None,
    times: Sequence[int] | None = None,
    keys: Sequence[int] = (),
    rotation: int = 0,
    shift: int = 0,
    more: Callable | None = None,
) -> None:
    """Encode `length` numbered frames. `times`: of the frames in ms (variable rate); `keys`: frames that begin a group;
    `shift`: so many frames lie before zero (an edit list hides them); `more(out)` adds streams, returns what feeds
    them."""
    with av.open(str(path), "w", container_options=muxer or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        feed = more(out) if more else (lambda place: None)
        for place in range(length):
            frame = av.VideoFrame.from_ndarray(draw(place, *size), format="rgb24")
            frame.pict_type = 1 if place in keys else 0
            if times:
                frame.pts, frame.time_base = times[place], stream.codec_context.time_base
            _mux(out, stream.encode(frame), shift)
            feed(place)
        _mux(out, stream.encode(), shift)
        feed(None)


def _mux(out, packets, shift: int):
    for packet in packets:
        if shift:
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        out.mux(packet)


def x264(**params) -> dict:
    """Options for x264: groups of 12 with three B-frames, and what else is asked."""
    params = {"keyint": 12, "min_keyint": 12, "scenecut": 0, "bframes": 3, **params}
    return {
        "x264-params": ":".join(f"{key.replace('_', '-')}={value}" for key, value in params.items())
    }


def second_video(out):
    """`more`: a smaller stream of other pictures beside the main one."""
    small = out.add_stream("libx264", rate=25)
    small.width, small.height, small.pix_fmt = 48, 32, "yuv420p"

    def feed(place):
        frame = (
            None
            if place is None
            else av.VideoFrame.from_ndarray(draw(1023 - place, 48, 32), format="rgb24")
        )
        _mux(out, small.encode(frame), 0)

    return feed


def audio(out):
    """`more`: a tone, 40 ms a frame."""
    sound = out.add_stream("aac", rate=16000, layout="mono")

    def feed(place):
        frame = None
        if place is not None:
            wave = np.sin(np.arange(640) / 10)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, place * 640, Fraction(1, 16000)
        _mux(out, sound.encode(frame), 0)

    return feed


def cut(path: Path, start: float = 0, end: float = 1, **how) -> None:
    """The bytes of a clip between two shares of its length."""
    write(path, **how)
    data = path.read_bytes()
    path.write_bytes(data[int(start * len(data)) : int(end * len(data))])


def hole(path: Path, **how) -> None:
    """Zeros for a part of the pictures, as an unfinished download leaves them."""
    write(path, **how)
    data = bytearray(path.read_bytes())
    at, width = int(len(data) * 0.55), int(len(data) * 0.05)
    data[at : at + width] = bytes(width)
    path.write_bytes(data)


def sound_only(path: Path) -> None:
    """A second of sound without a picture."""
    with av.open(str(path), "w") as out:
        feed = audio(out)
        for place in [*range(25), None]:
            feed(place)
