"""Images as clips of one frame, by their first bytes (CC3M's files have no extension)."""
from collections.abc import Callable, Sequence

import numpy as np

from data_loader.readers import READERS, BrokenVideo

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"BM")


def is_image(path: str) -> bool:
    """Whether the file begins like a JPEG, PNG, WebP or BMP. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


@READERS.register("image")
def read(path: str, choose: Callable[[int], Sequence[int]], start: float | None = None, end: float | None = None,
         ) -> tuple[np.ndarray, list[int]]:
    """See `data_loader.readers`; start and end mean nothing for an image."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenVideo(path, f"{type(error).__name__}: {error}") from None
    indices = list(choose(1))
    return np.repeat(picture[None], len(indices), axis=0), indices
