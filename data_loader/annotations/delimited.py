"""Tables of cells with commas or tabs between them: their rows, none of them cut or joined to another in silence."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, islice
from pathlib import Path
from typing import NamedTuple

from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.shapes import describe
from data_loader.annotations.text_files import iterate_lines
from parse_config import UserError

PIECE = 2_000  # rows that are held as lists of cells: more of them are slower
PIECES = 25  # of a chunk
QUOTE_REMEDY = 'write a quotation mark in a cell twice, and the cell between quotation marks: "a ""red"" car"'
WIDTH_REMEDY = (
    "put a cell that holds the delimiter between quotation marks, and leave no cell out"
)
Record = tuple[int, list[str]]  # number of a row's first line, its cells


class TableChunk(NamedTuple):
    """Some rows in columns. numbers: of each row, counted from 0 after the header, those left out too; read once."""

    numbers: Iterable[int]
    columns: dict[str, list[str]]


def read_records(
    path: Path,
    delimiter: str,
    quoted: bool = True,
    left_out: LeftOut | None = None,
) -> Iterator[Record]:
    """The rows that are not blank.

    quoted: cells may stand between quotation marks; false: quotation marks are plain characters.
    left_out: counts rows with a lone quotation mark; without it they raise UserError that names their line.
    """
    lines = iterate_lines(path, newline="")
    begun: list[str] = []  # the first line of a record, for the reader

    def record_lines() -> Iterator[str]:
        while line := begun.pop() if begun else next(lines, ""):
            yield line

    reader = csv.reader(record_lines(), delimiter=delimiter, strict=True)
    plain_lines = 0
    for line in lines:
        if not quoted or '"' not in line:
            plain_lines += 1
            text = line.rstrip("\r\n")
            if text:
                yield plain_lines + reader.line_num, text.split(delimiter)
            continue

        number = plain_lines + reader.line_num + 1
        begun.append(line)
        try:
            yield number, next(reader)
        except csv.Error as error:
            if left_out is None:
                raise UserError(
                    f"{path}: line {number}: has a quotation mark that does not begin and end a cell ({error}); "
                    f"{QUOTE_REMEDY}"
                ) from None
            count = plain_lines + reader.line_num + 1 - number
            left_out.add("lines of a lone quotation mark", count, f"line {number}")


def read_csv(
    path: Path, columns: Sequence[str], left_out: LeftOut | None = None
) -> Iterator[TableChunk]:
    """Chunks of the named columns of a comma-separated file with a header, all as text ("NA" too).

    left_out: counts rows that are not as wide as the header; without it they raise UserError.
    Raises UserError that lists the file's columns if one of `columns` is absent.
    """
    records = read_records(path, ",", left_out=left_out)
    header = next(records, None)
    if header is None:
        raise UserError(f"{path}: is no such table (it is empty); fetch the file again")
    _, names = header
    absent = [column for column in columns if column not in names]
    if absent:
        raise UserError(
            f"{path}: has no column {' and no '.join(map(repr, absent))}; its columns, with commas "
            f"between them, are {', '.join(map(describe, names))}"
        )
    positions = {column: names.index(column) for column in columns}
    yield from _chunks(path, records, positions, len(names), left_out)


def read_tsv(
    path: Path,
    columns: Sequence[str],
    quoted: bool,
    has_header: bool = False,
    width: int | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[TableChunk]:
    """Chunks of the first columns of a tab-separated file, called `columns`, all as text.

    quoted, left_out: see `read_records` and `read_csv`. has_header: the first row is left out. width: cells of a row;
    None: as many as the first row has.
    """
    records = read_records(path, "\t", quoted, left_out)
    first = next(records, None)
    if first is None:
        return
    if width is None:
        width = len(first[1])
    if not has_header:
        records = chain([first], records)
    positions = {column: position for position, column in enumerate(columns)}
    yield from _chunks(path, records, positions, width, left_out)


def _chunks(
    path: Path,
    records: Iterator[Record],
    positions: dict[str, int],
    width: int,
    left_out: LeftOut | None,
) -> Iterator[TableChunk]:
    """Columns at `positions` of the rows that have `width` cells."""
    number_pieces: list[Iterable[int]] = []
    columns: dict[str, list[str]] = {name: [] for name in positions}
    first_number = 0
    while piece := list(islice(records, PIECE)):
        numbers: Iterable[int] = range(first_number, first_number + len(piece))
        first_number += len(piece)
        if any(len(cells) != width for _, cells in piece):
            _report_ragged(path, piece, width, left_out)
            kept = [len(cells) == width for _, cells in piece]
            numbers = compress(numbers, kept)
            piece = list(compress(piece, kept))

        number_pieces.append(numbers)
        for name, position in positions.items():
            columns[name].extend([cells[position] for _, cells in piece])
        if len(number_pieces) == PIECES:
            yield TableChunk(chain.from_iterable(number_pieces), columns)
            number_pieces = []
            columns = {name: [] for name in positions}
    yield TableChunk(chain.from_iterable(number_pieces), columns)


def _report_ragged(
    path: Path, records: Iterable[Record], width: int, left_out: LeftOut | None
) -> None:
    """Count the rows that have not `width` cells in `left_out`; without it, UserError for the first."""
    for line, cells in records:
        if len(cells) == width:
            continue
        if left_out is None:
            raise UserError(
                f"{path}: line {line}: has {len(cells)} cells where {width} are needed; {WIDTH_REMEDY}"
            )
        left_out.add(f"rows of more or fewer than {width} cells", where=f"line {line}")


def first_row_is_header(path: Path) -> bool:
    """Whether the first line of a tab-separated file of (caption, file, ...) is a header: files have digits."""
    first = next(read_records(path, "\t", left_out=LeftOut()), None)
    if first is None or len(first[1]) < 2:
        raise UserError(
            f"{path}: the first line has no tab; columns caption and file, with a tab between, are needed"
        )
    return not any(character.isdigit() for character in first[1][1])
