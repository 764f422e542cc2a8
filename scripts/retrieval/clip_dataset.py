"""Rows -> batches of clips or texts for the model. B clips, T frames, C channels, H height, W width."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_loader.base import TextVideoDataset
from data_loader.collate import Collate
from data_loader.decode.clip_reader import ClipReader
from data_loader.decode.segments import read_segments
from data_loader.frames import pick
from data_loader.reader import BrokenVideo
from data_loader.transforms import build_transform
from data_loader.workers import iterate_batches, worker_options
from parse_config import UserError
from scripts.retrieval.features import Row

MAX_SEGMENTS_PER_READ = (
    8  # the frames of all of them are in memory at once, in their full size
)


class Batch(NamedTuple):
    """Some rows of one shard.

    numbers: of the rows that could be read; inputs: their clips, video_BTCHW, or their texts; bad: (number, reason) of
    the others; ends_shard: whether this is the last batch of the shard.
    """

    shard: int
    numbers: list[int]
    inputs: Tensor | list[str]
    bad: list[tuple[int, str]]
    ends_shard: bool


class Clips(Dataset):
    """Number of a row -> a sample for `Collate`: the clip of its file between its seconds, or "video" None.

    A row of a data set is read by the data set (its file may be in a tar file), with the test split's frames and
    transform, unless videos are divided into segments. Segments of one video in the same batch are read together; if
    any of them cannot be, each by itself.
    """

    def __init__(
        self,
        rows: list[Row],
        clip_reader: ClipReader,
        datasets: Sequence[TextVideoDataset],
        segmented: bool,
    ) -> None:
        self.rows = rows
        self.clip_reader = clip_reader
        self.datasets = [] if segmented else datasets

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        """The samples of a batch, as torch's loader asks for them; [error] for a UserError, which `iterate_batches`
        raises in the main process."""
        clips: dict[int, Tensor] = {}
        for _, group in groupby(numbers, self._path):
            numbers_of_file = list(group)
            for start in range(0, len(numbers_of_file), MAX_SEGMENTS_PER_READ):
                clips |= self._read_together(
                    numbers_of_file[start : start + MAX_SEGMENTS_PER_READ]
                )
        try:
            return [self._sample(number, clips.get(number)) for number in numbers]
        except UserError as error:
            return [error]

    def _path(self, number: int) -> str | None:
        return self.rows[number].get("path")

    def _read_together(self, numbers: list[int]) -> dict[int, Tensor]:
        """{number: video_TCHW} of rows of one file, if all are segments that can be read; else {}."""
        rows = [self.rows[number] for number in numbers]
        video = self.clip_reader.video
        if self.datasets or len(rows) == 1 or video.reader not in ("auto", "av"):
            return {}
        if any(None in (row["start"], row["end"]) or "reason" in row for row in rows):
            return {}
        spans = [(row["start"], row["end"]) for row in rows]
        with suppress(
            BrokenVideo, OSError
        ):  # then each by itself, to find out which of them it is
            clips = read_segments(
                rows[0]["path"],
                spans,
                video.num_frames,
                video.deadline,
                video.limits,
            )
            return {
                number: self.clip_reader.transform(clip_TCHW, None)
                for number, clip_TCHW in zip(numbers, clips)
            }
        return {}

    def _sample(self, number: int, video_TCHW: Tensor | None) -> dict[str, Any]:
        """The sample of a row; `video_TCHW`: its clip, if it has been read already."""
        row = self.rows[number]
        failures = []
        if video_TCHW is None:
            try:
                video_TCHW = self._read_clip(row)
            except BrokenVideo as error:
                failures.append((error.path, error.reason))
            except OSError as error:
                failures.append((row["path"], error.strerror or str(error)))
        meta = {"index": number, "failures": failures}
        return {"video": video_TCHW, "text": "", "meta": meta}

    def _read_clip(self, row: Row) -> Tensor:
        """The clip of a row, video_TCHW. Raises BrokenVideo, OSError, UserError."""
        if "reason" in row:
            raise BrokenVideo(row["path"], row["reason"])
        if not self.datasets:
            return self.clip_reader.clip(row["path"], row["start"], row["end"])
        dataset = self.datasets[row["set"]]

        def choose_frames(length: int) -> list[int]:
            return pick(length, dataset.video.num_frames)

        clip_TCHW, _ = dataset.read_clip(row["index"], choose_frames)
        return build_transform(False, **dataset.video.transform_args)(clip_TCHW, None)


def plan_batches(rows_of_shards: list[list[int]], batch_size: int) -> list[list[int]]:
    """Row numbers of each batch, shard after shard; every batch lies within one shard.

    rows_of_shards: the numbers of the rows to read of each shard.
    """
    batches = []
    for numbers in rows_of_shards:
        for start in range(0, len(numbers), batch_size):
            batches.append(numbers[start : start + batch_size])
    return batches


def read_clips(
    clips: Clips, planned: list[list[int]], shard_rows: int, num_workers: int
) -> Iterator[Batch]:
    """Reads the clips of the planned batches, in order, with `num_workers` processes (0: in this one)."""
    video: Any = clips.clip_reader.video
    shape = (video.num_frames, 3, video.input_res, video.input_res)
    loader: DataLoader = DataLoader(
        clips,
        batch_sampler=planned,
        collate_fn=Collate(None, shape),
        **worker_options(num_workers),
    )
    for position, batch in enumerate(iterate_batches(loader)):
        yield Batch(
            shard=planned[position][0] // shard_rows,
            numbers=[meta["index"] for meta in batch["meta"]],
            inputs=batch["video"],
            bad=[
                (meta["index"], meta["failures"][-1][1]) for meta in batch["unreadable"]
            ],
            ends_shard=_ends_shard(planned, position, shard_rows),
        )


def read_texts(
    rows: list[Row], planned: list[list[int]], shard_rows: int
) -> Iterator[Batch]:
    """Yields the texts of the planned batches, in order."""
    for position, numbers in enumerate(planned):
        yield Batch(
            shard=numbers[0] // shard_rows,
            numbers=numbers,
            inputs=[rows[number]["text"] for number in numbers],
            bad=[],
            ends_shard=_ends_shard(planned, position, shard_rows),
        )


def _ends_shard(planned: list[list[int]], position: int, shard_rows: int) -> bool:
    """Whether the batch at `position` is the last of its shard."""
    if position + 1 == len(planned):
        return True
    shard = planned[position][0] // shard_rows
    next_shard = planned[position + 1][0] // shard_rows
    return next_shard != shard


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/extract.py --help")
