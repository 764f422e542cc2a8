"""Which files of the source are copied, and under which names the loaders find the copies."""

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_loader.annotations.file_lookup import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    entry_is_folder,
)
from data_loader.readers.image_reader import is_image
from parse_config import UserError

FILE_TYPES = ("video", "image", "other")
OWN_FILES = ("manifest.json", "prepare.json", "prepare.jsonl")  # beside the copies
PARTS = ".prepare.part"  # folder of the files that are being written
SHARDS = "shards"  # folder of the tar files


class Job(NamedTuple):
    """One file to copy: its path below the source and below the copy, and one of FILE_TYPES."""

    source: str
    target: str
    file_type: str


class Failure(NamedTuple):
    """A path below the source, and why it has no copy."""

    path: str
    reason: str


def list_files(source: Path, out: Path) -> tuple[list[Job], list[Failure]]:
    """Every file below `source`, in linked folders too, and what cannot be copied."""
    jobs: list[Job] = []
    failures: list[Failure] = []
    is_copy = (source / "prepare.json").is_file()
    for folder, files in _walk(source, "", (), out, failures):
        if is_copy and not folder:
            files = [file for file in files if file not in OWN_FILES]
        names = []
        for file in files:
            path = os.path.join(folder, file)
            reason = _why_not_copied(source / path, path)
            if reason:
                failures.append(Failure(path, reason))
            else:
                names.append(file)
        for file, target in target_names(names).items():
            path = os.path.join(folder, file)
            if target is None:
                reason = f"a copy of it could not be told from that of {file}.mp4 beside it; rename one of them"
                failures.append(Failure(path, reason))
            else:
                job = Job(path, os.path.join(folder, target), file_type(source / path))
                jobs.append(job)
    return jobs, failures


def _walk(
    source: Path,
    folder: str,
    above: tuple[str, ...],
    out: Path,
    failures: list[Failure],
) -> Iterator[tuple[str, list[str]]]:
    """(folder below the source, its file names, sorted) for each folder; what cannot be entered is a failure.

    above: real paths of the folders that lead here.
    """
    real_path = os.path.realpath(source / folder)
    if real_path in above:
        failures.append(Failure(folder, "is a link to a folder that it lies in"))
        return
    if Path(real_path).is_relative_to(out):
        failures.append(Failure(folder, "is a link into the copy"))
        return
    try:
        with os.scandir(source / folder) as entries:
            is_folder = {entry.name: entry_is_folder(entry) for entry in entries}
    except OSError as error:
        reason = f"this folder cannot be read ({error.strerror})"
        failures.append(Failure(folder or ".", reason))
        return

    names = sorted(is_folder)
    yield folder, [name for name in names if not is_folder[name]]
    for name in names:
        if is_folder[name]:
            path = os.path.join(folder, name)
            yield from _walk(source, path, (*above, real_path), out, failures)


def _why_not_copied(path: Path, name: str) -> str:
    """Why the file cannot be copied; an empty text if it can. name: its path below the source."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if name in OWN_FILES:
        return "the copy has a file of that name of its own; rename it"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to a file that does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(mode):
        return "is no regular file"
    return ""


def target_names(files: Collection[str]) -> dict[str, str | None]:
    """{file: name of its copy} of the files of one folder; None where a loader would take the copy for another file's.

    Videos become mp4 files. Whatever a loader finds under a name in the source, it finds the copy of it under the same
    name: of videos with one stem, that which is looked for first has stem.mp4, the others keep their whole name.
    """
    targets: dict[str, str | None] = {file: file for file in files}
    names = set(targets)
    # a loader takes .MP4 for .mp4
    splits = [os.path.splitext(file) for file in files]
    taken = {stem + extension.lower() for stem, extension in splits}

    for file in sorted(names, key=_lookup_priority):
        stem, extension = os.path.splitext(file)
        if extension.lower() not in VIDEO_EXTENSIONS or extension.lower() == ".mp4":
            continue
        if f"{file}.mp4" in names:
            targets[file] = None
            continue
        target = f"{stem}.mp4" if f"{stem}.mp4" not in taken else f"{file}.mp4"
        targets[file] = target
        taken.add(target)
    return targets


def _lookup_priority(file: str) -> tuple[int, bool, str]:
    """Files of one stem in the order in which a loader looks for them."""
    extension = os.path.splitext(file)[1]
    position = len(VIDEO_EXTENSIONS)
    if extension.lower() in VIDEO_EXTENSIONS:
        position = VIDEO_EXTENSIONS.index(extension.lower())
    return position, extension != extension.lower(), file


def file_type(path: Path) -> str:
    """One of FILE_TYPES by extension, by the first bytes where there is none."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_EXTENSIONS:
        return "video"
    if suffix in IMAGE_EXTENSIONS:
        return "image"
    try:
        return "image" if not suffix and is_image(str(path)) else "other"
    except (OSError, UserError):  # said when it is copied
        return "other"


def orphans(out: Path, jobs: Iterable[Job], failures: Iterable[Failure]) -> list[str]:
    """Paths below the copy, sorted, of files that are no copy of a file of the source."""
    targets = {job.target for job in jobs} | set(OWN_FILES)
    unread_folders = [failure.path for failure in failures]
    existing_paths = []
    for folder, subfolders, files in os.walk(out):
        relative = os.path.relpath(folder, out)
        if relative == ".":
            relative = ""
            subfolders[:] = [name for name in subfolders if name not in (PARTS, SHARDS)]
        existing_paths += [os.path.join(relative, file) for file in files]
    return sorted(
        path
        for path in set(existing_paths) - targets
        if not any(Path(path).is_relative_to(folder) for folder in unread_folders)
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/prepare_data.py --help")
