"""Miniature trees of every data set in every layout that is in use: invented captions, small generated clips.

    args, expected = miniatures.build("MSRVTT", folder, layout="Frozen", videos=8)
    DATASETS.build({"type": "MSRVTT", "args": {**args, "split": "train"}})

`expected` is {split: {video id: captions}}. A writer is registered by decorating it with `miniature`.
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
from PIL import Image

Expected = dict[str, dict[str, tuple[str, ...]]]
WHO = (
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
DOES = (
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
WHAT = (
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


class Miniature(NamedTuple):
    """One data set in one layout; `write(folder, videos)` makes `videos` clips a split and returns `Expected`."""

    dataset: str
    layout: str
    args: dict[str, Any]
    write: Callable[[Path, int], Expected]


MINIATURES: list[Miniature] = []


def miniature(dataset: str, layout: str, **args: Any) -> Callable:
    """Register a writer. `layout` stands in the loader's own words for it; `args` go beside data_dir in the JSON."""

    def enter(write):
        MINIATURES.append(Miniature(dataset, layout, args, write))
        return write

    return enter


def build(
    dataset: str, folder: Path, layout: str = "", videos: int = 4
) -> tuple[dict[str, Any], Expected]:
    """Write the first miniature of `dataset` (whose layout contains `layout`) -> (JSON args, expected content)."""
    found = next(m for m in MINIATURES if m.dataset == dataset and layout in m.layout)
    expected = found.write(Path(folder), videos)
    return {"data_dir": str(folder), **found.args}, expected


def sentence(video: int, caption: int = 0) -> str:
    """An invented caption; distinct for video < 154 and caption < 13."""
    return (
        f"{WHO[video % len(WHO)]} {DOES[video % len(DOES)]} {WHAT[(video + caption) % len(WHAT)]}"
    )


def sentences(video: int, count: int) -> tuple[str, ...]:
    return tuple(sentence(video, caption) for caption in range(count))


def write_text(path: Path, content: str, newline: str = "\n") -> Path:
    """Write UTF-8 text exactly as given, with its line ends as `newline`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.replace("\n", newline).encode())
    return path


def picture(video: int, frame: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (height, width, 3): the video's own colour, a bright bar that moves with the frame."""
    colour = colorsys.hsv_to_rgb(video % 8 / 8, 0.8, 0.6)
    image = np.full((height, width, 3), np.array(colour) * 255, np.uint8)
    image[:, frame * 4 % width : frame * 4 % width + 6] = 240
    return image


@functools.lru_cache(maxsize=64)
def encode_media(suffix: str, video: int, frames: int, rate: int) -> bytes:
    buffer = io.BytesIO()
    if suffix not in CODECS:
        Image.fromarray(picture(video)).save(
            buffer, {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        )
        return buffer.getvalue()
    container = {".mkv": "matroska"}.get(suffix, suffix[1:])
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(CODECS[suffix], rate=Fraction(rate))
        stream.height, stream.width = picture(0).shape[:2]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for frame in range(frames):
            output.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture(video, frame), format="rgb24"))
            )
        output.mux(stream.encode())
    return buffer.getvalue()


def write_media(
    path: Path, video: int = 0, frames: int = 8, rate: int = 8, suffix: str = ""
) -> Path:
    """Write a small clip or picture, encoded once for each of eight colours; the kind is the path's own suffix, or
    `suffix` where the name says nothing or lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_media(suffix or path.suffix.lower(), video % 8, frames, rate))
    return path


for _part in ("retrieval", "pretraining", "other"):
    importlib.import_module(f"{__name__}.{_part}")
