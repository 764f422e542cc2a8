"""CLS's attention all through a video: a window slides over it, and each frame is shown as its window sees it.

F shown frames, T frames of a window (what the model takes), H heads, Y rows and X columns of patches.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.miles import MILES
from scripts.figures.attention import attention_maps, attention_scale
from scripts.figures.clips import Clip, File, clip_reader, open_models, whole_clip
from scripts.figures.heatmap import PANEL, Scale, overlay
from scripts.figures.sheet import Block, Row, draw
from scripts.figures.video_writer import write_movie

MAX_FPS = 50  # browsers slow down a GIF whose frames are shown for less than 2/100 s


def window_at(
    index: int, length: int, width: int, frames: int
) -> tuple[list[int], int]:
    """The `frames` ascending indices that the model sees when frame `index` of `length` is shown, and its position.

    The window's `width` frames lie around `index`, pushed inside the video, and are cut into equal segments; of each
    segment the frame at the same offset is taken as `index` has in its own. With `width` = `length` these are the
    sliding windows of stride 1 of the Frozen-in-Time codebases. `width` is at least `frames`.
    """
    first = min(max(index - width // 2, 0), length - width)
    starts = [i * width // frames for i in range(frames)]
    ends = [*starts[1:], width]
    position = bisect_right(starts, index - first) - 1
    offset = index - first - starts[position]
    indices = [first + min(start + offset, end - 1) for start, end in zip(starts, ends)]
    return indices, position


def sliding_attention(
    model: MILES,
    clip: Clip,
    width: int,
    block: int = -1,
    heads: str | int = "mean",
    over: str = "space",
) -> dict[str, np.ndarray]:
    """{label: heat_FYX}: `attention_maps` of each frame of a whole clip, each from the window around the frame.

    `width`: shown frames that a window covers.
    """
    length = clip.video_BTCHW.shape[1]
    frames = min(clip_reader(model).video.num_frames, length)
    width = min(max(width, frames), length)
    heats: dict[str, list[np.ndarray]] = {}
    for index in range(length):
        window_indices, position = window_at(index, length, width, frames)
        window = clip._replace(video_BTCHW=clip.video_BTCHW[:, window_indices])
        for label, heat_TYX in attention_maps(
            model, window, block, heads, over
        ).items():
            heats.setdefault(label, []).append(heat_TYX[position])
    return {label: np.stack(heats_YX) for label, heats_YX in heats.items()}


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
    """Writes a GIF or MP4: the video, and beside it the attention of each model (of each head), in one colour scale.

    The window covers `seconds`, or the whole video with 0. At most `most` frames are shown, about `fps` of them for
    each second of the video.
    """
    models = open_models(model, device)
    views = [
        whole_clip(opened_model, video, fps, most, panel) for opened_model in models
    ]
    clip, times = views[0]
    width = window_width(times, seconds)
    maps_per_model = [
        sliding_attention(opened_model, view, width, block, heads, over)
        for opened_model, (view, _) in zip(models, views)
    ]
    headings = ["", *names] if names else []
    scale = attention_scale(maps_per_model)
    pages = [
        movie_page(clip, index, maps_per_model, scale, headings, title)
        for index in range(len(times))
    ]
    duration = times[-1] - times[0]
    if duration > 0:
        fps = (len(times) - 1) / duration
    return write_movie(pages, Path(out), min(fps, MAX_FPS))


def window_width(times: Sequence[float], seconds: float) -> int:
    """Number of shown frames that a window of `seconds` covers; all of them with 0."""
    if not seconds:
        return len(times)
    duration = max(times[-1] - times[0], 1e-9)
    return max(1, round(seconds * (len(times) - 1) / duration))


def movie_page(
    clip: Clip,
    index: int,
    maps_per_model: Sequence[dict[str, np.ndarray]],
    scale: Scale,
    headings: Sequence[str],
    title: str,
) -> np.ndarray:
    """A shown frame, and beside it the attention of each model and head -> uint8 (H, W, 3)."""
    picture = clip.picture_TPPC[index]
    groups = [[(picture, clip.titles[index])]]
    for maps in maps_per_model:
        groups.append(
            [
                (overlay(picture, heat_FYX[index], scale), label)
                for label, heat_FYX in maps.items()
            ]
        )
    return draw([Block(clip.name, [Row("", groups)], scale)], headings, title)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
