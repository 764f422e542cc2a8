"""Lists the rows to extract: files of a folder, a config's data sets, their captions, lines of text.

A row is {"id", "path", "start", "end"} (seconds or None) or {"id", "text"}; a video of a config also has
{"set": number of its data set, "index"}, by which it is read.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from data_loader.annotations.file_lookup import MEDIA_EXTENSIONS
from data_loader.annotations.media_scan import scan_media
from data_loader.annotations.text_files import iterate_lines
from data_loader.base import TextVideoDataset
from data_loader.collate import identity
from data_loader.datasets.jsonl import read_rows
from data_loader.decode import process
from data_loader.decode.timestamps import duration, segments
from data_loader.file_kind import describe_path
from data_loader.loader import open_leniently
from data_loader.reader import BrokenVideo
from data_loader.readers.image_reader import is_image
from data_loader.workers import iterate_batches, worker_options
from parse_config import UserError, load_config
from scripts.retrieval.feature_growth import VideoKey, video_key
from scripts.retrieval.features import Row
from trainer.evaluator import evaluation_loaders

log = logging.getLogger(__name__)
TEXT_KEYS = (
    "text",
    "caption",
    "captions",
)  # of a row of a .jsonl, the first that it has


def open_data_sets(source: Path, split: str) -> list[TextVideoDataset]:
    """Opens a config's data sets, so that no missing file stops the run; [] for any other source.

    The training split is whole: nothing is held out of it.
    """
    if source.suffix != ".json":
        return []
    blocks = evaluation_loaders(load_config(source), split)
    changes = {"holdout": 0} if split == "train" else {}
    return [open_leniently(block, check_files=False, **changes) for block in blocks]


def list_files(source: Path) -> list[Row]:
    """Rows of all videos and pictures in and under a folder, in the order of their names, or of the one file.

    Raises FileNotFoundError; UserError if there is none.
    """
    if source.is_file():
        return [_video_row(source.name, source)]
    if not source.is_dir():
        reason = describe_path(str(source)) or "no such folder, config or file"
        raise FileNotFoundError(f"{source}: {reason}")

    scan = scan_media(source)
    for folder in scan.unreadable:
        log.warning("left out: %s", folder)
    left_out = scan.left_out()
    paths = list(scan.paths())
    if not paths:
        raise UserError(
            f"{source}: holds no video and no picture (known: {' '.join(MEDIA_EXTENSIONS)})"
            + (f"; it has {left_out}" if left_out else "")
        )
    if left_out:
        log.warning("%s: left out: %s", source, left_out)
    return [_video_row(path, source / path) for path in paths]


def list_videos(datasets: Sequence[TextVideoDataset]) -> list[Row]:
    """Rows of the videos of data sets, with the segments that their annotations give."""
    rows = []
    for number, dataset in enumerate(datasets):
        for index, (video_id, listed_path) in enumerate(
            zip(dataset.ids, dataset.paths)
        ):
            start, end = dataset.segment(index)
            path = Path(dataset.video_path(index) or listed_path)
            row = _video_row(video_id, path, start, end)
            rows.append({**row, "set": number, "index": index})
    return rows


def list_texts(source: Path, datasets: Sequence[TextVideoDataset]) -> list[Row]:
    """Rows of the texts: captions of data sets, lines of a .txt, or text or captions of a .jsonl; empty ones left out.

    Raises UserError, OSError.
    """
    if datasets:
        texts = list(_dataset_texts(datasets))
    elif source.suffix == ".txt":
        lines = enumerate(iterate_lines(source), 1)
        texts = [(str(number), line.strip()) for number, line in lines]
    elif source.suffix == ".jsonl":
        texts = list(_jsonl_texts(source))
    else:
        raise UserError(
            f"--texts: {source} is given; a .txt (a text a line), a .jsonl or a config is needed"
        )
    rows = [{"id": text_id, "text": text} for text_id, text in texts if text.strip()]
    if not rows:
        raise UserError(f"{source}: holds no text")
    return rows


def _dataset_texts(datasets: Sequence[TextVideoDataset]) -> Iterator[tuple[str, str]]:
    """Yields (id of its video, caption) of each caption."""
    for dataset in datasets:
        for caption, owner in zip(dataset.captions, dataset.owner.tolist()):
            yield dataset.ids[owner], caption


def _jsonl_texts(source: Path) -> Iterator[tuple[str, str]]:
    """Yields (id or number of its row, text) of each text. Raises UserError."""
    for number, (location, row) in enumerate(read_rows(source), 1):
        values = [row[key] for key in TEXT_KEYS if row.get(key) is not None]
        texts = values[0] if values else None
        if not isinstance(texts, list):
            texts = [texts]
        for text in texts:
            if not isinstance(text, str):
                raise UserError(
                    f"{location}: no text or caption that is text; its keys are {', '.join(map(repr, row))}"
                )
        for text in texts:
            yield str(row.get("id", number)), text


def divide_into_segments(
    rows: list[Row],
    seconds: float,
    deadline: float,
    num_workers: int,
    known: Mapping[VideoKey, list[Row]],
) -> list[Row]:
    """Rows of videos -> rows of their segments of `seconds`; a video of unknown duration gets one, with "reason".

    Each has the "whole" start and end of its video's row. deadline: seconds for reading the duration of one. known: the
    rows of videos that an earlier run has divided.
    """
    new_rows = [row for row in rows if video_key(row) not in known]
    divided = iter(_divide(new_rows, seconds, deadline, num_workers))
    segment_rows: list[Row] = []
    for row in rows:
        span = [row["start"], row["end"]]
        known_rows = known.get(video_key(row))
        if known_rows is None:
            segments = next(divided)
        else:
            segments = _distinct_segments(known_rows)
        segment_rows += [{**row, **segment, "whole": span} for segment in segments]
    return segment_rows


def _distinct_segments(segment_rows: list[Row]) -> list[Row]:
    """What tells apart the rows of a video's segments, each once: "start" and "end", or "reason"."""
    segments = {}
    for row in segment_rows:
        segment = {"start": row["start"], "end": row["end"]}
        if "reason" in row:
            segment = {"reason": row["reason"]}
        segments[tuple(segment.items())] = segment
    return list(segments.values())


