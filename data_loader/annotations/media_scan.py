"""Finds the videos and pictures in and under a folder, and says what it leaves out."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data_loader.annotations.file_lookup import (
    ARCHIVES,
    PRIORITY,
    VIDEO_EXTENSIONS,
    entry_is_file,
    entry_is_folder,
    is_foreign,
    name_priority,
)

VIDEO_EXTENSION_SET = frozenset(VIDEO_EXTENSIONS)
NO_EXTENSION = "files without extension"


@dataclass
class MediaFolder:
    """One folder of a scan.

    path: under the top of the scan, "" for the top itself. media: names of its videos and pictures, sorted.
    texts: {stem: name} of its .txt files, the extension in any case.
    """

    path: str
    media: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class MediaScan:
    """What lies in and under a folder.

    folders: those with files, a folder before those below it, sorted by name.
    skipped: {what: number of files}, an extension or words. unreadable: folders that could not be listed, and why.
    """

    top: str
    folders: list[MediaFolder] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    def paths(self) -> Iterator[str]:
        """The videos and pictures, as paths under the top: the files of a folder, then its subfolders."""
        for folder in self.folders:
            for name in folder.media:
                yield os.path.join(folder.path, name)

    def left_out(self) -> str:
        """What the scan skipped, in words: "2 .xyz, 1 .txt without a video"; an empty text for nothing."""
        counts = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count} {what}" for what, count in counts)


def scan_media(top: str | os.PathLike) -> MediaScan:
    """Scan `top`; links to folders are followed, and a folder that is reached twice is read once.

    Hidden files and folders and those of other programs (`is_foreign`) are left out, and so is a picture beside a
    video of the same name, which is its thumbnail.
    """
    scan = MediaScan(os.fspath(top))
    visited: set[tuple[int, int]] = set()
    folders = [""]
    # after all others, so that a folder is known by its own path rather than by that of a link to it
    linked_folders: list[str] = []

    while folders or linked_folders:
        path = folders.pop() if folders else linked_folders.pop(0)
        status = os.stat(os.path.join(scan.top, path))
        if (status.st_dev, status.st_ino) in visited:
            scan.skipped["folder(s) reached by another path"] += 1
            continue
        visited.add((status.st_dev, status.st_ino))

        subfolders, links = _scan_folder(scan, path)
        folders += subfolders
        linked_folders = sorted(linked_folders + links)

    scan.folders.sort(key=lambda folder: folder.path.split(os.sep))
    return scan


def _scan_folder(scan: MediaScan, path: str) -> tuple[list[str], list[str]]:
    """Add the folder `path` to `scan` -> its subfolders, and its links to folders."""
    files: list[str] = []
    subfolders: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(os.path.join(scan.top, path)) as entries:
            for entry in entries:
                if is_foreign(entry.name):
                    scan.skipped["hidden or of another program"] += 1
                elif entry_is_folder(entry):
                    folder_list = links if entry.is_symlink() else subfolders
                    folder_list.append(os.path.join(path, entry.name))
                elif entry_is_file(entry) or entry.is_symlink():
                    # a broken link is a file that is missing
                    files.append(entry.name)
                else:
                    scan.skipped["pipes, sockets or devices"] += 1
    except OSError as error:
        folder = os.path.join(scan.top, path)
        scan.unreadable.append(f"{folder}: {error.strerror}")

    if files:
        scan.folders.append(_sort_files(path, files, scan.skipped))
    return subfolders, links


def _sort_files(path: str, files: Sequence[str], skipped: Counter[str]) -> MediaFolder:
    """Divide the names of a folder's files into media and texts; the others are counted in `skipped`."""
    folder = MediaFolder(path)
    pictures: list[tuple[str, str]] = []
    video_names: set[str] = set()
    texts = []

    for name in sorted(files):
        base, extension = os.path.splitext(name)
        extension = extension.lower()
        if extension in VIDEO_EXTENSION_SET:
            folder.media.append(name)
            video_names |= {name, base}
        elif extension in PRIORITY:
            pictures.append((name, base))
        elif extension == ".txt":
            texts.append(name)
        elif extension in ARCHIVES:
            skipped[f"{extension} (not unpacked)"] += 1
        else:
            skipped[extension or NO_EXTENSION] += 1

    for name, base in pictures:
        if base in video_names:
            skipped["pictures beside a video of the same name"] += 1
        else:
            folder.media.append(name)
    folder.media.sort()
    _pair_texts(folder, texts, skipped)
    return folder


def _pair_texts(
    folder: MediaFolder, texts: Sequence[str], skipped: Counter[str]
) -> None:
    """Fill `folder.texts`, where name.txt is preferred to name.TXT; count those without use in `skipped`."""
    if not texts:
        return
    stems = {os.path.splitext(name)[0] for name in folder.media}
    for name in sorted(texts, key=lambda name: (not name.endswith(".txt"), name)):
        base = os.path.splitext(name)[0]
        if base in folder.texts:
            skipped["second .txt of one name"] += 1
            continue
        folder.texts[base] = name
        if base not in stems:
            skipped[".txt without a video"] += 1


def one_per_stem(names: Sequence[str]) -> list[str]:
    """Of files of one stem (a.mp4 and a.webm) the one of the preferred extension; in the order of `names`."""
    preferred: dict[str, str] = {}
    for name in sorted(names, key=name_priority):
        preferred.setdefault(os.path.splitext(name)[0], name)
    preferred_names = set(preferred.values())
    return [name for name in names if name in preferred_names]
