"""`video_params` and `text_params` of a data set: names, defaults, checks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from parse_config import ConfigError, check_args

log = logging.getLogger(__name__)
READERS_ELSEWHERE = (
    "cv2",
    "cv2_lax",
    "OpenCV",
)  # of the family: their frames are what ours are, or should have been


@dataclass(frozen=True)
class VideoSettings:
    """How a file becomes a clip.

    num_frames, input_res: what the model sees (frames; pixels a side).
    reader: auto, decord or av. deadline: seconds after which a decoder that does not return makes a broken file; with
        0 it may take for ever, and needs no process of its own.
    loading: strict (a broken file stops the run) or skip (train: another sample takes its place; val/test: the video
        leaves the gallery, and the result says so). Default: skip for train, strict for val and test.
    center_crop: side of the test transform's crop before it is brought to input_res; default input_res * 256 / 224.
    randcrop_scale: share of the area that a training crop covers, from and to. hflip: mirror half of the clips.
    """

    num_frames: int = 4
    input_res: int = 224
    reader: str = "auto"
    loading: str | None = None
    deadline: float = 60.0
    center_crop: int | None = None
    randcrop_scale: Sequence[float] = (0.5, 1.0)
    hflip: bool = True
    norm_mean: Sequence[float] = (0.485, 0.456, 0.406)
    norm_std: Sequence[float] = (0.229, 0.224, 0.225)

    @property
    def transform(self) -> dict[str, Any]:
        """What `build_transform` takes."""
        names = ("input_res", "center_crop", "randcrop_scale", "hflip", "norm_mean", "norm_std")
        return {name: getattr(self, name) for name in names}


def video_settings(
    params: Mapping[str, Any] | None, split: str, reader: str | None = None
) -> VideoSettings:
    """`video_params` checked and completed for `split`; `reader` beside it (as the family writes it) wins."""
    params = params if params is not None else {}
    where = getattr(params, "json_path", "") or "video_params"
    check_args(VideoSettings, params, where)
    made = VideoSettings(**params)
    reader = reader or made.reader
    if reader in READERS_ELSEWHERE:
        log.warning("%s: reader %r is read as 'auto'", where, reader)
        reader = "auto"
    for name, least in (("num_frames", 1), ("input_res", 1), ("deadline", 0)):
        if getattr(made, name) < least:
            raise ConfigError(
                f"{where}.{name}: {getattr(made, name)!r} is given, {least} or more is needed"
            )
    return replace(made, reader=reader, loading=_loading(made.loading, split, where))


def _loading(given: str | None, split: str, where: str) -> str:
    usual = "skip" if split == "train" else "strict"
    if given == "lax":
        log.warning(
            "%s.loading: 'lax' made black clips of broken files; read as %r for split %r",
            where,
            usual,
            split,
        )
        return usual
    if given not in (None, "strict", "skip"):
        raise ConfigError(f"{where}.loading: {given!r} is given; known: skip, strict")
    return given or usual


def check_text(params: Mapping[str, Any] | None) -> None:
    """`text_params` of a data set hold nothing but the family's {"input": "text"}."""
    where = getattr(params, "json_path", "") or "text_params"
    check_args(lambda input="text": None, params or {}, where)
    if params and params.get("input", "text") != "text":
        raise ConfigError(f"{where}.input: {params['input']!r} is given; captions are always text")
