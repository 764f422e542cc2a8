"""`video_params` and `text_params` of a data set: names, defaults, checks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from data_loader.readers import READERS
from data_loader.readers.limits import DEFAULT_LIMITS, Limits
from parse_config import ConfigError, check_args

log = logging.getLogger(__name__)
# of Frozen-in-Time codebases; "auto" gives the frames that they give, or should give
OTHER_READERS = ("cv2", "cv2_lax", "OpenCV")
LEAST = {
    "num_frames": 1,
    "input_res": 1,
    "deadline": 0,
    "max_pixels": 1,
    "max_clip_bytes": 1,
    "cache_gib": 0,
}
DECODE_CACHES = ("memory", "none")


@dataclass(frozen=True)
class VideoSettings:
    """How a file becomes a clip.

    Args:
        num_frames: frames per clip
        input_res: pixels per side of what the model sees
        reader: auto, av, decord, sequential or torchcodec
        loading: strict: a broken file stops the run; skip: train replaces it, val and test leave it out and say so;
            default: skip for train, else strict
        decode_cache: none, or memory: clips of up to 256 frames are kept as they were decoded, in memory that the
            workers of this process share
        cache_gib: GiB that they may take, on each process; what does not fit is read from its file
        deadline: seconds after which a decoder that does not return makes a broken file, and a second more for each
            20 million pixels that it has decoded; 0: no limit and no process of its own
        max_pixels: of one picture; a file with larger ones is broken
        max_clip_bytes: of the frames of a clip at once, 3 for each pixel; a clip that takes more is broken
        center_crop: side of the test transform's crop before it is resized; default: input_res * 256 / 224
        randcrop_scale: least and greatest share of the area that a training crop covers
        hflip: mirror half of the training clips
        norm_mean: mean of each channel, subtracted
        norm_std: standard deviation of each channel, divided by
    """

    num_frames: int = 4
    input_res: int = 224
    reader: str = "auto"
    loading: str | None = None
    decode_cache: str = "none"
    cache_gib: float = 4.0
    deadline: float = 60.0
    max_pixels: int = DEFAULT_LIMITS.max_pixels
    max_clip_bytes: int = DEFAULT_LIMITS.max_clip_bytes
    center_crop: int | None = None
    randcrop_scale: Sequence[float] = (0.5, 1.0)
    hflip: bool = True
    norm_mean: Sequence[float] = (0.485, 0.456, 0.406)
    norm_std: Sequence[float] = (0.229, 0.224, 0.225)

    @property
    def limits(self) -> Limits:
        """How large pictures and clips may be."""
        return Limits(self.max_pixels, self.max_clip_bytes)

    @property
    def transform_args(self) -> dict[str, Any]:
        """Arguments of `build_transform`."""
        names = (
            "input_res",
            "center_crop",
            "randcrop_scale",
            "hflip",
            "norm_mean",
            "norm_std",
        )
        return {name: getattr(self, name) for name in names}


def video_settings(
    params: Mapping[str, Any] | None, split: str, reader: str | None = None
) -> VideoSettings:
    """`video_params`, checked and completed for `split`.

    reader: of the data set's own arguments (where Frozen-in-Time codebases write it), in place of that of `params`
    """
    if params is None:
        params = {}
    json_path = getattr(params, "json_path", "") or "video_params"
    check_args(VideoSettings, params, json_path)
    settings = VideoSettings(**params)

    if reader and reader != params.get("reader", reader):
        raise ConfigError(
            f"{json_path}.reader: {params['reader']!r} is given, and the data set's own reader is {reader!r}; leave "
            "one out"
        )
    reader = reader or settings.reader
    if reader in OTHER_READERS:
        log.warning("%s: reader %r is read as 'auto'", json_path, reader)
        reader = "auto"
    READERS.get(reader, f"{json_path}.reader")  # raises ConfigError
    if reader == "decord":
        _say_what_decord_reads(json_path)

    for name, least in LEAST.items():
        value = getattr(settings, name)
        if value < least:
            raise ConfigError(
                f"{json_path}.{name}: {value!r} is given, {least} or more is needed"
            )

    if settings.decode_cache not in DECODE_CACHES:
        raise ConfigError(
            f"{json_path}.decode_cache: {settings.decode_cache!r} is given; known: {', '.join(DECODE_CACHES)}"
        )

    loading = _resolve_loading(settings.loading, split, f"{json_path}.loading")
    return replace(settings, reader=reader, loading=loading)


@lru_cache  # once for each block of a config
def _say_what_decord_reads(json_path: str) -> None:
    log.info(
        "%s: decord reads only H.264 files of 4:2:0 pictures of 8 bits in which its jumps are proven right; "
        "reader 'av' reads the others",
        json_path,
    )


def _resolve_loading(loading: str | None, split: str, json_path: str) -> str:
    """`loading` or the default of `split`; ConfigError if it is unknown."""
    default = "skip" if split == "train" else "strict"
    if loading is None:
        return default

    if loading == "lax":
        log.warning(
            "%s: 'lax' made black clips of broken files; read as %r for split %r",
            json_path,
            default,
            split,
        )
        return default

    if loading not in ("strict", "skip"):
        raise ConfigError(f"{json_path}: {loading!r} is given; known: skip, strict")
    return loading


def check_text_params(params: Mapping[str, Any] | None) -> None:
    """ConfigError if `text_params` are anything but {"input": "text"}, as Frozen-in-Time codebases write them."""
    if params is None:
        return

    json_path = getattr(params, "json_path", "") or "text_params"
    check_args(_text_params, params, json_path)
    if params.get("input", "text") != "text":
        raise ConfigError(
            f"{json_path}.input: {params['input']!r} is given; captions are always text"
        )


def _text_params(input: Any = "text") -> None:
    """Its signature is what `text_params` may hold."""
