"""Tables that are parsed once: kept as memory-mapped files, keyed by what they were parsed from."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_loader.annotations.table import VERSION, Chunk, Table
from parse_config import UserError

log = logging.getLogger(__name__)
SMALL = 16 << 20  # bytes of annotations that are parsed anew each time and stay in memory


def cache_folder(given: str | None = None) -> Path:
    """`given`, or $MILES_CACHE, or ${XDG_CACHE_HOME:-~/.cache}/miles."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(given or os.environ.get("MILES_CACHE") or os.path.join(home, "miles"))


def cached(
    root: Path,
    name: str,
    sources: Sequence[Path],
    settings: Any,
    parse: Callable[[], Iterable[Chunk]],
    notes: Callable[[], dict[str, Any]],
) -> Table:
    """The table that `parse` makes of `sources`: mapped if it was made before, else made, kept and mapped.

    It is made anew when a source's path, size or time, or `settings` (plain data: version, split, ...) changed; what
    it replaces is removed. Several processes may ask at once: one makes it, the others wait.
    """
    paths = [os.path.abspath(path) for path in sources]
    stats = [os.stat(path) for path in paths]
    prefix = f"{name}-{_hash(VERSION, settings, paths)}-"
    folder = root / (prefix + _hash([(stat.st_size, stat.st_mtime_ns) for stat in stats]))
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (folder / "table.json").is_file():
            with _lock(root / f"{prefix}lock"):
                if not (folder / "table.json").is_file():
                    _make(folder, parse, notes)
                    for old in set(root.glob(f"{prefix}*")) - {folder, root / f"{prefix}lock"}:
                        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if not str(error.filename or root).startswith(str(root)):
            raise
        raise UserError(
            f"{root}: the table of {name} could not be kept ({error.strerror or error}); make room, or "
            "give another folder as cache_dir or $MILES_CACHE"
        ) from error
    return Table.open(folder)


def _make(
    folder: Path, parse: Callable[[], Iterable[Chunk]], notes: Callable[[], dict[str, Any]]
) -> None:
    """Write beside, then rename: `folder` is complete or absent, even after a crash."""
    log.info("reading the annotations into %s (once)", folder)
    part = Path(tempfile.mkdtemp(prefix=folder.name + ".part-", dir=folder.parent))
    try:
        Table.write(part, parse(), notes)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash(*plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:12]
