"""Test clips by name: `make(name, folder)` writes one, returns its path. `VIDEOS` can be decoded, `BROKEN` cannot."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scripts.synthetic.clip_files import (
    audio,
    second_video,
    write_clip,
    write_excerpt,
    write_noise,
    write_sound,
    write_text,
    write_with_hole,
    x264,
)
from scripts.synthetic.drawing import draw_number, read_number

__all__ = [
    "BROKEN",
    "VIDEOS",
    "draw_number",
    "make",
    "read_number",
    "write_clip",
    "x264",
]
FAST = {"movflags": "faststart"}
BF2 = {"bf": "2", "g": "12"}
REALTIME = {"cpu-used": "8", "deadline": "realtime"}
X265 = "log-level=none:keyint=12:min-keyint=12:bframes=3:open-gop={}"
UNEVEN_MS = [40 * frame + (frame * 7) % 31 + 500 * (frame > 20) for frame in range(40)]
H264: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mov": {},
    "h264.mkv": {},
    "h264.flv": {},
    "h264.ts": {},
    "h264.avi": {},
    "h264.h264": {},
    "h264-one-key.mp4": {"options": x264(keyint=250)},
    "h264-short-gops.mp4": {
        "options": x264() | {"forced-idr": "1"},
        "key_frames": {7, 20, 21, 22, 24, 25, 31, 37, 38},
    },
    "h264-intra.mp4": {"options": x264(keyint=1, min_keyint=1)},
    "h264-pyramid.mp4": {
        "options": x264(bframes=7, ref=4, keyint=24, b_pyramid="strict")
    },
    "h264-open-gop.mp4": {"options": x264(open_gop=1)},
    "h264-slices.mp4": {"options": x264(slices=3)},
    "h264-baseline.mp4": {"options": {"profile": "baseline", "g": "12"}},
    "h264-inband.mp4": {"options": x264(repeat_headers=1)},
    "h264-interlaced.mp4": {"options": x264(tff=1)},
    "h264-bt709.mp4": {"options": x264(colormatrix="bt709", range="pc")},
    "h264-10bit.mp4": {"pix_fmt": "yuv420p10le"},
    "h264-444-odd.mp4": {"pix_fmt": "yuv444p", "size": (97, 65)},
    "h264-vfr.mp4": {"times_ms": UNEVEN_MS},
    "h264-audio.mp4": {"add_stream": audio},
    "h264-two-streams.mp4": {"add_stream": second_video},
    "h264-fragments.mp4": {
        "container_options": {"movflags": "frag_keyframe+empty_moov"}
    },
    "h264-edit-list.mp4": {
        "hidden_frames": 7,
        "container_options": {"avoid_negative_ts": "disabled"},
    },
    "h264-rotated-90.mp4": {"rotation": 90},
    "h264-rotated-180.mp4": {"rotation": 180},
    "h264-rotated-270.mp4": {"rotation": -90},
    **{f"h264-{length}.mp4": {"length": length} for length in range(1, 9)},
}
OTHER_CODECS: dict[str, dict[str, Any]] = {
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": X265.format(0)}},
    "hevc-open-gop.mp4": {
        "codec": "libx265",
        "options": {"x265-params": X265.format(1)},
    },
    "hevc-open-gop.mkv": {
        "codec": "libx265",
        "options": {"x265-params": X265.format(1)},
    },
    "hevc.ts": {"codec": "libx265", "options": {"x265-params": X265.format(0)}},
    "mpeg4.avi": {"codec": "mpeg4", "options": BF2},
    "mpeg4.mp4": {"codec": "mpeg4", "options": BF2},
    "mpeg4-odd.avi": {"codec": "mpeg4", "size": (95, 63)},
    "mpeg4-1.avi": {"codec": "mpeg4", "length": 1},
    "mpeg4-3.avi": {"codec": "mpeg4", "length": 3, "options": BF2},
    "msmpeg4.avi": {"codec": "msmpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv2.wmv": {"codec": "wmv2"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": REALTIME | {"g": "12"}},
    "vp9.mp4": {"codec": "libvpx-vp9", "options": REALTIME | {"g": "12"}},
    "vp9-altref.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "20", "lag-in-frames": "16", "auto-alt-ref": "1"},
    },
    "vp9-live.webm": {
        "codec": "libvpx-vp9",
        "container_options": {"live": "1"},
        "options": REALTIME,
    },
    "vp9-vfr.webm": {"codec": "libvpx-vp9", "times_ms": UNEVEN_MS, "options": REALTIME},
    "av1.mp4": {
        "codec": "libsvtav1",
        "options": {"preset": "10", "g": "12", "crf": "8"},
    },
    "av1.webm": {
        "codec": "libsvtav1",
        "options": {"preset": "10", "g": "12", "crf": "8"},
    },
    "mpeg2.ts": {"codec": "mpeg2video", "options": BF2},
    "mpeg1.mpg": {"codec": "mpeg1video", "options": BF2},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8", "rate": 10},
}
VIDEOS: dict[str, Callable[[Path], object]] = {
    **{
        name: partial(write_clip, **{"options": x264(), **clip_options})
        for name, clip_options in H264.items()
    },
    **{
        name: partial(write_clip, **clip_options)
        for name, clip_options in OTHER_CODECS.items()
    },
    "h264-truncated.mp4": partial(
        write_excerpt, end=0.7, options=x264(), container_options=FAST
    ),
    "h264-cut.ts": partial(write_excerpt, start=0.4, options=x264()),
    "h264-hole.mp4": partial(write_with_hole, options=x264(), container_options=FAST),
    "mpeg4-truncated.avi": partial(write_excerpt, end=0.8, codec="mpeg4", options=BF2),
}
BROKEN: dict[str, Callable[[Path], object]] = {
    "empty.mp4": partial(write_text, text=""),
    "sound.mp4": write_sound,
    "sound.m4a": write_sound,
    "page.mp4": partial(
        write_text, text="<!DOCTYPE html><html><body>404</body></html>"
    ),
    "noise.avi": write_noise,
    "no-index.mp4": partial(write_excerpt, end=0.7, options=x264()),
    "text.webm": partial(write_text, text="a\n" * 99),
}


def make(name: str, folder: Path) -> str:
    """Write the clip called `name` into `folder`; its path."""
    write = VIDEOS.get(name) or BROKEN[name]
    write(folder / name)
    return str(folder / name)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/make_demo_data.py --help")