def _divide(
    rows: list[Row], seconds: float, deadline: float, num_workers: int
) -> Iterator[list[Row]]:
    """Yields, of each video, what tells apart the rows of its segments."""
    if not rows:
        return
    loader = DataLoader(
        VideoSegments(rows, seconds, deadline),
        batch_size=None,
        collate_fn=identity,
        **worker_options(num_workers),
    )
    for result in iterate_batches(loader):
        if isinstance(result, str):
            yield [{"reason": result}]
        else:
            yield [{"start": start, "end": end} for start, end in result]


class VideoSegments(Dataset):
    """Number of a row -> (start, end) of each segment of its video, or why its duration is unknown."""

    def __init__(self, rows: list[Row], seconds: float, deadline: float) -> None:
        self.rows = rows
        self.seconds = seconds
        self.deadline = deadline

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(
        self, number: int
    ) -> Sequence[tuple[float | None, float | None]] | str:
        row = self.rows[number]
        try:
            path = row["path"]
            if process.call(is_image, path, path=path, deadline=self.deadline):
                return [(None, None)]
            end = duration(path, self.deadline)
        except BrokenVideo as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)
        start = row["start"] or 0.0
        if row["end"] is not None:
            end = min(row["end"], end)
        if end <= start:
            return f"has no frame after {start:g} s"
        return segments(start, end, self.seconds)


def _video_row(
    video_id: str, path: Path, start: float | None = None, end: float | None = None
) -> Row:
    return {"id": video_id, "path": os.path.abspath(path), "start": start, "end": end}


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
