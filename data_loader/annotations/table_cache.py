"""Annotations -> table. Large ones are parsed once and cached as memory-mapped files, keyed by their sources."""

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

from data_loader.annotations.items import Annotations
from data_loader.annotations.table import VERSION, Chunk, Table
from parse_config import UserError

log = logging.getLogger(__name__)
SMALL = 16 << 20  # bytes of annotations that are parsed each time and stay in memory


def load_table(
    annotations: Annotations,
    dataset: str,
    data_dir: str,
    split: str,
    cut: str | None,
    cache_dir: str | None = None,
) -> Table:
    """The table of `annotations`: in memory, or, if the sources are large, mapped from the cache in `cache_dir`.

    dataset: the data set's class name; with data_dir, split and cut it is part of the cache's key.
    """
    if sum(path.stat().st_size for path in annotations.sources) <= SMALL:
        return Table.from_chunks(annotations.columns(), annotations.notes)

    settings = [
        annotations.parser_version,
        os.path.abspath(data_dir),
        split,
        cut,
        annotations.layout,
        dict(annotations.options),
    ]
    return cached_table(
        cache_folder(cache_dir),
        dataset,
        annotations.sources,
        settings,
        annotations.columns,
        annotations.notes,
    )


def cache_folder(cache_dir: str | None = None) -> Path:
    """`cache_dir`, or $MILES_CACHE, or ${XDG_CACHE_HOME:-~/.cache}/miles."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(
        os.path.expanduser("~"), ".cache"
    )
    return Path(
        cache_dir or os.environ.get("MILES_CACHE") or os.path.join(home, "miles")
    )


def cached_table(
    root: Path,
    name: str,
    sources: Sequence[Path],
    settings: Any,
    parse: Callable[[], Iterable[Chunk]],
    notes: Callable[[], dict[str, Any]],
) -> Table:
    """The table that `parse` makes of `sources`, mapped from `root`; parsed and written first if it is not there.

    It is parsed again when a source's path, size or time, or `settings` (plain data: version, split, ...) changed; the
    outdated table is removed. Of several processes that ask at once, one parses and the others wait.
    """
    paths = [os.path.abspath(path) for path in sources]
    stats = [os.stat(path) for path in paths]
    prefix = f"{name}-{_hash(VERSION, settings, paths)}-"
    folder = root / (
        prefix + _hash([(stat.st_size, stat.st_mtime_ns) for stat in stats])
    )
    lock_path = root / f"{prefix}lock"

    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (folder / "table.json").is_file():
            with _lock(lock_path):
                if not (
                    folder / "table.json"
                ).is_file():  # another process may have written it
                    _write(folder, parse, notes)
                    for outdated in set(root.glob(f"{prefix}*")) - {folder, lock_path}:
                        shutil.rmtree(outdated, ignore_errors=True)
    except OSError as error:
        if not str(error.filename or root).startswith(str(root)):
            raise
        raise UserError(
            f"{root}: the table of {name} could not be kept ({error.strerror or error}); make room, or "
            "give another folder as cache_dir or $MILES_CACHE"
        ) from error
    return Table.open(folder)


def _write(
    folder: Path,
    parse: Callable[[], Iterable[Chunk]],
    notes: Callable[[], dict[str, Any]],
) -> None:
    """Write beside, then rename: `folder` is complete or absent, even after a crash."""
    log.info("reading the annotations into %s (once)", folder)
    temporary = Path(tempfile.mkdtemp(prefix=folder.name + ".part-", dir=folder.parent))
    try:
        # In a folder inside: mkdtemp's own can be read by its owner alone.
        unfinished = temporary / "table"
        unfinished.mkdir()
        Table.write(unfinished, parse(), notes)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
