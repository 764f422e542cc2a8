"""Images as clips of one frame, known by their first bytes (the files of CC3M have no extension)."""

import warnings

import numpy as np

from data_loader.readers import READERS, BrokenVideo, Choose, chosen

BEGINNINGS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\0",
    b"MM\0*",
)  # JPEG, PNG, BMP, TIFF


def is_image(path: str) -> bool:
    """Whether the file begins as a JPEG, PNG, WebP, BMP or TIFF does. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head.startswith(BEGINNINGS) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


@READERS.register("image")
def read(
    path: str,
    choose: Choose,
    start: float | None = None,
    end: float | None = None,
) -> tuple[list[np.ndarray], list[int]]:
    """See `data_loader.readers`; `start` and `end` mean nothing here. The camera's orientation is applied."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, large pictures
            with Image.open(path) as image:
                picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BrokenVideo(path, f"is no image that can be decoded ({error})") from None
    indices = chosen(choose, 1)
    if set(indices) != {0}:
        raise IndexError(f"{path}: frame {max(indices, key=abs)} is asked of an image")
    return [picture] * len(indices), indices
