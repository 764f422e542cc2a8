"""All that a run must remember, into a checkpoint and back."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parse_config import ConfigError, to_plain
from trainer import checkpoint
from trainer.batches import RoundRobinLoader
from trainer.distributed import rank, world_size
from trainer.meter import Meter
from trainer.stages import Stage
from trainer.step import Step

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Finished epochs, steps taken of the next one, best value and epochs since, unreadable files in this epoch."""

    epoch: int = 0
    position: int = 0
    best: float | None = None
    stale: int = 0
    bad_files: int = 0


class State:
    """One stage's objective, optimizer, scaler, place in the data and running means."""

    def __init__(self, stage: Stage, feed: RoundRobinLoader, parts: Step, loaders: Sequence[str]):
        self.stage, self.feed = stage, feed
        self.parts = parts.objective, parts.optimizer, parts.precision.scaler
        self.loaders, self.progress, self.meter = list(loaders), Progress(), Meter(loaders)

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.progress.epoch * self.feed.steps + self.progress.position

    def end_epoch(self):
        """The next epoch begins."""
        self.progress.epoch, self.progress.position, self.progress.bad_files = (
            self.progress.epoch + 1,
            0,
            0,
        )
        self.meter = Meter(self.loaders)

    def save(self, also: Sequence[str] = ()):
        """checkpoint-latest.pth, and the same under other names; every process must call it."""
        tensors = checkpoint.collect(*self.parts)
        place = {
            **asdict(self.progress),
            "stage": self.stage.number,
            "world": world_size(),
            "samples": self.feed.samples,
            "accumulate": self.feed.accumulate,
            "steps_per_epoch": self.feed.steps,
            "meter": self.meter.state(),
            "loaders": [
                {"name": name, "batches": taken}
                for name, taken in zip(
                    self.loaders, self.feed.taken(self.progress.position), strict=True
                )
            ],
        }
        if rank() == 0:
            config = self.stage.config.to_dict()
            content = {
                "arch": config["arch"]["type"],
                **tensors,
                "epoch": self.progress.epoch,
                "step": self.step,
                "trainer": place,
                "monitor_best": self.progress.best,
                "config": config,
            }
            folder = self.stage.folder
            checkpoint.write(folder / checkpoint.LATEST, content, [folder / name for name in also])

    def load(self, path: Path):
        """Go on from a checkpoint; says what is not as it would have been without the interruption."""
        saved = checkpoint.read(path)
        checkpoint.restore(saved, *self.parts, path)
        place = saved["trainer"]
        self.progress = Progress(**{name: place[name] for name in asdict(self.progress)})
        if len(place["samples"]) != len(self.loaders):
            raise ConfigError(
                f"{path}: was trained with {len(place['samples'])} loaders, data_loader has "
                f"{len(self.loaders)}; start from its weights with arch.args.load_checkpoint"
            )
        self.progress.position = position(place, self.feed)
        self.meter.load(place["meter"], self.feed.device)
        log.info("going on from %s: epoch %d, step %d", path, self.progress.epoch + 1, self.step)
        found = [
            *changes(saved["config"], self.stage.config.to_dict()),
            *differences(place, self.feed),
        ]
        for change in found if rank() == 0 else ():
            log.warning("since the checkpoint: %s", change)


def position(place: Mapping[str, Any], feed: RoundRobinLoader) -> int:
    """Where to go on within the epoch: the same step if a step takes the same samples, else the last whole round that
    leaves none out (some may be seen twice)."""
    if list(place["samples"]) == feed.samples:
        return min(place["position"], feed.steps)
    rounds = place["position"] // len(feed.samples) * sum(place["samples"]) // sum(feed.samples)
    return min(rounds, feed.rounds) * len(feed.samples)


def differences(place: Mapping[str, Any], feed: RoundRobinLoader) -> list[str]:
    """What makes the rest of the run another than the unbroken one would have been."""
    found = []
    if place["world"] != world_size() or place["accumulate"] != feed.accumulate:
        found.append(
            f"{place['world']} processes x {place['accumulate']} micro-batches -> {world_size()} x "
            f"{feed.accumulate}: dropout and masks are drawn otherwise, sums are taken in another order"
        )
    if list(place["samples"]) != feed.samples:
        found.append(
            f"samples a step {list(place['samples'])} -> {feed.samples}: the data is cut into other steps, "
            "and samples of the round that was cut off may be seen twice in this epoch"
        )
    if place["steps_per_epoch"] != feed.steps:
        found.append(
            f"steps an epoch {place['steps_per_epoch']} -> {feed.steps}: schedules go by the new number"
        )
    return found


def changes(old: Any, new: Any, where: str = "") -> list[str]:
    """Settings that differ between two configs: ["optimizer.args.lr: 0.1 -> 0.2", ...]."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in changes(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    return (
        []
        if to_plain(old) == to_plain(new)
        else [f"{where}: {to_plain(old)!r} -> {to_plain(new)!r}"]
    )
