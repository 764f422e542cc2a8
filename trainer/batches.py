"""Batches on the device: loaders take turns, one optimizer step each; how long the device had to wait for them."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from parse_config import ConfigError
from trainer.distributed import world_size

Batches = list[dict[str, Any]]


class RoundRobinLoader:
    """`loaders` in turn. A step takes `accumulate` micro-batches of one loader; a round is one step of each.

    An epoch is as many whole rounds as the shortest loader has, and no more than `max_samples` samples of all loaders
    and processes together (but at least one round).
    """

    def __init__(
        self,
        loaders: Sequence[Any],
        device: torch.device,
        accumulate: int = 1,
        max_samples: float | None = None,
    ):
        self.loaders, self.device, self.accumulate = list(loaders), device, accumulate
        self.samples = [
            loader.batch_size * accumulate * world_size() for loader in self.loaders
        ]  # of a step
        self.rounds = min(len(loader) // accumulate for loader in self.loaders)
        if self.rounds < 1:
            short = min(range(len(self.loaders)), key=lambda i: len(self.loaders[i]))
            raise ConfigError(
                f"data_loader.{short}: {len(self.loaders[short])} batches of {world_size()} x "
                f"{self.loaders[short].batch_size} do not make one step of {accumulate}; lower batch_size"
                " or trainer.accumulate, or take more data"
            )
        if max_samples is not None:
            self.rounds = min(self.rounds, max(1, int(max_samples // sum(self.samples))))
        self.waited = 0.0
        self.failures: list[tuple[str, str]] = []
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch."""
        return self.rounds * len(self.loaders)

    def taken(self, position: int) -> list[int]:
        """How many batches of each loader the first `position` steps of an epoch take."""
        count = len(self.loaders)
        return [(position - i + count - 1) // count * self.accumulate for i in range(count)]

    def epoch(self, epoch: int, position: int = 0) -> Iterator[tuple[int, Batches]]:
        """(number of the loader, its micro-batches on the device) for each step from `position` on."""
        sources = [
            loader.epoch(epoch, start)
            for loader, start in zip(self.loaders, self.taken(position), strict=True)
        ]
        try:
            for step in range(position, self.steps):
                number = step % len(sources)
                yield number, [self._fetch(sources[number]) for _ in range(self.accumulate)]
        finally:
            for source in sources:
                getattr(source, "close", lambda: None)()

    def _fetch(self, source: Iterator[dict[str, Any]]) -> dict[str, Any]:
        began = time.perf_counter()
        batch = next(source)
        if (
            self._stream is None or torch.cuda.current_stream(self.device).query()
        ):  # a busy GPU does not wait
            self.waited += time.perf_counter() - began
        for meta in batch["meta"]:
            self.failures.extend(meta.get("failures", ()))
        return self._moved(batch)

    def _moved(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch on the device; on a GPU it is copied beside what runs there."""
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            moved = {key: move(value, self.device) for key, value in batch.items() if key != "meta"}
        if self._stream:
            main = torch.cuda.current_stream(self.device)
            main.wait_stream(self._stream)
            for tensor in tensors(moved):
                tensor.record_stream(main)
        return {**moved, "meta": batch["meta"]}


def move(value: Any, device: torch.device) -> Any:
    """Tensors in any nesting of mappings onto `device`, without waiting."""
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in any nesting of mappings."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, Tensor):
        yield value
