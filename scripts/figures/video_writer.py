"""Writes films: GIF through Pillow, MP4 (H.264) through PyAV. F frames, H, W pixels, C channels."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from parse_config import UserError

PALETTE_FRAMES = 6  # from which, about, the colours of a GIF are taken


def write_movie(frame_FHWC: Sequence[np.ndarray], out: Path, fps: float) -> Path:
    """Writes uint8 frames of one size to `out`, in the format of its suffix; returns `out`.

    Each frame is shown for 1 / fps seconds. A GIF's times are whole hundredths of a second; H.264 takes even sides
    only, so white is added.
    """
    suffix = out.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise UserError(f"{out}: a moving picture ends in .gif or .mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".gif":
        _write_gif(frame_FHWC, out, fps)
    else:
        _write_mp4(frame_FHWC, out, fps)
    return out


def _write_gif(frame_FHWC: Sequence[np.ndarray], out: Path, fps: float) -> None:
    from PIL import Image

    stride = max(1, len(frame_FHWC) // PALETTE_FRAMES)
    palette = Image.fromarray(np.concatenate(frame_FHWC[::stride])).quantize(256)
    images = [
        Image.fromarray(frame_HWC).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame_HWC in frame_FHWC
    ]
    images[0].save(
        out,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        loop=0,
        duration=round(100 / fps) * 10,
    )


def _write_mp4(frame_FHWC: Sequence[np.ndarray], out: Path, fps: float) -> None:
    import av

    height, width = frame_FHWC[0].shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(str(out), "w") as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(fps).limit_denominator(1000),
            options={"crf": "18", "preset": "veryfast"},
        )
        stream.height = height + height % 2
        stream.width = width + width % 2
        stream.pix_fmt = "yuv420p"
        for frame_HWC in frame_FHWC:
            padded_HWC = np.pad(frame_HWC, padding, constant_values=255)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(padded_HWC, format="rgb24"))
            )
        container.mux(stream.encode())


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
