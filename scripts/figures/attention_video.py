"""CLS's attention all through a video: a window slides over it, and each frame is shown as its window sees it.

F shown frames, T frames of a window (what the model takes), H heads, Y rows and X columns of patches.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.miles import MILES
from scripts.figures.attention import LABEL, attention_maps
from scripts.figures.clips import Clip, File, models, reader_of, whole_clip
from scripts.figures.heatmap import PANEL, Scale, overlay
from scripts.figures.sheet import Block, Row, draw
from scripts.figures.video_writer import write_movie


def window_at(place: int, length: int, width: int, frames: int) -> tuple[list[int], int]:
    """The `frames` ascending places that the model sees when `place` of `length` is shown, and which of them that is.

    The window's `width` places lie around `place`, pushed inside the video, and are cut into equal segments; of each
    the same offset is taken as `place` has in its own. With `width` = `length` these are the family's sliding windows
    of stride 1. `width` is at least `frames`.
    """
    first = min(max(place - width // 2, 0), length - width)
    starts = [i * width // frames for i in range(frames)]
    ends = [*starts[1:], width]
    mine = bisect_right(starts, place - first) - 1
    offset = place - first - starts[mine]
    return [first + min(start + offset, end - 1) for start, end in zip(starts, ends)], mine


def sliding_attention(
    model: MILES,
    clip: Clip,
    width: int,
    block: int = -1,
    heads: str | int = "mean",
    over: str = "space",
) -> dict[str, np.ndarray]:
    """{label: heat_FYX}: `attention_maps` of each frame of a whole clip, out of the window around it."""
    length = clip.video_BTCHW.shape[1]
    frames = min(reader_of(model).video.num_frames, length)
    found: dict[str, list[np.ndarray]] = {}
    for place in range(length):
        places, mine = window_at(place, length, min(max(width, frames), length), frames)
        seen = attention_maps(
            model, clip._replace(video_BTCHW=clip.video_BTCHW[:, places]), block, heads, over
        )
        for label, heat_TYX in seen.items():
            found.setdefault(label, []).append(heat_TYX[mine])
    return {label: np.stack(heats) for label, heats in found.items()}


def attention_movie(
    model: MILES | File | Sequence[MILES | File],
    video: File,
    out: File,
    *,
    seconds: float = 0,
    fps: float = 12,
    most: int = 240,
    block: int = -1,
    heads: str | int = "mean",
    over: str = "space",
    names: Sequence[str] | None = None,
    panel: int = PANEL,
    title: str = "",
    device: str = "cpu",
) -> Path:
    """Write a GIF or MP4: the video, and beside it the attention of each model (of each head), in one colour scale.

    The window covers `seconds`, or the whole video with 0. At most `most` frames are shown, about `fps` of them for
    each second of the video.
    """
    made = models(model, device)
    read = [whole_clip(one, video, fps, most, panel) for one in made]
    clip, at = read[0]
    width = (
        len(at)
        if not seconds
        else max(1, round(seconds * (len(at) - 1) / max(at[-1] - at[0], 1e-9)))
    )
    heats = [
        sliding_attention(one, view, width, block, heads, over)
        for one, (view, _) in zip(made, read)
    ]
    scale = Scale(0, max(float(heat.max()) for maps in heats for heat in maps.values()), LABEL)
    pages = []
    for i, (picture, time) in enumerate(zip(clip.picture_TPPC, clip.titles)):
        groups = [[(picture, time)]] + [
            [(overlay(picture, heat[i], scale), label) for label, heat in maps.items()]
            for maps in heats
        ]
        pages.append(
            draw([Block(clip.name, [Row("", groups)], scale)], ["", *names] if names else (), title)
        )
    speed = (len(at) - 1) / (at[-1] - at[0]) if len(at) > 1 and at[-1] > at[0] else fps
    return write_movie(pages, Path(out), min(speed, 50))
