"""Pictures that move: GIF through Pillow, MP4 (H.264) through PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from parse_config import UserError


def write_movie(picture_FHWC: Sequence[np.ndarray], out: Path, fps: float) -> Path:
    """uint8 pictures of one size -> `out`, as its suffix says; each is shown for 1 / fps seconds. -> its path.

    A GIF's times are whole hundredths of a second; H.264 takes even sides only, so white is added.
    """
    writer = {".gif": _gif, ".mp4": _mp4}.get(out.suffix.lower())
    if writer is None:
        raise UserError(f"{out}: a moving picture ends in .gif or .mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    writer(picture_FHWC, out, fps)
    return out


def _gif(picture_FHWC: Sequence[np.ndarray], out: Path, fps: float):
    from PIL import Image

    shared = Image.fromarray(
        np.concatenate(picture_FHWC[:: max(1, len(picture_FHWC) // 6)])
    ).quantize(256)
    pages = [
        Image.fromarray(picture).quantize(palette=shared, dither=Image.Dither.NONE)
        for picture in picture_FHWC
    ]
    pages[0].save(
        out,
        format="GIF",
        save_all=True,
        append_images=pages[1:],
        loop=0,
        duration=round(100 / fps) * 10,
    )


def _mp4(picture_FHWC: Sequence[np.ndarray], out: Path, fps: float):
    import av

    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(out), "w") as container:
        stream = container.add_stream(
            "libx264", rate=rate, options={"crf": "18", "preset": "veryfast"}
        )
        height, width = picture_FHWC[0].shape[:2]
        stream.height, stream.width, stream.pix_fmt = (
            height + height % 2,
            width + width % 2,
            "yuv420p",
        )
        for picture in picture_FHWC:
            picture = np.pad(
                picture, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
