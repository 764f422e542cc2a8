"""Rows -> batches of what the model encodes. B clips, T frames, C channels, H height, W width."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from data_loader.collate import Collate
from data_loader.decode.clip_reader import ClipReader
from data_loader.decode.segments import read_segments
from data_loader.frames import pick
from data_loader.reader import BrokenVideo
from data_loader.transforms import build_transform
from data_loader.workers import iterate_batches, worker_options
from parse_config import UserError
from scripts.retrieval.features import Row

TOGETHER = 8  # segments of one video read at once: their frames are in memory at once, as large as they are


class Part(NamedTuple):
    """Some rows of one shard. numbers: of those that could be read; clips: video_BTCHW, or the texts; bad: [number,
    reason] of the others; last: whether the shard ends here."""

    shard: int
    numbers: list[int]
    clips: Any
    bad: list[tuple[int, str]]
    last: bool


class Clips(Dataset):
    """Row -> a sample for `Collate`: the clip of its file, cut by its seconds, or "video" None.

    A row of a data set that is read whole is read by that (it may lie in a tar file), at test's frames and transform.
    Segments of one video that come together are read together, where nothing is wrong with any of them.
    """

    def __init__(self, rows: list[Row], read: ClipReader, sets: list[Any], segmented: bool):
        self.rows, self.read, self.sets = rows, read, [] if segmented else sets

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        """What torch's loader asks for a batch; a UserError is returned as a sample, for `iterate_batches` to raise."""
        found: dict[int, torch.Tensor] = {}
        for _, same in groupby(numbers, lambda number: self.rows[number].get("path")):
            video = list(same)
            for start in range(0, len(video), TOGETHER):
                found |= self._together(video[start : start + TOGETHER])
        try:
            return [self._sample(number, found.get(number)) for number in numbers]
        except UserError as error:
            return [error]

    def _together(self, numbers: list[int]) -> dict[int, torch.Tensor]:
        """{number: clip} of the rows of one file, if they are segments and all of them can be read; else {}."""
        rows, video = [self.rows[number] for number in numbers], self.read.video
        if (
            self.sets
            or len(rows) == 1
            or video.reader not in ("auto", "av")
            or any(None in (row["start"], row["end"]) or "reason" in row for row in rows)
        ):
            return {}
        with suppress(BrokenVideo, OSError):  # then each by itself, to find out which of them it is
            clips = read_segments(
                rows[0]["path"],
                [(row["start"], row["end"]) for row in rows],
                video.num_frames,
                video.deadline,
            )
            return {
                number: self.read.transform(clip_TCHW, None)
                for number, clip_TCHW in zip(numbers, clips)
            }
        return {}

    def _sample(self, number: int, video: torch.Tensor | None) -> dict[str, Any]:
        row, failures = self.rows[number], []
        try:
            video = self._clip(row) if video is None else video
        except BrokenVideo as error:
            video, failures = None, [(error.path, error.reason)]
        except OSError as error:
            video, failures = None, [(row["path"], error.strerror or str(error))]
        return {"video": video, "text": "", "meta": {"index": number, "failures": failures}}

    def _clip(self, row: Row) -> torch.Tensor:
        if "reason" in row:
            raise BrokenVideo(row["path"], row["reason"])
        if not self.sets:
            return self.read.clip(row["path"], row["start"], row["end"])
        dataset = self.sets[row["set"]]
        clip_TCHW, _ = dataset.read_clip(
            row["index"], lambda length: pick(length, dataset.video.num_frames)
        )
        return build_transform(False, **dataset.video.transform_args)(clip_TCHW, None)


def plan(shards: list[int], rows: int, shard_rows: int, batch: int) -> list[list[int]]:
    """The numbers of the rows of each batch, shard after shard; no batch reaches into the next shard."""
    return [
        list(range(start, min(start + batch, end)))
        for shard in shards
        for end in [min((shard + 1) * shard_rows, rows)]
        for start in range(shard * shard_rows, end, batch)
    ]


def read_clips(
    clips: Clips, parts: list[list[int]], shard_rows: int, workers: int
) -> Iterator[Part]:
    """The clips of `parts`, in order, read by `workers` processes."""
    shape = (clips.read.video.num_frames, 3, clips.read.video.input_res, clips.read.video.input_res)
    loader = DataLoader(
        clips, batch_sampler=parts, collate_fn=Collate(None, shape), **worker_options(workers)
    )
    for place, batch in enumerate(iterate_batches(loader)):
        yield Part(
            parts[place][0] // shard_rows,
            [meta["index"] for meta in batch["meta"]],
            batch["video"],
            [(meta["index"], meta["failures"][-1][1]) for meta in batch["unreadable"]],
            _last(parts, place, shard_rows),
        )


def read_texts(rows: list[Row], parts: list[list[int]], shard_rows: int) -> Iterator[Part]:
    """The same of texts."""
    for place, numbers in enumerate(parts):
        yield Part(
            numbers[0] // shard_rows,
            numbers,
            [rows[number]["text"] for number in numbers],
            [],
            _last(parts, place, shard_rows),
        )


def _last(parts: list[list[int]], place: int, shard_rows: int) -> bool:
    return (
        place + 1 == len(parts)
        or parts[place + 1][0] // shard_rows != parts[place][0] // shard_rows
    )
