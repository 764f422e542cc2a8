"""Names in annotation files -> files on disk: `name`, `name.mp4`, stem + any known extension.

A name with the extension of a video stands for a video only: the picture beside a video is not taken for it. Where
several files fit, the order of `VIDEO_EXTENSIONS`, then `IMAGE_EXTENSIONS`, decides; of one extension, lower case
comes before upper case, and that before any other.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

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
    ".mts",
    ".m2ts",
    ".asf",
    ".vob",
    ".divx",
    ".f4v",
    ".qt",
    ".3g2",
    ".m2v",
    ".mpe",
    ".mxf",
    ".ogm",
)
IMAGE_EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".jfif",
    ".tif",
    ".tiff",
    ".jpe",
)
MEDIA_EXTENSIONS = VIDEO_EXTENSIONS + IMAGE_EXTENSIONS
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
PRIORITY = {extension: position for position, extension in enumerate(MEDIA_EXTENSIONS)}
# folders and files that other programs leave behind, in lower case; hidden ones are known by their dot
FOREIGN_NAMES = {
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__macosx",
    "__pycache__",
    "thumbs",
    "thumbnails",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was left behind by another program (@eaDir, ._a.mp4)."""
    return name.startswith(".") or name.lower() in FOREIGN_NAMES


def entry_is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a file, or leads to one; False for a link in a circle."""
    try:
        return entry.is_file()
    except OSError:
        return False


def entry_is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or leads to one; False for a link in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def stem(name: str) -> str:
    """`name` without a known extension or a bare final dot; dots inside an id (LSMDC's times) are part of it."""
    base, extension = os.path.splitext(name)
    if extension == "." or extension.lower() in MEDIA_EXTENSIONS:
        return base
    return name


def is_media(name: str) -> bool:
    """Whether a file name has the extension of a video or picture, in any case."""
    return os.path.splitext(name)[1].lower() in PRIORITY


def is_video(name: str) -> bool:
    """Whether a file name has the extension of a video, in any case."""
    return os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS


def name_priority(name: str) -> tuple[int, int, str]:
    """Sort key of files of one stem: the likeliest first."""
    extension = os.path.splitext(name)[1]
    usual_cases = (extension.lower(), extension.upper(), _title_case(extension))
    case = usual_cases.index(extension) if extension in usual_cases else 3
    return PRIORITY[extension.lower()], case, name


def _title_case(extension: str) -> str:
    return extension[:2].upper() + extension[2:].lower()


def possible_extensions(name: str) -> Sequence[str]:
    """The extensions, in lower case, that the file listed as `name` may have, the likeliest first."""
    extension = os.path.splitext(name)[1].lower()
    if extension in VIDEO_EXTENSIONS:
        return VIDEO_EXTENSIONS
    if extension in IMAGE_EXTENSIONS:
        return IMAGE_EXTENSIONS
    return MEDIA_EXTENSIONS


def candidates(name: str) -> Iterator[str]:
    """Names that the file listed as `name` may have on disk, the likeliest first.

    Extensions in lower, upper and title case (.mp4, .MP4, .Mp4).
    """
    yield name
    yield name + ".mp4"
    for base in dict.fromkeys((stem(name), name)):
        for extension in possible_extensions(name):
            yield base + extension
            yield base + extension.upper()
            yield base + _title_case(extension)


def find_file(root: str, name: str) -> str | None:
    """The path of the file listed as `name` under `root`, or None. Costs one stat where the name is right."""
    listed_path = os.path.join(root, name)
    return next(
        (path for path in candidates(listed_path) if os.path.isfile(path)), None
    )


def find_files(root: str, names: Iterable[str]) -> Iterator[str | None]:
    """`find_file` for many names, extensions in any case: each folder is listed once, no stat per name.

    Yields a path or None per name, in their order.
    """
    lookup = FileLookup(root)
    for name in names:
        yield lookup.find(name)


class FileLookup:
    """Finds listed files under `root`; each folder is listed once, when its first file is looked for.

    choices: (path that was taken, name of another file that fits) of each name that fits several files.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.choices: list[tuple[str, str]] = []
        # folder as listed, with its slash -> (its path, its files)
        self._listings: dict[str, tuple[str, FolderListing]] = {}

    def find(self, name: str) -> str | None:
        """The path of the file listed as `name`, or None."""
        base = name.rpartition("/")[2]
        folder = name.removesuffix(base)
        entry = self._listings.get(folder)
        if entry is None:
            # ends with a slash
            path = os.path.join(self.root, folder, "")
            entry = self._listings[folder] = (path, FolderListing(path))

        path, listing = entry
        file_name = listing.find(base)
        if file_name is None:
            return None
        if file_name != base:
            alternative = listing.other(base, file_name)
            if alternative is not None:
                self.choices.append((path + file_name, alternative))
        return path + file_name


class FolderListing:
    """The files of one folder, or the first of them up to `limit`; an absent folder has none."""

    def __init__(self, folder: str, limit: int | None = None) -> None:
        self.names: set[str] = set()
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                self.names = {
                    entry.name
                    for entry in islice(entries, limit)
                    if entry_is_file(entry)
                }

    def find(self, name: str) -> str | None:
        """The file name here of the file listed as `name`, or None."""
        if name in self.names:
            return name
        if name + ".mp4" in self.names:
            return name + ".mp4"
        fitting = self._fitting(name)
        return fitting[0] if fitting else None

    def other(self, name: str, taken: str) -> str | None:
        """A file, other than `taken`, that also fits `name`; None if there is none."""
        return next((file for file in self._fitting(name) if file != taken), None)

    def _fitting(self, name: str) -> list[str]:
        """The files whose stem is that of `name`, the likeliest first."""
        extensions = possible_extensions(name)
        for base in (stem(name), name):
            fitting = [
                file
                for file in self._names_by_stem.get(base, ())
                if os.path.splitext(file)[1].lower() in extensions
            ]
            if fitting:
                return fitting
        return []

    @cached_property
    def _names_by_stem(self) -> dict[str, list[str]]:
        """{stem: the videos and pictures that have it, the likeliest first}"""
        media = [name for name in self.names if is_media(name)]
        media.sort(key=name_priority)
        names_by_stem: dict[str, list[str]] = {}
        for name in media:
            names_by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
        return names_by_stem
