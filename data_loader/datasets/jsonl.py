"""Any data: JSON lines, a JSON list (VindLU's), CSV or TSV with a header.

One row per video or per caption: path (or video, image), caption or captions, and optionally start, end (seconds), id,
split. Rows of the same path, start and end are one video. With with_captions false a path is enough. For example, in
captions.jsonl:

    {"path": "clips/a.mp4", "captions": ["a dog", "a dog runs"], "split": "train"}
    {"path": "clips/b.mp4", "caption": "a cat", "split": "test", "start": 0.5, "end": 4}
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_loader.annotations import text_files
from data_loader.annotations.delimited import QUOTE_REMEDY, WIDTH_REMEDY, read_records
from data_loader.annotations.file_lookup import MEDIA_EXTENSIONS, find_file, stem
from data_loader.annotations.layouts import find_layout
from data_loader.annotations.left_out import LeftOut
from data_loader.annotations.rows import (
    KNOWN_KEYS,
    PATH_KEYS,
    Row,
    Segment,
    parse_row,
)
from data_loader.annotations.selection import FOOTAGE_HINT
from data_loader.annotations.shapes import MAX_KEYS, MAX_SHOWN, describe
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import UserError

log = logging.getLogger(__name__)
EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
COMMON_STEMS = ("captions", "annotations", "metadata")  # files that hold all splits


@dataclass(slots=True)
class _Video:
    """A segment with what its rows say. location: of its first row; id, id_location: of the row that names it."""

    segment: Segment
    location: str
    id: str | None = None
    id_location: str = ""
    captions: list[str] = field(default_factory=list)


@DATASETS.register("JsonlDataset")
class JsonlDataset(TextVideoDataset):
    """Looks for {cut}, {cut}_{split} or, without cut, {split}, captions, annotations, metadata (.jsonl .json .csv .tsv)
    in metadata_dir and data_dir and the folders in them; metadata_dir may also be the file itself."""

    def annotations(self) -> Annotations:
        split_names = SPLIT_NAMES.get(self.split, (self.split,))
        path = self._find_file(split_names)
        left_out = LeftOut()
        return Annotations(
            items=self._items(path, split_names, left_out),
            layout=f"{path.suffix.lstrip('.').upper()}, {path}",
            sources=[path],
            left_out=left_out,
        )

    def _find_file(self, split_names: Sequence[str]) -> Path:
        """The first file of the names that the class lists; FileNotFoundError if there is none."""
        has_metadata_dir = len(self.annotation_folders) > 1
        if has_metadata_dir and Path(self.annotation_folders[0]).is_file():
            return Path(self.annotation_folders[0])

        stems = [*split_names, *COMMON_STEMS]
        if self.cut:
            stems = [self.cut, *(f"{self.cut}_{split}" for split in split_names)]
        files = [stem + extension for stem in stems for extension in EXTENSIONS]

        _, (path,) = find_layout(
            "JsonlDataset", self.annotation_folders, {file: [file] for file in files}
        )
        return path

    def _items(
        self, path: Path, split_names: Sequence[str], left_out: LeftOut
    ) -> Iterator[Item]:
        """The rows of the split, grouped by segment. Raises UserError if there is none."""
        videos: dict[tuple[str, float, float | None], _Video] = {}
        files = _Files(self.data_dir)
        splits_in_file: set[str] = set()
        first_without_split = ""
        for location, values in read_rows(path, left_out):
            row = parse_row(values, location)
            split = row.split()
            splits_in_file.add(split or "")
            if split is None:
                first_without_split = first_without_split or location
            elif split not in split_names:
                left_out.add(f"rows of split {describe(split)}")
                continue
            self._add_row(row, videos, files)

        if not videos:
            splits = _list_splits(splits_in_file) or "it has no rows"
            raise UserError(
                f"{path}: no row of split {self.split!r}; splits in it: {splits}"
            )
        if first_without_split and not path.stem.lower().endswith(tuple(split_names)):
            self._report_no_split(path, splits_in_file, first_without_split)
        yield from _to_items(videos.values())

    def _add_row(
        self,
        row: Row,
        videos: dict[tuple[str, float, float | None], _Video],
        files: "_Files",
    ) -> None:
        """Add the row to its video among `videos`, by file, start and end."""
        segment = row.segment(self.data_dir)
        key = (files.key(segment.path), segment.start or 0.0, segment.end)
        video = videos.setdefault(key, _Video(segment, row.location))
        if self.with_captions:
            video.captions += row.captions(FOOTAGE_HINT if self.train else "")

        row_id = row.id()
        if row_id is None or row_id == video.id:
            return
        if video.id is not None:
            raise UserError(
                f"{row.location}: id {describe(row_id)} is given to the video that {video.id_location} calls "
                f"{describe(video.id)}; give both rows one id"
            )
        video.id = row_id
        video.id_location = row.location

    def _report_no_split(
        self, path: Path, splits_in_file: set[str], location: str
    ) -> None:
        """A warning where no row names a split; UserError where some do, since the others would be in all splits."""
        if splits_in_file == {""}:
            log.warning(
                "%s: its rows name no split, all are taken for %r", path, self.split
            )
            return
        named = _list_splits(splits_in_file - {""})
        raise UserError(
            f"{location}: names no split, and other rows do ({named}); give each row one"
        )


def _list_splits(names: set[str]) -> str:
    """Some of the names, each on one line."""
    first_names = sorted(names)[:MAX_KEYS]
    short_names = [" ".join(name.split())[:MAX_SHOWN] for name in first_names]
    if len(names) > MAX_KEYS:
        short_names.append("...")
    return ", ".join(short_names)


class _Files:
    """Tells whether two paths are of one file: `a`, `./a.mp4` and `/data/a.mp4` may be.

    root: the folder that paths are under.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)
        self._first_paths: dict[str, str] = {}  # of each stem
        self._other_paths: dict[str, list[str]] = {}

    def key(self, path: str) -> str:
        """The same text for all paths of one file. The disk is read only if stems agree and paths do not."""
        path = path.removeprefix(f"{self._root}/")
        name = stem(path)
        first = self._first_paths.setdefault(name, path)
        if first == path:
            return path

        other_paths = self._other_paths.setdefault(name, [])
        if path in other_paths:
            return path
        file = find_file(self._root, path)
        for known_path in (first, *other_paths):
            if file is not None and find_file(self._root, known_path) == file:
                return known_path
        other_paths.append(path)
        return path


