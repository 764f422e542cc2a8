"""Images as clips of one frame, recognised by their first bytes (the files of CC3M have no extension)."""

import warnings

import numpy as np

from data_loader.readers import (
    READERS,
    BrokenVideo,
    Choose,
    Pictures,
    requested_indices,
)

JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
BMP = b"BM"
TIFF = (b"II*\0", b"MM\0*")


def is_image(path: str) -> bool:
    """Whether the file begins as a JPEG, PNG, WebP, BMP or TIFF does. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        header = file.read(12)
    is_webp = header[:4] == b"RIFF" and header[8:] == b"WEBP"
    return is_webp or header.startswith((JPEG, PNG, BMP, *TIFF))


@READERS.register("image")
def read(
    path: str, choose: Choose, start: float | None = None, end: float | None = None
) -> Pictures:
    """See `data_loader.readers`; `start` and `end` have no effect. The camera's orientation is applied."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, large pictures
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                picture_HWC = np.asarray(upright.convert("RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise BrokenVideo(path, f"is no image that can be decoded ({error})") from None

    indices = requested_indices(choose, 1)
    if set(indices) != {0}:
        raise IndexError(f"{path}: frame {max(indices, key=abs)} is asked of an image")
    return Pictures([picture_HWC] * len(indices), indices)
