"""One writer a run folder: a killed job's processes may live on for a while after the next has been started."""

import errno
import fcntl
import logging
import time
from pathlib import Path
from typing import IO

from parse_config import UserError

log = logging.getLogger(__name__)

LOCK = ".lock"
WAIT = 60.0  # seconds; what is killed politely needs some to save
_held: dict[Path, IO] = {}


def acquire(folder: Path):
    """Make this process the folder's one writer until it ends. Raises UserError if another stays that for `WAIT`.

    The lock is the process's own (its data workers do not hold it) and goes with it, however it ends. Where the file
    system has no locks, nothing is claimed.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    file, began, said = open(folder / LOCK, "a"), time.monotonic(), False  # noqa: SIM115 (open as long as the lock)
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                log.debug("%s: not locked, %s", folder, error)
                break
        if time.monotonic() - began > WAIT:
            raise UserError(
                f"{folder}: another process is still writing there; end it first, or start a run of its "
                "own, without -r auto"
            )
        if not said:
            log.info("%s: waiting for the process that still writes there", folder)
            said = True
        time.sleep(0.2)
    _held[folder] = file


def release():
    """Give all folders back, and remove those in which nothing was written: a mistake leaves nothing behind."""
    while _held:
        folder, file = _held.popitem()
        if {path.name for path in folder.iterdir()} == {LOCK}:
            (folder / LOCK).unlink()
            folder.rmdir()
        file.close()
