"""Names in annotation files -> files on disk: `name`, `name.mp4`, stem + any known extension."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property

VIDEO = (
    ".mp4",
    ".avi",
    ".webm",
    ".mkv",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".3gp",
    ".ts",
    ".ogv",
    ".gif",
)
IMAGE = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
KNOWN = VIDEO + IMAGE
EXTENSIONS = KNOWN + tuple(extension.upper() for extension in KNOWN)


def stem(name: str) -> str:
    """`name` without a known extension or a bare final dot; dots inside an id (LSMDC's times) are part of it."""
    base, extension = os.path.splitext(name)
    return base if extension == "." or extension.lower() in KNOWN else name


def candidates(name: str) -> Iterator[str]:
    """What a file listed as `name` may be called on disk, the likeliest first."""
    yield name
    yield name + ".mp4"
    for base in dict.fromkeys((stem(name), name)):
        for extension in EXTENSIONS:
            yield base + extension


def find(root: str, name: str) -> str | None:
    """The path of the file listed as `name` under `root`, or None. Costs one stat where the name is right."""
    whole = os.path.join(root, name)
    return next((path for path in candidates(whole) if os.path.isfile(path)), None)


def find_all(root: str, names: Iterable[str]) -> Iterator[str | None]:
    """`find` for many names: each folder is listed once, no stat per name."""
    listings: dict[str, Listing] = {}
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listings:
            listings[folder] = Listing(folder)
        hit = listings[folder].find(base)
        yield os.path.join(folder, hit) if hit is not None else None


class Listing:
    """The files of one folder; an absent folder has none."""

    def __init__(self, folder: str):
        self.names: set[str] = set()
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                self.names = {entry.name for entry in entries if entry.is_file()}

    def find(self, name: str) -> str | None:
        """What the file listed as `name` is called here, or None."""
        if name in self.names:
            return name
        if name + ".mp4" in self.names:
            return name + ".mp4"
        return self._stems.get(stem(name)) or self._stems.get(name)

    @cached_property
    def _stems(self) -> dict[str, str]:
        """{stem: the likeliest of the files that have it}"""
        order = {extension: place for place, extension in enumerate(EXTENSIONS)}
        known = [name for name in self.names if os.path.splitext(name)[1] in order]
        known.sort(key=lambda name: -order[os.path.splitext(name)[1]])
        return {os.path.splitext(name)[0]: name for name in known}
