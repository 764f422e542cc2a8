"""Names in annotation files -> files on disk: `name`, `name.mp4`, stem + any known extension."""
import os
from collections.abc import Iterable, Iterator

VIDEO = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".ogv",
         ".gif")
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


def find_all(root: str, names: Iterable[str]) -> list[str | None]:
    """`find` for many names: each folder is listed once, no stat per name."""
    listings: dict[str, set[str]] = {}
    found: list[str | None] = []
    for name in names:
        folder, base = os.path.split(os.path.join(root, name))
        if folder not in listings:
            listings[folder] = _files(folder)
        there = listings[folder]
        hit = base if base in there else next((other for other in candidates(base) if other in there), None)
        found.append(os.path.join(folder, hit) if hit is not None else None)
    return found


def _files(folder: str) -> set[str]:
    if not os.path.isdir(folder):
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}
