"""Files of an index's rows for the page: the file itself, a picture of its middle frame, an animated preview.

Files are asked for by row number only: nothing that the browser sends becomes a path. T frames, C channels, H height,
W width.
"""

import functools
import io
import os
from typing import BinaryIO

import numpy as np
from PIL import Image

from data_loader.annotations.file_lookup import IMAGE_EXTENSIONS, MEDIA_EXTENSIONS
from data_loader.frames import pick
from data_loader.reader import BrokenVideo, read_clip
from data_loader.readers.regular_file import open_regular
from scripts.retrieval.features import Row

VIDEO_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".webm": "video/webm",
    ".ogv": "video/ogg",
    ".mkv": "video/webm",
}  # containers that browsers can play, depending on the codecs in them
MAX_SIDE = 320  # pixels of a picture's longer side
PREVIEW_FRAMES = 8
PREVIEW_FRAME_MS = 250
DEADLINE = 20.0  # seconds for reading a picture


class MediaFiles:
    """The files of an index's rows.

    Raises FileNotFoundError for a number that is no row, and for a file that is not the one that was indexed.
    """

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.picture = functools.lru_cache(2000)(self._picture)
        self.preview = functools.lru_cache(100)(self._preview)

    def row(self, number: int) -> Row:
        """The row, if it has a file whose path, links resolved, is still the one that was indexed."""
        if not 0 <= number < len(self.rows) or "path" not in self.rows[number]:
            raise FileNotFoundError(f"row {number}")
        row = self.rows[number]
        suffix = os.path.splitext(row["real"])[1]
        is_media = suffix == "" or suffix.lower() in MEDIA_EXTENSIONS
        if not is_media or os.path.realpath(row["path"]) != row["real"]:
            raise FileNotFoundError(f"row {number}")
        return row

    def open(self, number: int) -> tuple[BinaryIO, int, str]:
        """Opens the file of a row that browsers can play -> (file, size in bytes, content type).

        A link in the last part of the path is not followed, and no pipe or device is opened.
        """
        row = self.row(number)
        content_type = VIDEO_TYPES.get(os.path.splitext(row["real"])[1].lower())
        if content_type is None:
            raise FileNotFoundError(f"row {number}")
        try:
            file = io.BufferedReader(open_regular(row["real"], os.O_NOFOLLOW))
        except (
            BrokenVideo,
            OSError,
        ):  # gone, a link, no file, or not to be read by this user
            raise FileNotFoundError(f"row {number}") from None
        return file, os.fstat(file.fileno()).st_size, content_type

    def form(self, row: Row) -> str:
        """How the page shows a row: "video" (browsers can play it), "preview" (they cannot), "picture" or "text"."""
        if "path" not in row:
            return "text"
        suffix = os.path.splitext(row["path"])[1].lower()
        if suffix in VIDEO_TYPES:
            return "video"
        if suffix in IMAGE_EXTENSIONS or not suffix:
            return "picture"
        return "preview"

    def _picture(self, number: int) -> bytes:
        """JPEG of the middle frame of a row."""
        picture = self._frames(number, 1)[0]
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def _preview(self, number: int) -> bytes:
        """Animated WebP of some frames of a row, in a loop."""
        pictures = self._frames(number, PREVIEW_FRAMES)
        buffer = io.BytesIO()
        pictures[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=PREVIEW_FRAME_MS,
            loop=0,
            quality=75,
        )
        return buffer.getvalue()

    def _frames(self, number: int, count: int) -> list[Image.Image]:
        """Up to `count` evenly spaced frames of a row, scaled down."""
        row = self.row(number)

        def choose_frames(length: int) -> list[int]:
            return pick(length, min(count, length))

        try:
            clip_TCHW, _ = read_clip(
                row["real"],
                choose_frames,
                start=row["start"],
                end=row["end"],
                deadline=DEADLINE,
            )
        except (BrokenVideo, OSError):
            raise FileNotFoundError(f"row {number}") from None
        pictures = []
        for frame_HWC in clip_TCHW.permute(0, 2, 3, 1).numpy():
            picture = Image.fromarray(np.ascontiguousarray(frame_HWC))
            picture.thumbnail((MAX_SIDE, MAX_SIDE))
            pictures.append(picture)
        return pictures


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The Range header of a request for a file of `size` bytes -> (first byte, one past the last).

    None for the whole file, also for several ranges at once, as RFC 9110 allows. Raises ValueError for a range that the
    file does not have.
    """
    unit, _, byte_range = (header or "").partition("=")
    first, dash, last = byte_range.strip().partition("-")
    digits = first + last
    if unit.strip().lower() != "bytes" or not dash:
        return None
    if not (digits.isascii() and digits.isdigit()):
        return None
    start, end = 0, size
    if not first:  # the last bytes of the file
        start = max(0, size - int(last))
    else:
        start = int(first)
        if last:
            end = min(int(last) + 1, size)
            if int(last) < start:
                return None
    if start >= end:
        raise ValueError(header)
    return start, end


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/search.py --help")
