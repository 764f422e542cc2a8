"""Batches on the device from several loaders in turn; measures how long the device waited for them."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from parse_config import ConfigError
from trainer.distributed import world_size

Batch = dict[str, Any]


class RoundRobinLoader:
    """Micro-batches of one loader per optimizer step, the loaders in turn; a round is one step of each.

    An epoch is as many whole rounds as the shortest loader has.

    Args:
        loaders: the training loaders
        device: the device that batches are copied to
        accumulate: micro-batches per optimizer step
        max_samples: most samples per epoch, of all loaders and processes together (but at least one round)

    Attributes:
        rounds: rounds per epoch
        samples_per_step: for each loader, samples of all processes in one optimizer step
        waiting_seconds: how long the device waited for data so far
        failures: (path, reason) of each unreadable file that was met; the reader of this list may empty it
    """

    def __init__(
        self,
        loaders: Sequence[Any],
        device: torch.device,
        accumulate: int = 1,
        max_samples: float | None = None,
    ) -> None:
        self.loaders = list(loaders)
        self.device = device
        self.accumulate = accumulate
        self.samples_per_step = [
            loader.batch_size * accumulate * world_size() for loader in self.loaders
        ]
        steps_of_loaders = [len(loader) // accumulate for loader in self.loaders]
        self.rounds = min(steps_of_loaders)
        if self.rounds < 1:
            number = min(range(len(self.loaders)), key=steps_of_loaders.__getitem__)
            loader = self.loaders[number]
            raise ConfigError(
                f"data_loader.{number}: {len(loader)} batches of {world_size()} x "
                f"{loader.batch_size} do not make one step of {accumulate}; lower batch_size"
                " or trainer.accumulate, or take more data"
            )
        if max_samples is not None:
            most_rounds = int(max_samples // sum(self.samples_per_step))
            self.rounds = min(self.rounds, max(1, most_rounds))
        self.waiting_seconds = 0.0
        self.failures: list[tuple[str, str]] = []
        self._copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.rounds * len(self.loaders)

    def batches_taken(self, position: int) -> list[int]:
        """How many batches of each loader the first `position` steps of an epoch take."""
        count = len(self.loaders)
        return [
            (position - i + count - 1) // count * self.accumulate for i in range(count)
        ]

    def epoch(
        self, epoch: int, position: int = 0
    ) -> Generator[tuple[int, list[Batch]], None, None]:
        """Yield (number of the loader, its micro-batches on the device) for each step from `position` on."""
        iterators = [
            loader.epoch(epoch, start)
            for loader, start in zip(
                self.loaders, self.batches_taken(position), strict=True
            )
        ]
        try:
            for step in range(position, self.steps_per_epoch):
                number = step % len(iterators)
                yield (
                    number,
                    [
                        self._next_batch(iterators[number])
                        for _ in range(self.accumulate)
                    ],
                )
        finally:
            for iterator in iterators:
                if hasattr(iterator, "close"):
                    iterator.close()

    def _next_batch(self, iterator: Iterator[Batch]) -> Batch:
        started = time.perf_counter()
        batch = next(iterator)
        # a GPU that is still busy does not wait for this batch
        if self._copy_stream is None or torch.cuda.current_stream(self.device).query():
            self.waiting_seconds += time.perf_counter() - started
        for meta in batch["meta"]:
            self.failures.extend(meta.get("failures", ()))
        return self._to_device(batch)

    def _to_device(self, batch: Batch) -> Batch:
        """The batch on the device; to a GPU it is copied while the GPU computes."""
        copying = (
            torch.cuda.stream(self._copy_stream) if self._copy_stream else nullcontext()
        )
        with copying:
            moved = {
                key: move(value, self.device)
                for key, value in batch.items()
                if key != "meta"
            }
        if self._copy_stream:
            compute_stream = torch.cuda.current_stream(self.device)
            compute_stream.wait_stream(self._copy_stream)
            for tensor in iter_tensors(moved):
                tensor.record_stream(compute_stream)
        return {**moved, "meta": batch["meta"]}


def move(value: Any, device: torch.device) -> Any:
    """Copy the tensors in any nesting of mappings to `device`, without waiting for the copies."""
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return value


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in any nesting of mappings."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from iter_tensors(item)
    elif isinstance(value, Tensor):
        yield value
