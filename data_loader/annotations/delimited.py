"""Comma- and tab-separated tables: a malformed row is an error or counted, never cut or joined to another."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.shapes import describe
from data_loader.annotations.text_files import iterate_lines
from parse_config import UserError

CHUNK = 2_000  # rows that are split at once; more do not fit into the processor's cache
QUOTE_REMEDY = 'write a quotation mark in a cell twice, and the cell between quotation marks: "a ""red"" car"'
WIDTH_REMEDY = (
    "put a cell that holds the delimiter between quotation marks, and leave no cell out"
)
Record = tuple[int, list[str]]  # number of a row's first line, its cells
UnsplitRecord = tuple[int, str | list[str]]  # the same; a row without quotes as text


class TableChunk(NamedTuple):
    """Some rows in columns.

    numbers: of each row, counted from 0 after the header; rows that are left out are counted too.
    columns: {name: cells of these rows}
    """

    numbers: Sequence[int]
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
    for line, row in _unsplit_records(path, delimiter, quoted, left_out):
        yield line, _split(row, delimiter)


def _split(row: str | list[str], delimiter: str) -> list[str]:
    """The cells of an `UnsplitRecord`'s row."""
    return row.split(delimiter) if isinstance(row, str) else row


def _unsplit_records(
    path: Path, delimiter: str, quoted: bool, left_out: LeftOut | None
) -> Iterator[UnsplitRecord]:
    """`read_records`, rows without quotation marks unsplit."""
    lines = iterate_lines(path, newline="")
    pushed_back: list[str] = []  # the first line of a record, for the reader

    def record_lines() -> Iterator[str]:
        while line := pushed_back.pop() if pushed_back else next(lines, ""):
            yield line

    reader = csv.reader(record_lines(), delimiter=delimiter, strict=True)
    plain_lines = 0
    for line in lines:
        if not quoted or '"' not in line:
            plain_lines += 1
            text = line.rstrip("\r\n")
            if text:
                yield plain_lines + reader.line_num, text
            continue

        number = plain_lines + reader.line_num + 1
        pushed_back.append(line)
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
    records = _unsplit_records(path, ",", True, left_out)
    header = next(records, None)
    if header is None:
        raise UserError(f"{path}: is no such table (it is empty); fetch the file again")
    names = _split(header[1], ",")
    absent = [column for column in columns if column not in names]
    if absent:
        raise UserError(
            f"{path}: has no column {' and no '.join(map(repr, absent))}; its columns, with commas "
            f"between them, are {', '.join(map(describe, names))}"
        )
    positions = {column: names.index(column) for column in columns}
    table = _Table(path, ",", len(names), positions, left_out)
    yield from table.chunks(records)


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
    records = _unsplit_records(path, "\t", quoted, left_out)
    first = next(records, None)
    if first is None:
        return
    if width is None:
        width = len(_split(first[1], "\t"))
    if not has_header:
        records = chain([first], records)
    positions = {column: position for position, column in enumerate(columns)}
    table = _Table(path, "\t", width, positions, left_out)
    yield from table.chunks(records)


@dataclass(frozen=True)
class _Table:
    """Which cells of a table are read: column -> its position in rows of `width` cells."""

    path: Path
    delimiter: str
    width: int
    positions: dict[str, int]
    left_out: LeftOut | None

    def chunks(self, records: Iterator[UnsplitRecord]) -> Iterator[TableChunk]:
        """The rows that have `width` cells, in chunks of at most CHUNK rows."""
        first = 0
        while True:
            cells: list[str] = []
            unsplit: list[str] = []  # rows behind `cells`: one split of many is quicker
            dropped: set[int] = set()
            end = first
            for line, row in islice(records, CHUNK):
                if isinstance(row, str):
                    width = row.count(self.delimiter) + 1
                else:
                    width = len(row)
                if width != self.width:
                    self._report_width(line, width)
                    dropped.add(end)
                elif isinstance(row, str):
                    unsplit.append(row)
                else:
                    self._split_into(cells, unsplit)
                    cells += row
                end += 1
            self._split_into(cells, unsplit)

            if end == first:
                return
            numbers: Sequence[int] = range(first, end)
            if dropped:
                numbers = [number for number in numbers if number not in dropped]
            columns = {
                name: cells[position :: self.width]
                for name, position in self.positions.items()
            }
            yield TableChunk(numbers, columns)
            first = end

    def _split_into(self, cells: list[str], unsplit: list[str]) -> None:
        """Move the rows `unsplit` to the end of `cells`."""
        if unsplit:
            cells += self.delimiter.join(unsplit).split(self.delimiter)
            unsplit.clear()

    def _report_width(self, line: int, width: int) -> None:
        """Count a row of `width` cells in `left_out`; without it, UserError."""
        if self.left_out is None:
            raise UserError(
                f"{self.path}: line {line}: has {width} cells where {self.width} are needed; {WIDTH_REMEDY}"
            )
        self.left_out.add(
            f"rows of more or fewer than {self.width} cells", where=f"line {line}"
        )


def first_row_is_header(path: Path) -> bool:
    """Whether the first line of a tab-separated file of (caption, file, ...) is a header: files have digits."""
    first = next(read_records(path, "\t", left_out=LeftOut()), None)
    if first is None or len(first[1]) < 2:
        raise UserError(
            f"{path}: the first line has no tab; columns caption and file, with a tab between, are needed"
        )
    return not any(character.isdigit() for character in first[1][1])
