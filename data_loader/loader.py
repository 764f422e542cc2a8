"""Loaders: batches of a data set, on any number of processes and workers. B clips per batch on each process."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch.utils.data import DataLoader

from data_loader import LOADERS
from data_loader.base import TextVideoDataset
from data_loader.collate import Collate, ErrorsAsSamples, SlidingWindows, identity
from data_loader.cpus import cpus_of_this_process
from data_loader.datasets import DATASETS
from data_loader.sampler import DistributedBatchSampler
from data_loader.settings import video_settings
from data_loader.workers import iterate_batches, worker_options
from parse_config import Config, ConfigError, merge

Batch = dict[str, Any]


def with_dataset_arguments(init: Any) -> Any:
    """Replace `**dataset_args` in the signature of `init` with the arguments of `TextVideoDataset`.

    The check of a config's arguments reads the signature: so it knows each of them by name, type and default.
    """
    signature = inspect.signature(init)
    parameters = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    for name, parameter in inspect.signature(TextVideoDataset).parameters.items():
        parameters.setdefault(name, parameter.replace(kind=parameter.KEYWORD_ONLY))
    init.__signature__ = signature.replace(parameters=list(parameters.values()))
    return init


def merged_arguments(
    dataset_args: Mapping[str, Any], dataset_params: Mapping[str, Any]
) -> dict[str, Any]:
    """Both together. ConfigError for an argument that they give two values."""
    for name in sorted(set(dataset_params) & set(dataset_args)):
        if dataset_params[name] != dataset_args[name]:
            raise ConfigError(
                f"data_loader.args.dataset_params.{name}: {dataset_params[name]!r} is given, and "
                f"data_loader.args.{name} is {dataset_args[name]!r}; leave one out"
            )
    return {**dataset_args, **dataset_params}


@LOADERS.register("TextVideoDataLoader")
@LOADERS.register("MultiDistTextVideoDataLoader")
class TextVideoDataLoader:
    """Batches of the data set `dataset_name` (a name of DATASETS), for process `rank` of `world_size`.

    `tokenize`, supplied by the program, makes a dict of tensors of a list of captions; it is called in the workers.
    `dataset_args` are those of every `TextVideoDataset`.

    Args:
        dataset_name: registered data set
        batch_size: clips per batch on each process
        num_workers: processes that read; 0: none; default: one per CPU of this process, 8 at most
        shuffle: order of the training split: anew each epoch (default) or as listed; val and test are always read in
            order
        dataset_params: arguments that only this data set has
    """

    @with_dataset_arguments
    def __init__(
        self,
        dataset_name: str,
        batch_size: int = 16,
        num_workers: int | None = None,
        shuffle: bool | None = None,
        dataset_params: Mapping | None = None,
        *,
        tokenize: Callable[[list[str]], Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        **dataset_args: Any,
    ) -> None:
        DATASETS.get(dataset_name, "data_loader.args.dataset_name")
        spec = {
            "type": dataset_name,
            "args": merged_arguments(dataset_args, dataset_params or {}),
        }
        self.dataset: TextVideoDataset = DATASETS.build(spec, seed=seed)

        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        if num_workers is None:
            num_workers = min(8, cpus_of_this_process())
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"data_loader.args: batch_size {batch_size} and num_workers {num_workers} are given; at "
                "least 1 and 0 are needed"
            )

        train = self.dataset.train
        shuffle = train and shuffle is not False
        self._sampler = DistributedBatchSampler(
            len(self.dataset), batch_size, rank, world_size, train, shuffle, seed
        )
        if train and not len(self._sampler):
            raise ConfigError(
                f"data_loader.args.batch_size: {self.dataset.name} has {len(self.dataset)} videos, fewer "
                f"than one batch of {world_size} x {batch_size}; lower it"
            )
        self.num_workers = num_workers
        self._worker_options = worker_options(num_workers)
        video = self.dataset.video
        clip_shape = (video.num_frames, 3, video.input_res, video.input_res)
        self._collate = Collate(tokenize, clip_shape)
        self._loader = self._make_loader(self._sampler, persistent=train)

    def _make_loader(
        self, batch_sampler: Iterable[list[tuple[int, int]]], persistent: bool
    ) -> DataLoader:
        return DataLoader(
            ErrorsAsSamples(self.dataset),
            batch_sampler=batch_sampler,
            collate_fn=self._collate,
            persistent_workers=persistent and self.num_workers > 0,
            **self._worker_options,
        )

    @staticmethod
    def clip_settings(args: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a loader with these arguments that say how a file becomes a clip. Raises ConfigError."""
        split = args.get("split", "train")
        video = video_settings(args.get("video_params"), split, args.get("reader"))
        return asdict(video)

    def __len__(self) -> int:
        """Batches per epoch on this process."""
        return len(self._sampler)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on (see `Collate`); those before are not read.

        One iterator at a time: a new one ends the one before. Raises BrokenVideo if a file cannot be read and loading
        is strict, UserError if nothing can be read or a worker died.
        """
        self._sampler.set_position(epoch, start)
        try:
            yield from iterate_batches(self._loader)
        finally:
            # most who read take as many batches as there are, and never meet the end
            self.dataset.log_held()

    def groups(self, size: int) -> Iterator[tuple[int, Batch]]:
        """(number, batch): groups of `size` consecutive samples, the last one smaller; this process's part of them.

        What a group holds depends neither on batch_size nor on the number of processes. Each process takes equally
        many: where they do not divide evenly, the first groups are taken once more, by other processes.
        """
        num_groups = math.ceil(len(self.dataset) / size)
        rounds = math.ceil(num_groups / self.world_size)
        numbers = [
            (round_number * self.world_size + self.rank) % num_groups
            for round_number in range(rounds)
        ]
        samples = range(len(self.dataset))
        batches = [
            [(index, 0) for index in samples[number * size : (number + 1) * size]]
            for number in numbers
        ]
        loader = self._make_loader(batches, persistent=False)
        yield from zip(numbers, iterate_batches(loader))

    def windows(self, stride: int) -> Iterator[Batch]:
        """This process's videos in order, {"video": float32 (W, T, C, H, W) or None if unreadable, "meta": dict}: all
        sliding windows of each, as `TextVideoDataset.windows` makes them."""
        loader = DataLoader(
            ErrorsAsSamples(SlidingWindows(self.dataset, stride)),
            batch_size=None,
            sampler=range(self.rank, len(self.dataset), self.world_size),
            collate_fn=identity,
            **self._worker_options,
        )
        yield from iterate_batches(loader)


def open_leniently(block: Config, **args: Any) -> TextVideoDataset:
    """The data set of a loader's block {"type", "args"}, opened so that no missing or broken file stops it.

    args: arguments that replace those of the block (split, check_files, ...).
    """
    lenient_args = {
        "num_workers": 0,
        "batch_size": 1,
        "video_params": {"loading": "skip", "decode_cache": "none"},
        **args,
    }
    spec = merge(block.to_dict(), {"args": lenient_args})
    return LOADERS.build(Config(spec, block.json_path), tokenize=list).dataset
