"""Opening a media file: regular files only, and never waiting for one."""

import io
import os
import stat

from data_loader.readers import BrokenVideo

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str, flags: int = 0) -> io.FileIO:
    """The file, opened for reading. `flags`: more of them for `os.open`.

    Raises BrokenVideo for what is no regular file, OSError for what cannot be opened. A pipe that nobody writes to
    does not block, and a device is not opened at all. Only a disk that does not answer can make it wait.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a zero byte, or characters that no file name has
        raise BrokenVideo(path, f"is no path ({error})") from None
    _check_regular(path, status.st_mode)
    flags |= os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    file = io.FileIO(path, opener=lambda name, _: os.open(name, flags))
    try:
        # the path may have become something else since it was looked at
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: str, mode: int) -> None:
    """BrokenVideo if `mode`, of `stat`, is not a regular file's."""
    if not stat.S_ISREG(mode):
        file_type = KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
        raise BrokenVideo(path, f"is {file_type}, no regular file")
