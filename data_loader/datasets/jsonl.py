"""Any data: JSON lines, a JSON list (VindLU's), CSV or TSV with a header.

One row per video or per caption: path (or video, image), caption or captions, and optionally start, end (seconds), id,
split. Rows of the same path, start and end are one video. With with_captions false a path is enough. For example, in
captions.jsonl:

    {"path": "clips/a.mp4", "captions": ["a dog", "a dog runs"], "split": "train"}
    {"path": "clips/b.mp4", "caption": "a cat", "split": "test", "start": 0.5, "end": 4}
"""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_loader.annotations.layouts import find_layout, read_json
from data_loader.annotations.selection import FOOTAGE_HINT
from data_loader.base import Annotations, Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import UserError

log = logging.getLogger(__name__)
EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
COMMON_STEMS = ("captions", "annotations", "metadata")  # files that hold all splits
PATH_KEYS = ("path", "video", "image")
CAPTION_KEYS = ("caption", "captions")


class Segment(NamedTuple):
    """A video, or the seconds from start to end of it."""

    path: str
    start: float | None
    end: float | None

    @property
    def name(self) -> str:
        """Id of a row that has none of its own."""
        if self.start is None and self.end is None:
            return self.path

        end = "" if self.end is None else f"{self.end:g}"
        return f"{self.path}#{self.start or 0:g}-{end}"


@DATASETS.register("JsonlDataset")
class JsonlDataset(TextVideoDataset):
    """Looks for {cut}, {cut}_{split} or, without cut, {split}, captions, annotations, metadata (.jsonl .json .csv .tsv)
    in metadata_dir and data_dir and the folders in them; metadata_dir may also be the file itself."""

    def annotations(self) -> Annotations:
        split_names = SPLIT_NAMES.get(self.split, (self.split,))
        path = self._find_file(split_names)
        return Annotations(
            items=self._items(path, split_names),
            layout=f"{path.suffix.lstrip('.').upper()}, {path}",
            sources=[path],
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

    def _items(self, path: Path, split_names: Sequence[str]) -> Iterator[Item]:
        """The rows of the split, grouped by segment. Raises UserError if there is none."""
        ids: dict[Segment, str] = {}
        captions: dict[Segment, list[str]] = {}
        splits_in_file: set[str] = set()

        for location, row in read_rows(path):
            splits_in_file.add(str(row.get("split") or ""))
            if row.get("split") and row["split"] not in split_names:
                continue

            video_path = _required_path(row, location)
            row_captions: list[str] = []
            if self.with_captions:
                row_captions = self._required_captions(row, location)
            start = _seconds(row.get("start"), f"{location}: start")
            end = _seconds(row.get("end"), f"{location}: end")
            segment = Segment(video_path, start, end)

            ids.setdefault(segment, str(row.get("id") or segment.name))
            captions.setdefault(segment, []).extend(row_captions)

        if not captions:
            raise UserError(
                f"{path}: no row of split {self.split!r}; splits in it: {', '.join(sorted(splits_in_file))}"
            )
        if splits_in_file == {""} and not path.stem.endswith(tuple(split_names)):
            log.warning(
                "%s: its rows name no split, all are taken for %r", path, self.split
            )

        for segment, segment_captions in captions.items():
            yield Item(
                ids[segment], segment.path, segment_captions, segment.start, segment.end
            )

    def _required_captions(self, row: Mapping[str, Any], location: str) -> list[str]:
        """The value of the first of CAPTION_KEYS as a list; UserError if it is neither text nor a list of texts."""
        captions = _first_value(row, CAPTION_KEYS)
        if isinstance(captions, str):
            return [captions]

        if not isinstance(captions, list) or not all(
            isinstance(text, str) for text in captions
        ):
            hint = FOOTAGE_HINT if self.train and captions is None else ""
            raise _missing_text(row, CAPTION_KEYS, location, hint)
        return captions


def read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a .jsonl, .json, .csv or .tsv file, each with its location for error messages.

    Raises UserError that names the location of a row that is not an object.
    """
    if path.suffix in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter=delimiter)
            for row in table:
                yield f"{path}: line {table.line_num}", row

    elif path.suffix == ".json":
        entries = read_json(path)
        if not isinstance(entries, list):
            raise UserError(
                f"{path}: a list of objects is needed, one a video; one object a line is called .jsonl"
            )
        for number, entry in enumerate(entries):
            location = f"{path}: entry {number}"
            yield location, _object(entry, location)

    else:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    location = f"{path}: line {number}"
                    yield location, _object(line, location)


def _object(row: Any, location: str) -> Mapping[str, Any]:
    """A JSON object from its text, or from what is parsed already."""
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except json.JSONDecodeError as error:
            raise UserError(f"{location}, column {error.colno}: {error.msg}") from None

    if not isinstance(row, Mapping):
        raise UserError(f"{location}: an object {{...}} is needed, not {row!r}")
    return row


def _required_path(row: Mapping[str, Any], location: str) -> str:
    """The value of the first of PATH_KEYS; UserError if it is not text."""
    path = _first_value(row, PATH_KEYS)
    if not isinstance(path, str):
        raise _missing_text(row, PATH_KEYS, location)
    return path


def _first_value(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _missing_text(
    row: Mapping[str, Any], keys: Sequence[str], location: str, hint: str = ""
) -> UserError:
    message = f"{location}: no {' or '.join(keys)} that is text; its columns are {', '.join(map(repr, row))}"
    return UserError(f"{message}; {hint}" if hint else message)


def _seconds(value: Any, location: str) -> float | None:
    """A number, or its text; None for an empty field.

    Raises UserError that names the location of anything else.
    """
    if value in (None, ""):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{location}: {value!r} is no number of seconds") from None
