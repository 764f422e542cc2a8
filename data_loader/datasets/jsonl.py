"""Any data: JSON lines, a JSON list (VindLU's), CSV or TSV with a header.

One row a video or a caption: path (or video, image), caption or captions, and optionally start, end (seconds), id,
split. Rows of the same path and cut are one video.
"""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_loader.annotations.layouts import locate, read_json
from data_loader.base import Item, TextVideoDataset
from data_loader.datasets import DATASETS
from parse_config import UserError

log = logging.getLogger(__name__)
EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
COMMON = ("captions", "annotations", "metadata")  # files that hold all splits
PATHS, CAPTIONS = ("path", "video", "image"), ("caption", "captions")


@DATASETS.register("JsonlDataset")
class JsonlDataset(TextVideoDataset):
    """Looks for {cut}, {cut}_{split} or, without cut, {split}, captions, annotations, metadata (.jsonl .json .csv .tsv)
    in metadata_dir and data_dir and the folders in them; metadata_dir may also be the file itself."""

    def sources(self) -> tuple[Path]:
        if Path(self.folders[0]).is_file():
            self.file = Path(self.folders[0])
        else:
            splits = SPLITS.get(self.split, (self.split,))
            stems = (
                [self.cut, *(f"{self.cut}_{split}" for split in splits)]
                if self.cut
                else [*splits, *COMMON]
            )
            names = [stem + extension for stem in stems for extension in EXTENSIONS]
            _, (self.file,) = locate("JsonlDataset", self.folders, {name: [name] for name in names})
        self.layout = f"{self.file.suffix.lstrip('.').upper()}, {self.file}"
        return (self.file,)

    def items(self) -> Iterable[Item]:
        videos: dict[tuple, tuple[str, list[str]]] = {}
        names: set[str] = set()
        for place, row in rows(self.file):
            names.add(str(row.get("split") or ""))
            if row.get("split") and row["split"] not in SPLITS.get(self.split, (self.split,)):
                continue
            path, captions = _need(row, PATHS, place), _need(row, CAPTIONS, place)
            start, end = (_seconds(row.get(key), f"{place}: {key}") for key in ("start", "end"))
            name = (
                path
                if start is end is None
                else f"{path}#{start or 0:g}-{'' if end is None else f'{end:g}'}"
            )
            known = videos.setdefault((path, start, end), (str(row.get("id") or name), []))
            known[1].extend([captions] if isinstance(captions, str) else captions)
        if not videos:
            raise UserError(
                f"{self.file}: no row of split {self.split!r}; splits in it: {', '.join(sorted(names))}"
            )
        if names == {""} and not self.file.stem.endswith(SPLITS.get(self.split, (self.split,))):
            log.warning("%s: its rows name no split, all are taken for %r", self.file, self.split)
        return (
            Item(name, path, captions, start, end)
            for (path, start, end), (name, captions) in videos.items()
        )


def rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place for an error, row) of each row of a file. Raises UserError naming the place."""
    if file.suffix in (".csv", ".tsv"):
        with open(file, encoding="utf-8-sig", newline="") as text:
            table = csv.DictReader(text, delimiter="\t" if file.suffix == ".tsv" else ",")
            yield from ((f"{file}: line {table.line_num}", row) for row in table)
    elif file.suffix == ".json":
        listed = read_json(file)
        if not isinstance(listed, list):
            raise UserError(
                f"{file}: a list of objects is needed, one a video; one object a line is called .jsonl"
            )
        yield from (
            (f"{file}: entry {i}", _object(row, f"{file}: entry {i}"))
            for i, row in enumerate(listed)
        )
    else:
        with open(file, encoding="utf-8-sig") as text:
            for number, line in enumerate(text, 1):
                if line.strip():
                    yield f"{file}: line {number}", _object(line, f"{file}: line {number}")


def _object(row: Any, place: str) -> Mapping[str, Any]:
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except json.JSONDecodeError as error:
            raise UserError(f"{place}, column {error.colno}: {error.msg}") from None
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: an object {{...}} is needed, not {row!r}")
    return row


def _need(row: Mapping[str, Any], keys: Iterable[str], place: str) -> Any:
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    right = isinstance(value, str) or (
        keys is CAPTIONS
        and isinstance(value, list)
        and all(isinstance(caption, str) for caption in value)
    )
    if not right:
        raise UserError(
            f"{place}: no {' or '.join(keys)} that is text; its columns are "
            f"{', '.join(repr(key) for key in row)}"
        )
    return value


def _seconds(value: Any, place: str) -> float | None:
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise UserError(f"{place}: {value!r} is no number of seconds") from None
