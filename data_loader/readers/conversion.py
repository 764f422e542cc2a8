"""Of which files another FFmpeg than PyAV's makes the same RGB pictures, given that it decodes the same ones.

8-bit 4:2:0 of even size is converted pixel by pixel, by integer arithmetic that all releases share; what has odd sizes
or more bits is interpolated or dithered, as each release and processor does it. Newer releases convert pictures that
are flagged as interlaced field by field, older ones do not.
"""

from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

from data_loader.readers.source import Source

FULL_RANGE = 2  # FFmpeg's number of the colour range from 0 to 255
# 8-bit 4:2:0 -> whether it has the full range
FORMATS = {"yuv420p": False, "yuvj420p": True}
NOISE_HEIGHT = 64  # lines are converted one pair after the other: a strip shows as much as a whole picture

# Types of supplemental messages that may change how the pictures behind them are shown, and the units that hold them.
ALTERING = {1: "interlacing", 19: "film grain", 47: "rotation"}
H264_MESSAGES = 6  # nal_unit_type
HEVC_MESSAGES = 39


class NotExact(Exception):
    """Why frames are not proven to be those of a decode of the whole file; the message continues "it"."""


class ColourFormat(NamedTuple):
    """What the conversion to RGB depends on: FFmpeg's name of the pixels, their width, its number of the matrix."""

    pixels: str
    width: int
    space: int


def colour_format(source: Source) -> ColourFormat:
    """The format of all pictures of an H.264 or HEVC file with a seek plan. Raises NotExact."""
    first_frame = next(source.frames(), None)
    if first_frame is None:
        raise NotExact("has no first frame")
    colours = format_of_frame(first_frame)

    altered = [ALTERING[number] for number in message_types(source) & ALTERING.keys()]
    if altered:
        raise NotExact(f"may change its {min(altered)} on the way")
    return colours


def format_of_frame(frame: av.VideoFrame) -> ColourFormat:
    """The format of one picture. Raises NotExact."""
    if frame.format.name not in FORMATS:
        raise NotExact(f"has pictures in {frame.format.name}")
    if (frame.color_range == FULL_RANGE) != FORMATS[frame.format.name]:
        raise NotExact("contradicts itself on its range of colours")
    if frame.width % 2 or frame.height % 2:
        raise NotExact("has pictures of odd size")
    if frame.interlaced_frame:
        raise NotExact("has interlaced pictures")
    if frame.rotation:
        raise NotExact("is rotated")
    return ColourFormat(frame.format.name, frame.width, frame.colorspace)


def write_noise(path: str, colours: ColourFormat) -> None:
    """An H.264 file of one noisy picture in this format."""
    rng = np.random.default_rng(0)
    frame = av.VideoFrame(colours.width, NOISE_HEIGHT, colours.pixels)
    for plane in frame.planes:
        plane.update(rng.bytes(plane.buffer_size))

    with av.open(path, "w") as container:
        options = {"preset": "ultrafast", "qp": "10"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width = colours.width
        stream.height = NOISE_HEIGHT
        stream.pix_fmt = colours.pixels
        stream.codec_context.colorspace = colours.space
        stream.codec_context.color_range = FULL_RANGE if FORMATS[colours.pixels] else 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def message_types(source: Source) -> set[int]:
    """The types of all supplemental messages (SEI) of an H.264 or HEVC file, in an mp4's form."""
    extradata = source.decoder.extradata or b""
    is_hevc = source.decoder.name == "hevc"
    length_size = 1 + (extradata[21 if is_hevc else 4] & 3)

    types: set[int] = set()
    for packet in source.packets():
        for unit in _leading_units(memoryview(packet), length_size, is_hevc):
            types.update(types_in_unit(unit[2 if is_hevc else 1 :]))
    return types


def _leading_units(
    data: memoryview, length_size: int, is_hevc: bool
) -> Iterator[bytes]:
    """The units of a packet that hold messages, in front of its picture."""
    position = 0
    while position + length_size < len(data):
        start = position + length_size
        position = start + int.from_bytes(data[position:start], "big")
        if is_hevc:
            unit_type = data[start] >> 1 & 63
            is_picture = unit_type < 32
        else:
            unit_type = data[start] & 31
            is_picture = unit_type in (1, 5)
        if is_picture:
            return
        if unit_type == (HEVC_MESSAGES if is_hevc else H264_MESSAGES):
            yield bytes(data[start:position])


def types_in_unit(content: bytes) -> Iterator[int]:
    """The types of the messages in a unit, without its header; each has a type, a size and that many bytes."""
    content = content.replace(b"\0\0\3", b"\0\0")
    position = 0
    while position + 2 < len(content):
        numbers = []  # type and size: each a sum of bytes up to the first below 255
        for _ in range(2):
            number = 0
            while content[position : position + 1] == b"\xff":
                number += 255
                position += 1
            number += int.from_bytes(content[position : position + 1], "big")
            position += 1
            numbers.append(number)
        yield numbers[0]
        position += numbers[1]
