"""One writing process per folder: a killed job's processes may live on while its successor starts."""

import contextlib
import errno
import fcntl
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from parse_config import UserError

log = logging.getLogger(__name__)

LOCK = ".lock"
WAIT = 60.0  # seconds: a process that was sent SIGTERM needs some to save
POLL = 0.2  # seconds between attempts
_locked_files: dict[Path, IO[str]] = {}
_new_parents: dict[Path, list[Path]] = {}


def acquire(folder: Path, new_parents: Sequence[Path] = ()) -> None:
    """Lock `folder` for this process until it ends or calls `release`; waits for another holder up to `WAIT` seconds.

    new_parents: folders above it that were made for it, the lowest first; they go with it if it stays empty.

    The lock is the process's own: its data workers do not hold it, and it ends with the process, however that ends.
    Where the file system has no locks, nothing is locked. Raises UserError if another process keeps the lock.
    """
    folder = folder.resolve()
    if folder in _locked_files:
        return
    file = open(folder / LOCK, "a")  # noqa: SIM115 (open as long as the lock)
    started = time.monotonic()
    waiting = False
    while not _try_lock(file, folder):
        if time.monotonic() - started > WAIT:
            raise UserError(
                f"{folder}: another process is still writing there; end it first, or start a run of its "
                "own, without -r auto"
            )
        if not waiting:
            log.info("%s: waiting for the process that still writes there", folder)
            waiting = True
        time.sleep(POLL)
    _locked_files[folder] = file
    _new_parents[folder] = [parent.resolve() for parent in new_parents]


def release() -> None:
    """Unlock all folders, and remove those in which nothing was written: a failed start leaves no empty folder."""
    while _locked_files:
        folder, file = _locked_files.popitem()
        if {path.name for path in folder.iterdir()} == {LOCK}:
            (folder / LOCK).unlink()
            folder.rmdir()
            with contextlib.suppress(OSError):  # another run lies there by now
                for parent in _new_parents[folder]:
                    parent.rmdir()
        file.close()


def _try_lock(file: IO[str], folder: Path) -> bool:
    """False if another process holds the lock; True if it is ours or the file system has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        log.debug("%s: not locked, %s", folder, error)
    return True
