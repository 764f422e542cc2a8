"""The content of the files of rows: by it a later run knows what is new, changed, moved or as it was.

A file whose size and times are those of an earlier run is not read again: its content cannot have changed without the
time of its last change of status (ctime), which no program can set.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from scripts.retrieval.features import Row

BLOCK_SIZE = 1 << 20
ROWS_PER_ROUND = 1000  # of each process, between two exchanges with the others
Stamp = list[int]  # size, time of last modification, of last change of status (ns)
KnownContents = dict[
    str, tuple[Stamp, str]
]  # path: stamp and SHA-256 of an earlier run


def with_contents(
    rows: Sequence[Row], known: KnownContents, num_threads: int, bar: tqdm
) -> list[Row]:
    """The rows of videos with "sha256" and "stamp" of their files; both None for what cannot be read, or is no file."""
    stopped = threading.Event()

    def add(row: Row) -> Row:
        stamp, content = _content(row["path"], known, stopped)
        return {**row, "sha256": content, "stamp": stamp}

    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        try:
            return list(_counted(pool.map(add, rows), bar))
        finally:
            stopped.set()  # Ctrl-C does not wait for large files


def _counted(rows: Iterator[Row], bar: tqdm) -> Iterator[Row]:
    for row in rows:
        bar.update()
        yield row


def _content(
    path: str, known: KnownContents, stopped: threading.Event
) -> tuple[Stamp | None, str | None]:
    """(stamp, SHA-256) of a file; (None, None) for what cannot be read, or is no file."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return None, None
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known_stamp, known_content = known.get(path, (None, None))
        if known_stamp == stamp:
            return stamp, known_content
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while not stopped.is_set() and (block := file.read(BLOCK_SIZE)):
                digest.update(block)
        return stamp, digest.hexdigest()
    except (OSError, ValueError):
        return None, None


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
