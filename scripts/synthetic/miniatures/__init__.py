"""Miniature trees of every data set in every layout that is in use: invented captions, small generated clips.

    args, expected = miniatures.build("MSRVTT", folder, layout="Frozen", videos=8)
    DATASETS.build({"type": "MSRVTT", "args": {**args, "split": "train"}})

`expected` is {split: {video id: captions}}. A writer is registered by decorating it with `miniature`; it takes the
folder and the number of videos per split. Videos are numbered from 0 on through all splits.
"""

import colorsys
import functools
import importlib
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

Expected = dict[str, dict[str, tuple[str, ...]]]
Writer = Callable[[Path, int], Expected]

SUBJECTS = (
    "a red fox",
    "two old sailors",
    "my neighbour",
    "a tired robot",
    "the choir",
    "one small dragon",
    "a baker",
    "three geese",
    "the night nurse",
    "a paper kite",
    "some miners",
    "a juggler",
    "her cousin",
    "an owl",
)
VERBS = (
    "paints",
    "carries",
    "forgets",
    "repairs",
    "chases",
    "weighs",
    "sells",
    "buries",
    "polishes",
    "draws",
    "hides",
)
OBJECTS = (
    "a wooden boat",
    "the green door",
    "seven lemons",
    "an engine",
    "a brass bell",
    "the last chair",
    "a map",
    "the icy bridge",
    "a yellow tent",
    "some warm bread",
    "the clock tower",
    "a carpet",
    "the long rope",
)
CODECS = {
    ".mp4": "libx264",
    ".avi": "mpeg4",
    ".webm": "libvpx",
    ".mkv": "libx264",
    ".mov": "libx264",
    ".3gp": "mpeg4",
}
IMAGE_FORMATS = {".png": "PNG", ".webp": "WEBP"}
NUM_COLOURS = 8  # of the videos: each is encoded once


class Miniature(NamedTuple):
    """One data set in one layout; `write(folder, count)` makes `count` clips per split and returns `Expected`."""

    dataset: str
    layout: str
    args: dict[str, Any]
    write: Writer


MINIATURES: list[Miniature] = []


def miniature(dataset: str, layout: str, **args: Any) -> Callable[[Writer], Writer]:
    """Register a writer. `layout` is in the data set's own words for it; `args` go beside data_dir in the JSON."""

    def register(write: Writer) -> Writer:
        MINIATURES.append(Miniature(dataset, layout, args, write))
        return write

    return register


def build(
    dataset: str, folder: Path, layout: str = "", videos: int = 4
) -> tuple[dict[str, Any], Expected]:
    """Write the first miniature of `dataset` whose layout contains `layout`: (JSON args, expected content)."""
    matching = next(
        m for m in MINIATURES if m.dataset == dataset and layout in m.layout
    )
    expected = matching.write(Path(folder), videos)
    return {"data_dir": str(folder), **matching.args}, expected


def sentence(video: int, caption: int = 0) -> str:
    """An invented caption; distinct for video < 154 and caption < 13."""
    subject = SUBJECTS[video % len(SUBJECTS)]
    verb = VERBS[video % len(VERBS)]
    return f"{subject} {verb} {OBJECTS[(video + caption) % len(OBJECTS)]}"


def sentences(video: int, count: int) -> tuple[str, ...]:
    """The first `count` captions of a video."""
    return tuple(sentence(video, caption) for caption in range(count))


def split_numbers(splits: tuple[str, ...], count: int) -> dict[str, list[int]]:
    """The numbers of the videos of each split, `count` per split, ascending."""
    return {
        split: list(range(count * index, count * index + count))
        for index, split in enumerate(splits)
    }


def write_text(path: Path, content: str, newline: str = "\n") -> Path:
    """Write UTF-8 text exactly as given, with its line ends as `newline`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.replace("\n", newline).encode())
    return path


def draw_picture(
    video: int, frame: int = 0, height: int = 48, width: int = 64
) -> np.ndarray:
    """uint8 (height, width, 3): the video's own colour, a bright bar that moves with the frame."""
    colour = colorsys.hsv_to_rgb(video % NUM_COLOURS / NUM_COLOURS, 0.8, 0.6)
    picture_HWC = np.full((height, width, 3), np.array(colour) * 255, np.uint8)
    bar_left = frame * 4 % width
    picture_HWC[:, bar_left : bar_left + 6] = 240
    return picture_HWC


def encode_media(suffix: str, video: int, frames: int = 8, rate: int = 8) -> bytes:
    """The bytes of a small clip, or of a picture if `suffix` is not in CODECS."""
    return _encode(suffix, video % NUM_COLOURS, frames, rate)


@functools.lru_cache(maxsize=64)
def _encode(suffix: str, colour: int, frames: int, rate: int) -> bytes:
    buffer = io.BytesIO()
    if suffix not in CODECS:
        Image.fromarray(draw_picture(colour)).save(
            buffer, IMAGE_FORMATS.get(suffix, "JPEG")
        )
        return buffer.getvalue()
    container_format = "matroska" if suffix == ".mkv" else suffix[1:]
    with av.open(buffer, "w", format=container_format) as output:
        stream = output.add_stream(CODECS[suffix], rate=Fraction(rate))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = draw_picture(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(
                draw_picture(colour, number), format="rgb24"
            )
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def write_media(
    path: Path, video: int = 0, frames: int = 8, rate: int = 8, suffix: str = ""
) -> Path:
    """Write a small clip or picture. Its format is that of the path's suffix, or of `suffix` if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_media(suffix or path.suffix.lower(), video, frames, rate))
    return path


for _module in ("retrieval", "pretraining", "other"):
    importlib.import_module(f"{__name__}.{_module}")
