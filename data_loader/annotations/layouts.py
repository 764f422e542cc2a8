"""Which of its known layouts a data set is in, and readers for the formats of annotation files.

All text may have a byte order mark, CRLF line ends, and no final newline.
"""

import contextlib
import csv
import json
import logging
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_loader.annotations.split_folders import subfolder_names
from data_loader.file_kind import describe_absent_folder
from parse_config import UserError

log = logging.getLogger(__name__)
CHUNK = 1 << 18  # rows
# options of pandas: no column is parsed as a number or as missing
AS_TEXT: dict[str, Any] = {
    "dtype": object,
    "keep_default_na": False,
    "encoding": "utf-8-sig",
    "encoding_errors": "replace",
}


def search_folders(folders: Iterable[str | os.PathLike]) -> list[Path]:
    """Each of `folders`, followed by the folders directly below it, without hidden ones and those of other programs.

    FileNotFoundError, saying what is there instead, if one of `folders` is no folder.
    """
    searched: list[Path] = []
    for folder in dict.fromkeys(os.fspath(folder) for folder in folders):
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"{folder or repr(folder)}: {describe_absent_folder(folder)}; data_dir and metadata_dir say where the "
                "data set lies"
            )
        root = Path(folder)
        searched += [root, *(root / name for name in subfolder_names(root))]
    return searched


def find_layout(
    dataset: str,
    folders: Iterable[str | os.PathLike],
    layouts: Mapping[str, Sequence[str]],
) -> tuple[str, list[Path]]:
    """That of `layouts` (its name -> its files) of which all files exist -> (name, paths of the files).

    Each file is looked for in `search_folders(folders)`. What lies in the first of `folders` comes before the second,
    and in a folder itself before the folders below it, which may hold older copies; among equals the first layout.
    Raises FileNotFoundError that lists what was looked for.
    dataset: data set and split, for the message.
    """
    roots = list(dict.fromkeys(os.fspath(folder) for folder in folders))
    searched = search_folders(roots)
    distances = _distances(roots, searched)
    complete: list[tuple[int, str, list[Path]]] = []
    for name, files in layouts.items():
        found = [
            home for file in files if (home := _first_with(searched, file)) is not None
        ]
        if files and len(found) == len(files):
            distance = max(distances[home] for home in found)
            complete.append((distance, name, found))

    if complete:
        nearest = min(distance for distance, _, _ in complete)
        _, name, homes = next(layout for layout in complete if layout[0] == nearest)
        paths = []
        for home, file in zip(homes, layouts[name]):
            paths.append(home / file)
            _warn_of_copies(home, file, distances)
        return name, paths

    descriptions = [
        name if list(files) == [name] else f"{name}: {', '.join(files)}"
        for name, files in layouts.items()
    ]
    looked_for = "; ".join(descriptions) or "nothing, no layout has that split"
    raise FileNotFoundError(
        f"{' and '.join(roots)}: no annotations of {dataset} here nor in a "
        f"folder below; looked for {looked_for}"
    )


def _distances(roots: Sequence[str], searched: Sequence[Path]) -> dict[Path, int]:
    """How late each of the searched folders comes: the first root, the folders below it, the second root, ..."""
    distances: dict[Path, int] = {}
    for number, root in enumerate(roots):
        for folder in searched:
            if folder == Path(root):
                distances.setdefault(folder, 2 * number)
            elif folder.parent == Path(root):
                distances.setdefault(folder, 2 * number + 1)
    return distances


def _first_with(folders: Sequence[Path], file: str) -> Path | None:
    """The first of `folders` that has `file`."""
    return next((folder for folder in folders if (folder / file).is_file()), None)


def _warn_of_copies(home: Path, file: str, distances: Mapping[Path, int]) -> None:
    """Log that `file`, which was found in `home`, is in another folder that is as near."""
    for folder, distance in distances.items():
        is_as_near = distance == distances[home] and folder != home
        if is_as_near and (folder / file).is_file():
            log.warning(
                "%s is read, and not %s; metadata_dir can say which",
                home / file,
                folder / file,
            )
            return


def read_text(path: Path) -> str:
    """UTF-8 text without its byte order mark; UserError naming the file if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank, without surrounding white space."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_json(path: Path) -> Any:
    """Parsed JSON; UserError naming file, line and column if it is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}; fetch the file again"
        ) from None


class _PlainDataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, and only plain data is read"
        )


def read_pickle(path: Path) -> Any:
    """A pickle of plain data; UserError if it names any class or function, or is not a pickle."""
    try:
        with open(path, "rb") as file:
            return _PlainDataUnpickler(file, encoding="utf-8", errors="replace").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:
        raise UserError(
            f"{path}: is no pickle of plain data ({error}); fetch the file again"
        ) from None


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Chunks of the named columns of a comma-separated file with a header, all as text ("NA" too), "" where empty.

    Raises UserError that lists the file's columns if one of `columns` is absent.
    """
    with _report_parser_errors(path):
        header = pd.read_csv(path, nrows=0, **AS_TEXT).columns.tolist()
        absent = [column for column in columns if column not in header]
        if absent:
            raise UserError(
                f"{path}: has no column {' and no '.join(map(repr, absent))}; its columns, with commas "
                f"between them, are {', '.join(map(repr, header))}"
            )
        with pd.read_csv(
            path, usecols=list(columns), chunksize=CHUNK, **AS_TEXT
        ) as chunks:
            yield from chunks


def read_tsv(
    path: Path, columns: Sequence[str], quoting: int, skip: int = 0
) -> Iterator[pd.DataFrame]:
    """Chunks of the first columns of a tab-separated file without a header, named `columns`, all as text.

    quoting: csv.QUOTE_NONE where quotation marks are plain characters, else csv.QUOTE_MINIMAL. skip: rows to leave out
    at the beginning.
    """
    with (
        _report_parser_errors(path),
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
def _report_parser_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(
            f"{path}: is no such table ({' '.join(str(error).split())}); fetch the file again"
        ) from None


def count_header_rows(path: Path) -> int:
    """1 if the first line of a tab-separated file of (caption, file, ...) is a header, else 0 (files have digits)."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first_row = next(csv.reader(file, delimiter="\t"), [])
    if len(first_row) < 2:
        raise UserError(
            f"{path}: the first line has no tab; columns caption and file, with a tab between, are needed"
        )
    has_digit = any(character.isdigit() for character in first_row[1])
    return 0 if has_digit else 1


def caption_text(caption: str | Sequence[str]) -> str:
    """A caption as text, from text or from its tokens."""
    return caption if isinstance(caption, str) else " ".join(caption)


def look_up_listed(
    names: Iterable[str], captions: Mapping[str, Any], source: Path
) -> dict[str, Any]:
    """{name: its captions} in the order of `names`; UserError if `source`, which has them, lacks some."""
    listed = {name: captions.get(name) for name in names}
    absent = [name for name, captions_of_name in listed.items() if not captions_of_name]
    if absent:
        raise UserError(
            f"{source}: no captions for {len(absent)} of {len(listed)} listed videos, {absent[0]!r} first; "
            "lists and captions must come from one release"
        )
    return listed
