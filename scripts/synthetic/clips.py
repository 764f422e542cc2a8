"""Test clips by name: `make(name, folder)` writes one, returns its path. `VIDEOS` can be decoded, `BROKEN` cannot."""

from functools import partial
from pathlib import Path

import numpy as np

from scripts.synthetic.clip_files import audio, cut, hole, second_video, sound_only, write, x264
from scripts.synthetic.drawing import draw, number

__all__ = ["BROKEN", "VIDEOS", "draw", "make", "number", "write", "x264"]
FAST, BF2, REALTIME = (
    {"movflags": "faststart"},
    {"bf": "2", "g": "12"},
    {"cpu-used": "8", "deadline": "realtime"},
)
X265 = "log-level=none:keyint=12:min-keyint=12:bframes=3:open-gop={}"
UNEVEN = [40 * place + (place * 7) % 31 + 500 * (place > 20) for place in range(40)]
H264 = {
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
        "keys": {7, 20, 21, 22, 24, 25, 31, 37, 38},
    },
    "h264-intra.mp4": {"options": x264(keyint=1, min_keyint=1)},
    "h264-pyramid.mp4": {"options": x264(bframes=7, ref=4, keyint=24, b_pyramid="strict")},
    "h264-open-gop.mp4": {"options": x264(open_gop=1)},
    "h264-slices.mp4": {"options": x264(slices=3)},
    "h264-baseline.mp4": {"options": {"profile": "baseline", "g": "12"}},
    "h264-inband.mp4": {"options": x264(repeat_headers=1)},
    "h264-interlaced.mp4": {"options": x264(tff=1)},
    "h264-bt709.mp4": {"options": x264(colormatrix="bt709", range="pc")},
    "h264-10bit.mp4": {"pix_fmt": "yuv420p10le"},
    "h264-444-odd.mp4": {"pix_fmt": "yuv444p", "size": (97, 65)},
    "h264-vfr.mp4": {"times": UNEVEN},
    "h264-audio.mp4": {"more": audio},
    "h264-two-streams.mp4": {"more": second_video},
    "h264-fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "h264-edit-list.mp4": {"shift": 7, "muxer": {"avoid_negative_ts": "disabled"}},
    "h264-rotated-90.mp4": {"rotation": 90},
    "h264-rotated-180.mp4": {"rotation": 180},
    "h264-rotated-270.mp4": {"rotation": -90},
    **{f"h264-{length}.mp4": {"length": length} for length in range(1, 9)},
}
OTHERS = {
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": X265.format(0)}},
    "hevc-open-gop.mp4": {"codec": "libx265", "options": {"x265-params": X265.format(1)}},
    "mpeg4.avi": {"codec": "mpeg4", "options": BF2},
    "mpeg4.mp4": {"codec": "mpeg4", "options": BF2},
    "mpeg4-odd.avi": {"codec": "mpeg4", "size": (95, 63)},
    "mpeg4-1.avi": {"codec": "mpeg4", "length": 1},
    "mpeg4-3.avi": {"codec": "mpeg4", "length": 3, "options": BF2},
    "msmpeg4.avi": {"codec": "msmpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv2.wmv": {"codec": "wmv2"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": REALTIME | {"g": "12"}},
    "vp9-altref.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "20", "lag-in-frames": "16", "auto-alt-ref": "1"},
    },
    "vp9-live.webm": {"codec": "libvpx-vp9", "muxer": {"live": "1"}, "options": REALTIME},
    "vp9-vfr.webm": {"codec": "libvpx-vp9", "times": UNEVEN, "options": REALTIME},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "10", "g": "12", "crf": "8"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": BF2},
    "mpeg1.mpg": {"codec": "mpeg1video", "options": BF2},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8", "rate": 10},
}
VIDEOS = {name: partial(write, **{"options": x264(), **how}) for name, how in H264.items()}
VIDEOS |= {name: partial(write, **how) for name, how in OTHERS.items()}
VIDEOS |= {
    "h264-truncated.mp4": partial(cut, end=0.7, options=x264(), muxer=FAST),
    "h264-cut.ts": partial(cut, start=0.4, options=x264()),
    "h264-hole.mp4": partial(hole, options=x264(), muxer=FAST),
    "mpeg4-truncated.avi": partial(cut, end=0.8, codec="mpeg4", options=BF2),
}
BROKEN = {
    "empty.mp4": lambda path: path.write_bytes(b""),
    "sound.mp4": sound_only,
    "sound.m4a": sound_only,
    "page.mp4": lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "noise.avi": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "no-index.mp4": partial(cut, end=0.7, options=x264()),
    "text.webm": lambda path: path.write_text("a\n" * 99),
}


def make(name: str, folder: Path) -> str:
    """Write the clip called `name` into `folder`; its path."""
    (VIDEOS.get(name) or BROKEN[name])(folder / name)
    return str(folder / name)
