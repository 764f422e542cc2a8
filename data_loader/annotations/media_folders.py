"""In which of a data set's known folders each listed video lies; where files of those names are, if in none."""

import itertools
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from data_loader.annotations.file_lookup import (
    ARCHIVES,
    FileLookup,
    FolderListing,
    entry_is_folder,
    is_foreign,
)

NUM_EXAMPLES = 50  # missing files that are looked for nearby
MAX_FOLDERS = 300  # that are listed for that
MAX_ENTRIES = 100_000  # that are read of each
MAX_DEPTH = 4  # folders below the first one


def media_paths(
    root: str | os.PathLike, folders: Sequence[str], names: Sequence[str]
) -> list[str]:
    """The path under `root` of each of the listed files `names`: in the first of `folders` that has it.

    `folders` are tried in the order of how many of the files they have, the first of them first among equals; then,
    for files in none of them, the same folders in each folder of `root` (a zip file unpacked into a folder of its own).
    A file that is nowhere gets the path that it would have in the folder with most of the files.
    """
    top = os.fspath(root)
    folder_of: dict[str, str] = {}
    ranked = _rank(top, folders, names)
    remaining = list(names)
    for folder in itertools.chain(ranked, _nested_folders(top, folders)):
        if not remaining:
            break
        existing = _existing(top, folder, remaining)
        if existing:
            folder_of |= dict.fromkeys(existing, folder)
            remaining = [name for name in remaining if name not in folder_of]

    usual_folder = ranked[0]
    if folder_of:
        usual_folder = Counter(folder_of.values()).most_common(1)[0][0]
    return [f"{folder_of.get(name, usual_folder)}/{name}".lstrip("/") for name in names]


def _rank(top: str, folders: Sequence[str], names: Sequence[str]) -> list[str]:
    """`folders`, those with more of the files first."""
    counts = {folder: len(_existing(top, folder, names)) for folder in folders}
    return sorted(folders, key=lambda folder: -counts[folder])


def _existing(top: str, folder: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that are in `folder`."""
    path = os.path.join(top, folder)
    if not os.path.isdir(path):
        return []
    lookup = FileLookup(path)
    subfolders = set(_subfolders(path))

    existing = []
    for name in names:
        first, slash, _ = name.partition("/")
        if slash and first not in subfolders:
            continue
        if lookup.find(name) is not None:
            existing.append(name)
    return existing


def _nested_folders(top: str, folders: Sequence[str]) -> Iterator[str]:
    """`folders` in each folder of `top`, if they exist."""
    if not os.path.isdir(top):
        return
    for subfolder in sorted(_subfolders(top)):
        for folder in folders:
            nested = os.path.join(subfolder, folder).rstrip("/")
            path = os.path.join(top, nested)
            is_new = nested not in folders
            if is_new and os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK):
                yield nested


def _subfolders(folder: str) -> list[str]:
    """Names of the folders in `folder`, without hidden ones; [] if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in entries
                if not is_foreign(entry.name) and entry_is_folder(entry)
            ]
    except OSError:
        return []


def describe_nearby(root: str | os.PathLike, names: Sequence[str]) -> str:
    """Where files of the listed `names` are that are not in `root`: part of a message, or an empty text.

    `root` and the folders below it are searched, then the folder above it and those below that.
    """
    top = os.path.abspath(root)
    examples = names[:NUM_EXAMPLES]
    hint = _describe_below(top, examples)
    if hint:
        return hint

    archives = [
        name
        for name in list_names(top)
        if os.path.splitext(name)[1].lower() in ARCHIVES
    ]
    if archives:
        return f"; {', '.join(archives[:3])} in {top}: not unpacked?"
    return _describe_below(os.path.dirname(top), examples)


def _describe_below(top: str, names: Sequence[str]) -> str:
    """The folder in or below `top` with most of the files `names`, and the data_dir that fits them, in words."""
    counts: Counter[str] = Counter()
    data_dirs: Counter[str] = Counter()
    for path in folders_below(top):
        try:
            listing = FolderListing(path, MAX_ENTRIES)
        except OSError:
            continue
        for name in names:
            folder, base = os.path.split(name)
            if listing.find(base) is None:
                continue
            counts[path] += 1
            if folder and f"{path}/".endswith(f"/{folder}/"):
                data_dirs[path[: -len(folder) - 1]] += 1

    if not counts:
        return ""
    hint = f"; files of these names are in {counts.most_common(1)[0][0]}"
    if data_dirs:
        hint += f": set data_dir to {data_dirs.most_common(1)[0][0]}"
    return hint


def folders_below(top: str) -> Iterator[str]:
    """`top` and the folders below it, nearest first, up to `MAX_FOLDERS`; none for the root of the file system."""
    if os.path.dirname(top) == top:
        return
    queue = deque([(top, 0)])
    for _ in range(MAX_FOLDERS):
        if not queue:
            return
        folder, depth = queue.popleft()
        yield folder
        if depth < MAX_DEPTH:
            queue += [
                (os.path.join(folder, name), depth + 1)
                for name in sorted(_subfolders(folder))
            ]


def list_names(folder: str | os.PathLike) -> list[str]:
    """What is in `folder`, sorted; [] if it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
