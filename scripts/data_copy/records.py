"""What was copied: manifest.json at the end of a run, and prepare.jsonl, a line per file, as long as it lasts."""

import errno
import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from parse_config import ConfigError, UserError
from scripts.data_copy.files import CopiedFile
from scripts.data_copy.listing import FILE_TYPES, Failure, Job
from trainer.files import write_json

JOURNAL = "prepare.jsonl"
MANIFEST = "manifest.json"
STAMP = "prepare.json"


def begin(out: Path, settings: dict[str, int]) -> None:
    """Record the settings in the copy; ConfigError if it was begun with others, or if other files are there."""
    path = out / STAMP
    if path.is_file():
        begun_with = path.read_text(encoding="utf-8")
        if _parse_object(begun_with) != settings:
            raise ConfigError(
                f"{out}: was begun with {begun_with.strip()}, now {json.dumps(settings)} is asked for; give those "
                "settings or another folder (another version: another folder)"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ConfigError(
            f"{out}: holds files, and not those of a copy; give a new or an empty folder"
        )
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings, indent=None)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes from writing into the copy. Raises UserError if one does."""
    with open(out / STAMP, "r+") as file:
        try:
            # the lock of this process alone: it ends with it, however that ends
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"{out}: another process is writing this copy; wait for it, or end it first"
                ) from None
            # a file system without locks
        yield


def read_records(out: Path) -> dict[str, CopiedFile]:
    """{path in the source: what was copied} of earlier runs; those that were stopped have left a journal."""
    records: dict[str, CopiedFile] = {}
    manifest = out / MANIFEST
    if manifest.is_file():
        files = _parse_object(manifest.read_text(encoding="utf-8")).get("files") or {}
        for source, row in files.items():
            records[source] = CopiedFile(source, **row)

    journal = out / JOURNAL
    if journal.is_file():
        for line in journal.read_text(encoding="utf-8").splitlines():
            row = _parse_object(line)  # empty where the run was killed in it
            if row:
                records[row["source"]] = CopiedFile(**row)
    return records


def _parse_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def add_to_journal(journal: IO[str], file: CopiedFile) -> None:
    """Append a copied file; it survives a kill of the run."""
    if not file.failure:
        row = file._asdict()
        del row["failure"]
        journal.write(json.dumps(row) + "\n")
        journal.flush()


def is_current(job: Job, record: CopiedFile | None, source: Path, out: Path) -> bool:
    """Whether the copy is there, whole, and made of the file as it now is, by its size and time."""
    if record is None or record.target != job.target:
        return False
    try:
        original = (source / job.source).stat()
        copy_size = (out / job.target).stat().st_size
    except OSError:
        return False
    recorded = (record.source_size, record.source_mtime_ns)
    return copy_size == record.size and recorded == (
        original.st_size,
        original.st_mtime_ns,
    )


def write_manifest(
    out: Path,
    settings: Mapping[str, int],
    jobs: Sequence[Job],
    files: Iterable[CopiedFile],
    failures: Iterable[Failure],
    orphans: Sequence[str],
) -> dict[str, Any]:
    """Write manifest.json, which takes the place of the journal -> its content."""
    copied = sorted(files)
    copy_hash = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in copied:
        copy_hash.update(f"{file.target}\0{file.sha256}\n".encode())

    failed = sorted(failures)
    types = Counter(job.file_type for job in jobs)
    counts = {name: types[name] for name in FILE_TYPES}
    rows = {}
    for file in copied:
        row = file._asdict()
        del row["source"], row["failure"]
        rows[file.source] = row
    content = {
        "hash": copy_hash.hexdigest(),
        "settings": dict(settings),
        "failures": [failure._asdict() for failure in failed],
        "orphans": list(orphans),
        "counts": {**counts, "failed": len(failed)},
        "bytes": sum(file.size for file in copied),
        "files": rows,
    }
    write_json(out / MANIFEST, content)
    (out / JOURNAL).unlink(missing_ok=True)
    return content


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/prepare_data.py --help")
