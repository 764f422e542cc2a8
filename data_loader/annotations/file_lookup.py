"""Names in annotation files -> files on disk: `name`, `name.mp4`, stem + any known extension."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property

VIDEO_EXTENSIONS = (
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
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS
# in the order in which they are tried
LOOKUP_ORDER = MEDIA_EXTENSIONS + tuple(
    extension.upper() for extension in MEDIA_EXTENSIONS
)


def stem(name: str) -> str:
    """`name` without a known extension or a bare final dot; dots inside an id (LSMDC's times) are part of it."""
    base, extension = os.path.splitext(name)
    if extension == "." or extension.lower() in MEDIA_EXTENSIONS:
        return base
    return name


def candidates(name: str) -> Iterator[str]:
    """Names that the file listed as `name` may have on disk, the likeliest first."""
    yield name
    yield name + ".mp4"
    for base in dict.fromkeys((stem(name), name)):
        for extension in LOOKUP_ORDER:
            yield base + extension


def find_file(root: str, name: str) -> str | None:
    """The path of the file listed as `name` under `root`, or None. Costs one stat where the name is right."""
    listed_path = os.path.join(root, name)
    return next(
        (path for path in candidates(listed_path) if os.path.isfile(path)), None
    )


def find_files(root: str, names: Iterable[str]) -> Iterator[str | None]:
    """`find_file` for many names: each folder is listed once, no stat per name.

    Yields a path or None per name, in their order.
    """
    listings: dict[str, FolderListing] = {}
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listings:
            listings[folder] = FolderListing(folder)

        file_name = listings[folder].find(base)
        yield None if file_name is None else os.path.join(folder, file_name)


class FolderListing:
    """The files of one folder; an absent folder has none."""

    def __init__(self, folder: str) -> None:
        self.names: set[str] = set()
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                self.names = {entry.name for entry in entries if entry.is_file()}

    def find(self, name: str) -> str | None:
        """The file name here of the file listed as `name`, or None."""
        if name in self.names:
            return name
        if name + ".mp4" in self.names:
            return name + ".mp4"
        return self._names_by_stem.get(stem(name)) or self._names_by_stem.get(name)

    @cached_property
    def _names_by_stem(self) -> dict[str, str]:
        """{stem: the likeliest of the files that have it}"""
        priority = {
            extension: position for position, extension in enumerate(LOOKUP_ORDER)
        }
        media = [name for name in self.names if os.path.splitext(name)[1] in priority]

        def name_priority(name: str) -> int:
            return priority[os.path.splitext(name)[1]]

        # the likeliest last, so that it overwrites the others
        media.sort(key=name_priority, reverse=True)
        return {os.path.splitext(name)[0]: name for name in media}
