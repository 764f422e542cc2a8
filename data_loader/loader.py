"""Batches: who reads what in which order, on any number of processes and workers. B clips a batch on each process."""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from data_loader import LOADERS
from data_loader.collate import Collate, Guarded, Windows, as_it_is
from data_loader.datasets import DATASETS
from data_loader.sampler import Batches
from data_loader.workers import batches, worker_options
from parse_config import ConfigError

Batch = dict[str, Any]


@LOADERS.register("TextVideoDataLoader")
@LOADERS.register("MultiDistTextVideoDataLoader")
class TextVideoDataLoader:
    """Batches of the data set `dataset_name` (a name of DATASETS), for process `rank` of `world_size`.

    batch_size: per process. num_workers: reading processes (0: read here; default: a worker a core, 8 at most).
    shuffle: order of the training split (default: shuffled, anew each epoch); val and test are always read in order.
    dataset_params: settings that only this data set has. The others: see `TextVideoDataset`.
    tokenize: list of captions -> dict of tensors, called in the workers.
    """

    def __init__(
        self,
        dataset_name: str,
        data_dir: str,
        split: str = "train",
        batch_size: int = 16,
        num_workers: int | None = None,
        shuffle: bool | None = None,
        cut: str | None = None,
        subsample: float = 1.0,
        video_params: Mapping | None = None,
        text_params: Mapping | None = None,
        metadata_dir: str | None = None,
        reader: str | None = None,
        cache_dir: str | None = None,
        check_files: bool | None = None,
        strict_protocol: bool = False,
        dataset_params: Mapping | None = None,
        *,
        tokenize: Callable[[list[str]], Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ):
        DATASETS.get(dataset_name, "data_loader.args.dataset_name")
        common = {
            "data_dir": data_dir,
            "split": split,
            "cut": cut,
            "subsample": subsample,
            "video_params": video_params,
            "text_params": text_params,
            "metadata_dir": metadata_dir,
            "reader": reader,
            "cache_dir": cache_dir,
            "check_files": check_files,
            "strict_protocol": strict_protocol,
        }
        self.dataset = DATASETS.build(
            {"type": dataset_name, "args": {**common, **(dataset_params or {})}}, seed=seed
        )
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        workers = min(8, len(os.sched_getaffinity(0))) if num_workers is None else num_workers
        if batch_size < 1 or workers < 0:
            raise ConfigError(
                f"data_loader.args: batch_size {batch_size} and num_workers {workers} are given; at "
                "least 1 and 0 are needed"
            )
        train, video = self.dataset.train, self.dataset.video
        self._batches = Batches(
            len(self.dataset),
            batch_size,
            rank,
            world_size,
            train,
            train and shuffle is not False,
            seed,
        )
        if not len(self._batches) and train:
            raise ConfigError(
                f"data_loader.args.batch_size: {self.dataset.name} has {len(self.dataset)} videos, fewer "
                f"than one batch of {world_size} x {batch_size}; lower it"
            )
        self._options = worker_options(workers)
        collate = Collate(tokenize, (video.num_frames, 3, video.input_res, video.input_res))
        self._loader = DataLoader(
            Guarded(self.dataset),
            batch_sampler=self._batches,
            collate_fn=collate,
            persistent_workers=train and workers > 0,
            **self._options,
        )

    def __len__(self) -> int:
        """Batches an epoch on this process."""
        return len(self._batches)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on (see `Collate`); what lies before is not read.

        One iterator at a time: a new one ends the one before. Raises BrokenVideo if a file cannot be read and loading
        is strict, UserError if nothing can be read or a worker died.
        """
        self._batches.begin(epoch, start)
        yield from batches(self._loader)

    def windows(self, stride: int) -> Iterator[Batch]:
        """This process's videos in order, {"video": float32 (W, T, C, H, W) or None if unreadable, "meta": dict}: all
        sliding windows of each, as `TextVideoDataset.windows` makes them."""
        views = Guarded(Windows(self.dataset, stride))
        own = range(self.rank, len(self.dataset), self.world_size)
        yield from batches(
            DataLoader(views, batch_size=None, sampler=own, collate_fn=as_it_is, **self._options)
        )