def _to_items(videos: Iterable[_Video]) -> Iterator[Item]:
    """UserError if two videos have one id."""
    locations: dict[str, str] = {}
    for video in videos:
        segment = video.segment
        video_id = video.id or segment.name
        location = video.id_location or video.location
        if video_id in locations:
            raise UserError(
                f"{location}: id {describe(video_id)} is that of another video too, in {locations[video_id]}; give "
                "each its own"
            )
        locations[video_id] = location
        yield Item(video_id, segment.path, video.captions, segment.start, segment.end)


def read_rows(
    path: Path, left_out: LeftOut | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a .jsonl, .json, .csv or .tsv file, each with its location for messages.

    left_out: counts rows of a table that are all empty. Raises UserError that names the location of what is no row.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return _table_rows(path, DELIMITERS[suffix], left_out or LeftOut())
    return text_files.read_rows(path)


def _table_rows(
    path: Path, delimiter: str, left_out: LeftOut
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table with a header."""
    records = read_records(path, delimiter)
    header_line, header = next(records, (1, []))
    names = [name.strip().lower() for name in header]
    has_path = any(key in names for key in PATH_KEYS)
    for name in KNOWN_KEYS:
        if names.count(name) > 1:
            raise UserError(
                f"{path}: line {header_line}: two columns are called {name!r}; keep one of them"
            )

    for line, cells in records:
        location = f"{path}: line {line}"
        if not any(cell.strip() for cell in cells):
            left_out.add("empty rows", where=f"line {line}")
            continue
        # without it the delimiter is another one, or the header absent, which the reader of the row says
        if has_path:
            _require_width(header, cells, location)
            _refuse_swallowed_rows(names, cells, delimiter, location)
        yield location, dict(zip(header, cells))


def _require_width(header: list[str], cells: list[str], location: str) -> None:
    """UserError for a row of more or fewer cells than the header."""
    counts = f"{len(cells)} cells in the row, {len(header)} columns in the header"
    if len(cells) < len(header):
        absent = " and no ".join(header[len(cells) :])
        raise UserError(f"{location}: no {absent}: {counts}; {WIDTH_REMEDY}")
    if len(cells) > len(header):
        raise UserError(f"{location}: too many cells: {counts}; {WIDTH_REMEDY}")


def _refuse_swallowed_rows(
    names: list[str], cells: list[str], delimiter: str, location: str
) -> None:
    """UserError for a cell that holds a whole row: its quotation mark is closed by that of another row."""
    path_positions = [names.index(key) for key in PATH_KEYS if key in names]
    for text in cells:
        # the first line belongs to this row
        for line in text.splitlines()[1:]:
            pieces = line.split(delimiter)
            paths = [pieces[at].strip() for at in path_positions if at < len(pieces)]
            if len(pieces) > 1 and any(
                path.lower().endswith(MEDIA_EXTENSIONS) for path in paths
            ):
                raise UserError(
                    f"{location}: a quotation mark that is closed further down swallows the row {describe(line)}; "
                    f"{QUOTE_REMEDY}"
                )
