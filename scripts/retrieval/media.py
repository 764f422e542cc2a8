"""Files of an index's rows for the page: the file itself, a picture of a moment, a moving preview.

By number of row only: nothing that the browser sends becomes a path."""

import functools
import io
import os
import stat
from typing import BinaryIO

import numpy as np
from PIL import Image

from data_loader.annotations.file_lookup import IMAGE_EXTENSIONS, MEDIA_EXTENSIONS
from data_loader.frames import pick
from data_loader.reader import BrokenVideo, read_clip
from scripts.retrieval.features import Row

TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".webm": "video/webm",
    ".ogv": "video/ogg",
    ".mkv": "video/webm",
}  # that browsers can play, if they like what is in it
SIDE, PREVIEW, PAUSE = (
    320,
    8,
    250,
)  # pixels of the longer side; frames of a preview, milliseconds each
DEADLINE = 20.0  # seconds for reading a picture


class Files:
    """The files of `rows`. FileNotFoundError for a number that is none, or a file that is not what was indexed."""

    def __init__(self, rows: list[Row]):
        self.rows = rows
        self.picture = functools.lru_cache(2000)(self._picture)
        self.preview = functools.lru_cache(100)(self._preview)

    def row(self, number: int) -> Row:
        """That row, if it is one of a file whose place is still the one it was indexed at."""
        if not 0 <= number < len(self.rows) or "path" not in self.rows[number]:
            raise FileNotFoundError(f"row {number}")
        row = self.rows[number]
        known = (
            os.path.splitext(row["real"])[1].lower() in MEDIA_EXTENSIONS
            or os.path.splitext(row["real"])[1] == ""
        )
        if not known or os.path.realpath(row["path"]) != row["real"]:
            raise FileNotFoundError(f"row {number}")
        return row

    def open(self, number: int) -> tuple[BinaryIO, int, str]:
        """(the open file, its bytes, its type) of a row that a browser may play; no link in the last place is followed,
        and no pipe or device opened."""
        row = self.row(number)
        kind = TYPES.get(os.path.splitext(row["real"])[1].lower())
        if kind is None:
            raise FileNotFoundError(f"row {number}")
        file = os.fdopen(
            os.open(row["real"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
        )
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            file.close()
            raise FileNotFoundError(f"row {number}")
        return file, facts.st_size, kind

    def form(self, row: Row) -> str:
        """ "video" (a browser may play it), "preview" (it cannot), "picture" or "text"."""
        if "path" not in row:
            return "text"
        suffix = os.path.splitext(row["path"])[1].lower()
        return (
            "video"
            if suffix in TYPES
            else "picture"
            if suffix in IMAGE_EXTENSIONS or not suffix
            else "preview"
        )

    def _picture(self, number: int) -> bytes:
        """JPEG of the middle frame of a row."""
        return self._encoded([self._frames(number, 1)[0]], "JPEG", quality=85)

    def _preview(self, number: int) -> bytes:
        """WebP that shows some frames of a row one after another, for ever."""
        pictures = self._frames(number, PREVIEW)
        return self._encoded(
            pictures,
            "WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=PAUSE,
            loop=0,
            quality=75,
        )

    def _frames(self, number: int, count: int) -> list[Image.Image]:
        row = self.row(number)
        try:
            clip_TCHW, _ = read_clip(
                row["real"],
                lambda length: pick(length, min(count, length)),
                start=row["start"],
                end=row["end"],
                deadline=DEADLINE,
            )
        except (BrokenVideo, OSError):
            raise FileNotFoundError(f"row {number}") from None
        pictures = [
            Image.fromarray(np.ascontiguousarray(picture))
            for picture in clip_TCHW.permute(0, 2, 3, 1).numpy()
        ]
        for picture in pictures:
            picture.thumbnail((SIDE, SIDE))
        return pictures

    @staticmethod
    def _encoded(pictures: list[Image.Image], kind: str, **how) -> bytes:
        into = io.BytesIO()
        pictures[0].save(into, kind, **how)
        return into.getvalue()


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """The Range header of a file of `size` bytes -> (first, one past the last), or None for the whole of it (also for
    several ranges at once, as RFC 9110 allows). Raises ValueError for a range that the file does not have."""
    unit, _, asked = (header or "").partition("=")
    first, dash, last = asked.strip().partition("-")
    if (
        unit.strip().lower() != "bytes"
        or not dash
        or not (first + last).isascii()
        or not (first + last).isdigit()
    ):
        return None
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    else:
        start, end = max(0, size - int(last)), size
    if start >= end:
        raise ValueError(header)
    return start, end
