"""Which of its known layouts a data set lies in, and the small parsers that annotation files need.

All text may have a byte order mark, CRLF ends, and no final newline.
"""

import contextlib
import csv
import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_loader.annotations.file_lookup import find_all
from parse_config import UserError

CHUNK = 1 << 18  # rows
AS_TEXT = {
    "dtype": object,
    "keep_default_na": False,
    "encoding": "utf-8-sig",
    "encoding_errors": "replace",
}


def places(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """`folders`, then every folder directly below them. FileNotFoundError if one of `folders` is not there."""
    tops = [Path(folder) for folder in dict.fromkeys(map(os.fspath, folders))]
    absent = [top for top in tops if not top.is_dir()]
    if absent:
        raise FileNotFoundError(
            f"{absent[0]}: no such folder; data_dir and metadata_dir say where the data set lies"
        )
    below = []
    for top in tops:
        with os.scandir(top) as entries:
            below += sorted(Path(entry.path) for entry in entries if entry.is_dir())
    return tops + below


def locate(
    what: str, folders: Iterable[str | os.PathLike], layouts: Mapping[str, Sequence[str]]
) -> tuple[str, list[Path]]:
    """The first of `layouts` (its name -> the files that make it) of which all files are there -> (name, their paths).

    Each file is looked for in `places(folders)`. Raises FileNotFoundError that says what was looked for.
    """
    around = places(folders)
    for name, files in layouts.items():
        found = [
            next((place / file for place in around if (place / file).is_file()), None)
            for file in files
        ]
        if None not in found:
            return name, found
    looked = "; ".join(
        name if [*files] == [name] else f"{name}: {', '.join(files)}"
        for name, files in layouts.items()
    )
    raise FileNotFoundError(
        f"{' and '.join(dict.fromkeys(map(str, folders)))}: no annotations of {what} here nor in a "
        f"folder below; looked for {looked or 'nothing, no layout has that split'}"
    )


def media_folder(root: str | os.PathLike, folders: Sequence[str], names: Sequence[str]) -> str:
    """That of `folders` (under root) in which most of the first 200 `names` lie; the first if none lies anywhere."""

    def hits(folder: str) -> int:
        return sum(path is not None for path in find_all(os.path.join(root, folder), names[:200]))

    return max(folders, key=hits)


def read_text(path: Path) -> str:
    """UTF-8 text without its byte order mark; ValueError naming the file if it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without the blanks around them."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_json(path: Path) -> Any:
    """Parsed JSON; ValueError naming file, line and column if it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}: line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: {error.msg}; fetch the file again") from None


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only plain data is read")


def read_pickle(path: Path) -> Any:
    """A pickle of plain data; ValueError if it names any class or function, or is none."""
    try:
        with open(path, "rb") as file:
            return _Plain(file, encoding="utf-8", errors="replace").load()
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"{path}: is no pickle of plain data ({error}); fetch the file again"
        ) from None


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Chunks of the named columns of a comma-separated file with a header, all as text ("NA" too), "" where empty.

    Raises ValueError that names the columns found if one is absent.
    """
    with _in_our_words(path):
        found = pd.read_csv(path, nrows=0, **AS_TEXT).columns.tolist()
        absent = [column for column in columns if column not in found]
        if absent:
            raise UserError(
                f"{path}: has no column {' and no '.join(map(repr, absent))}; its columns, with commas "
                f"between them, are {', '.join(map(repr, found))}"
            )
        with pd.read_csv(path, usecols=list(columns), chunksize=CHUNK, **AS_TEXT) as chunks:
            yield from chunks


def read_tabs(
    path: Path, columns: Sequence[str], quoting: int, skip: int = 0
) -> Iterator[pd.DataFrame]:
    """Chunks of the first columns of a tab-separated file without a header, called `columns`, all as text; the first
    `skip` rows are left out. quoting: csv.QUOTE_NONE where quotation marks are plain characters, else QUOTE_MINIMAL."""
    with (
        _in_our_words(path),
        pd.read_csv(
            path,
            sep="\t",
            names=list(columns),
            usecols=range(len(columns)),
            header=None,
            skiprows=skip,
            quoting=quoting,
            chunksize=CHUNK,
            **AS_TEXT,
        ) as chunks,
    ):
        yield from chunks


@contextlib.contextmanager
def _in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(
            f"{path}: is no such table ({' '.join(str(error).split())}); fetch the file again"
        ) from None


def header_rows(table: Path) -> int:
    """1 if the first line of a tab-separated file of (caption, file, ...) is a header, 0 if not: files have digits."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        first = next(csv.reader(file, delimiter="\t"), [])
    if len(first) < 2:
        raise UserError(
            f"{table}: the first line has no tab; columns caption and file, with a tab between, are needed"
        )
    return int(not any(letter.isdigit() for letter in first[1]))


def words(caption: str | Sequence[str]) -> str:
    """A caption that is given as text or as its tokens, as text."""
    return caption if isinstance(caption, str) else " ".join(caption)


def captions_of(names: Iterable[str], captions: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """{name: its captions} in the order of `names`; ValueError if `source` has none for some of them."""
    chosen = {name: captions.get(name) for name in names}
    absent = [name for name, said in chosen.items() if not said]
    if absent:
        raise UserError(
            f"{source}: no captions for {len(absent)} of {len(chosen)} listed videos, {absent[0]!r} first; "
            "lists and captions must come from one release"
        )
    return chosen
