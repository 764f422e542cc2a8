"""One file of the source -> its copy, under its name only when it is complete."""

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from data_loader.readers import BrokenVideo
from data_loader.readers.image_reader import is_image
from data_loader.readers.image_reader import read as read_image
from data_loader.readers.regular_file import open_regular
from scripts.data_copy.listing import PARTS, Job
from scripts.data_copy.video import Settings, TargetError, target_error, write_video
from trainer.files import sha256

BLOCK = 1 << 20  # bytes
# of one file's name, not of the disk
ERRORS_OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class CopiedFile(NamedTuple):
    """One file of the source: its size and time, and of its copy the path, size and hash, or why there is none."""

    source: str
    source_size: int = 0
    source_mtime_ns: int = 0
    target: str = ""
    size: int = 0
    sha256: str = ""
    failure: str = ""


def run_job(
    job: Job, source: Path, out: Path, settings: Settings, deadline: float | None
) -> CopiedFile:
    """Write one copy. What cannot be read, or is not what it was when it has been read, is a failure.

    A copy that was there before is replaced, or removed if the file cannot be copied any more. Raises TargetError.
    """
    path = source / job.source
    target = out / job.target
    unfinished_name = hashlib.sha256(os.fsencode(job.target)).hexdigest()
    unfinished_copy = out / PARTS / unfinished_name
    try:
        before = path.stat()
        _write(job, path, unfinished_copy, settings, deadline)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise BrokenVideo(str(path), "changed while it was copied")
        size, digest = unfinished_copy.stat().st_size, sha256(unfinished_copy)
        _put(unfinished_copy, target)
    except TargetError as error:
        raise TargetError(str(target), error.reason) from None
    except BrokenVideo as error:
        return _failed(job, target, error.reason)
    except OSError as error:
        return _failed(job, target, f"cannot be read ({error.strerror or error})")
    finally:
        unfinished_copy.unlink(missing_ok=True)
    return CopiedFile(
        job.source, before.st_size, before.st_mtime_ns, job.target, size, digest
    )


def _failed(job: Job, target: Path, reason: str) -> CopiedFile:
    """The failure; what lay under the copy's name was made of an earlier file."""
    if target.is_file():
        try:
            target.unlink()
        except OSError as error:
            raise target_error(target, error) from None
    return CopiedFile(job.source, failure=reason)


def _write(
    job: Job, path: Path, part: Path, settings: Settings, deadline: float | None
) -> None:
    """A picture is known by its first bytes, as the reader knows it, whatever its name."""
    if job.file_type == "other":
        copy_file(path, part)
    elif is_image(str(path)):
        write_image(path, part, settings)
    else:
        write_video(path, part, settings, deadline)


def write_image(source: Path, target: Path, settings: Settings) -> None:
    """A JPEG of the picture, upright, with at most `side` pixels on its short side; of an animation the same bytes.

    Raises BrokenVideo, OSError, TargetError.
    """
    num_frames = 1

    def first_frame(length: int) -> list[int]:
        nonlocal num_frames
        num_frames = length
        return [0]

    (picture_HWC,), _ = read_image(str(source), first_frame)
    if num_frames > 1:
        copy_file(source, target)
        return
    image = Image.fromarray(picture_HWC)
    scale = min(1.0, settings.side / min(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=95)
    try:
        # by Python, which sees a write that the disk took only in part
        target.write_bytes(content.getvalue())
    except OSError as error:
        raise target_error(target, error) from None


def copy_file(source: Path, target: Path) -> None:
    """The same bytes.

    Raises BrokenVideo for what is no regular file, OSError if the source cannot be read, TargetError if the copy
    cannot be written.
    """
    with io.BufferedReader(open_regular(str(source))) as original:
        try:
            with open(target, "wb") as copy:
                _copy_bytes(original, copy)
        except _ReadError as error:
            raise error.error from None
        except OSError as error:
            raise target_error(target, error) from None


class _ReadError(Exception):
    """The source, and not the copy, is at fault."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _copy_bytes(original: IO[bytes], copy: IO[bytes]) -> None:
    while True:
        try:
            block = original.read(BLOCK)
        except OSError as error:
            raise _ReadError(error) from None
        if not block:
            return
        copy.write(block)


def _put(part: Path, target: Path) -> None:
    """Give the complete file its name. Raises BrokenVideo if no file can have that name here, else TargetError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
    except OSError as error:
        if error.errno in ERRORS_OF_ONE_FILE:
            reason = f"its copy cannot have the name {target.name} ({error.strerror})"
            raise BrokenVideo(str(target), reason) from None
        raise target_error(target, error) from None


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/prepare_data.py --help")
