"""Writing files so that a reader, or a kill at any moment, finds the old file or the new one, never a part of one."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from parse_config import naming


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` for writing; when the block ends it is synced and renamed to `path`.

    mode: "w" (UTF-8 text, "\\n" as line end) or "wb". An exception in the block leaves `path` as it was and removes the
    temporary file. Raises OSError, which names `path` where a write failed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    is_text = "b" not in mode
    encoding = "utf-8" if is_text else None
    newline = "\n" if is_text else None
    try:
        with (
            naming(path),
            open(temporary, mode, encoding=encoding, newline=newline) as file,
        ):
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # as when the disk is full
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any, indent: int | None = 2) -> None:
    """Write `content` as JSON with a newline at its end, atomically. Raises OSError, and TypeError for other data."""
    text = json.dumps(content, indent=indent) + "\n"
    with atomic_write(path) as file:
        file.write(text)


def share(path: str | Path) -> None:
    """Give a file that a library wrote for its owner alone the mode of other new files."""
    umask = os.umask(0)
    os.umask(umask)
    Path(path).chmod(0o666 & ~umask)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
