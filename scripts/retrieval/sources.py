"""What is to be extracted, row by row: files of a folder, a config's data set, its captions, lines of text.

A row is {"id", "path", "start", "end"} (seconds or None) or {"id", "text"}; those of a config also say where to read
them: {"set": number of the data set, "index"}.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from data_loader.annotations.file_lookup import MEDIA_EXTENSIONS
from data_loader.collate import identity
from data_loader.datasets.jsonl import read_rows
from data_loader.decode.timestamps import duration, segments
from data_loader.loader import open_leniently
from data_loader.reader import BrokenVideo
from data_loader.readers.image_reader import is_image
from data_loader.workers import iterate_batches, worker_options
from parse_config import UserError, load_config
from scripts.retrieval.features import Row
from trainer.evaluator import evaluation_loaders


def data_sets(source: Path, split: str) -> list[Any]:
    """The data sets of a config, opened so that nothing missing stops the run; [] for any other source."""
    if source.suffix != ".json":
        return []
    blocks = evaluation_loaders(load_config(source), split)
    return [open_leniently(block, check_files=False) for block in blocks]


def files(source: Path) -> list[Row]:
    """Every video and picture in and under a folder, in the order of their names; or the one file."""
    if source.is_file():
        return [_row(source.name, source)]
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder, config or file")
    found = []
    for folder, below, names in os.walk(source):
        below.sort()
        found += [
            Path(folder, name)
            for name in sorted(names)
            if os.path.splitext(name)[1].lower() in MEDIA_EXTENSIONS
        ]
    if not found:
        raise UserError(
            f"{source}: holds no video and no picture (known: {' '.join(MEDIA_EXTENSIONS)})"
        )
    return [_row(str(path.relative_to(source)), path) for path in found]


def clips(sets: list[Any]) -> list[Row]:
    """The videos of data sets, with their cuts."""
    found = []
    for number, dataset in enumerate(sets):
        for index, (name, listed) in enumerate(zip(dataset.ids, dataset.paths)):
            start, end = dataset.segment(index)
            path = Path(dataset.video_path(index) or listed)
            found.append({**_row(name, path, start, end), "set": number, "index": index})
    return found


def texts(source: Path, sets: list[Any]) -> list[Row]:
    """Lines of a .txt, "text" or "caption" of a .jsonl, or the captions of data sets; empty lines are left out."""
    if sets:
        pairs = [
            (dataset.ids[owner], text)
            for dataset in sets
            for text, owner in zip(dataset.captions, dataset.owner.tolist())
        ]
    elif source.suffix == ".txt":
        with open(source, encoding="utf-8-sig") as lines:
            pairs = [(str(number), line.strip()) for number, line in enumerate(lines, 1)]
    elif source.suffix == ".jsonl":
        pairs = list(_json_texts(source))
    else:
        raise UserError(
            f"--texts: {source} is given; a .txt (a text a line), a .jsonl or a config is needed"
        )
    found = [{"id": name, "text": text} for name, text in pairs if text.strip()]
    if not found:
        raise UserError(f"{source}: holds no text")
    return found


def _json_texts(source: Path) -> Iterator[tuple[str, str]]:
    for number, (place, row) in enumerate(read_rows(source), 1):
        value = next(
            (row[key] for key in ("text", "caption", "captions") if row.get(key) is not None), None
        )
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in values):
            raise UserError(
                f"{place}: no text or caption that is text; its keys are {', '.join(map(repr, row))}"
            )
        yield from ((str(row.get("id", number)), text) for text in values)


def cut(rows: list[Row], seconds: float, deadline: float, workers: int) -> list[Row]:
    """Each video's row -> one for each of its segments; what has no length becomes a row with its "reason"."""
    pieces: list[Row] = []
    loader = DataLoader(
        Lengths(rows, seconds, deadline),
        batch_size=None,
        collate_fn=identity,
        **worker_options(workers),
    )
    for row, found in zip(rows, iterate_batches(loader)):
        pieces += (
            [{**row, "reason": found}]
            if isinstance(found, str)
            else [{**row, "start": start, "end": end} for start, end in found]
        )
    return pieces


class Lengths(Dataset):
    """Row -> its segments, or why it has none."""

    def __init__(self, rows: list[Row], seconds: float, deadline: float):
        self.rows, self.seconds, self.deadline = rows, seconds, deadline

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> list[tuple[float | None, float | None]] | str:
        row = self.rows[number]
        try:
            if is_image(row["path"]):
                return [(None, None)]
            end = duration(row["path"], self.deadline)
            start, stop = row["start"] or 0.0, end if row["end"] is None else min(row["end"], end)
            return (
                segments(start, stop, self.seconds)
                if stop > start
                else f"has no frame after {start:g} s"
            )
        except BrokenVideo as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)


def _row(name: str, path: Path, start: float | None = None, end: float | None = None) -> Row:
    return {"id": name, "path": os.path.abspath(path), "start": start, "end": end}
