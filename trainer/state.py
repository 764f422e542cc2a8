"""All that a run must remember, into a checkpoint and back."""

import logging
import time
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
from trainer.step import OptimizerStep

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a stage is trained; saved in its checkpoints under these names.

    Attributes:
        epoch: finished epochs
        position: steps taken in the epoch after these
        best: best monitored value so far, None before the first
        stale: epochs since then
        bad_files: unreadable files in this epoch
        step: optimizer steps taken; counted on where the steps of an epoch change
        samples_seen: samples that these steps were taken on, of all processes
    """

    epoch: int = 0
    position: int = 0
    best: float | None = None
    stale: int = 0
    bad_files: int = 0
    step: int = 0
    samples_seen: int = 0


class State:
    """One stage's objective, optimizer, scaler, position in the data and running means.

    Args:
        batches: the training loaders
        optimizer_step: holds objective, optimizer and scaler
        loader_names: a name for each loader
    """

    def __init__(
        self,
        stage: Stage,
        batches: RoundRobinLoader,
        optimizer_step: OptimizerStep,
        loader_names: Sequence[str],
    ) -> None:
        self.stage = stage
        self.batches = batches
        self.objective = optimizer_step.objective
        self.optimizer = optimizer_step.optimizer
        self.scaler = optimizer_step.precision.scaler
        self.loader_names = list(loader_names)
        self.progress = Progress()
        self.meter = Meter(loader_names)

    @property
    def step(self) -> int:
        """Optimizer steps taken. Logs and checkpoints are numbered by it."""
        return self.progress.step

    @property
    def schedule_step(self) -> int:
        """Steps to here of a run that had always had as many steps an epoch. Schedules go by it, and so by the share
        of the run that is done."""
        return (
            self.progress.epoch * self.batches.steps_per_epoch + self.progress.position
        )

    def count_step(self, loader: int) -> None:
        """Count a step on samples of a loader."""
        self.progress.position += 1
        self.progress.step += 1
        self.progress.samples_seen += self.batches.samples_per_step[loader]

    def end_epoch(self) -> None:
        """Count the epoch as finished and start the next one's counters and means."""
        self.progress.epoch += 1
        self.progress.position = 0
        self.progress.bad_files = 0
        self.meter = Meter(self.loader_names)

    def save(self, also: Sequence[str] = ()) -> None:
        """Write checkpoint-latest.pth, and the same under the file names in `also`; every process must call it."""
        tensors = checkpoint.collect(self.objective, self.optimizer, self.scaler)
        batches_taken = self.batches.batches_taken(self.progress.position)
        trainer_state = {
            **asdict(self.progress),
            "stage": self.stage.number,
            "world": world_size(),
            "samples": self.batches.samples_per_step,
            "accumulate": self.batches.accumulate,
            "steps_per_epoch": self.batches.steps_per_epoch,
            "meter": self.meter.state(),
            "loaders": [
                {"name": name, "batches": count}
                for name, count in zip(self.loader_names, batches_taken, strict=True)
            ],
        }
        if rank() != 0:
            return
        config = self.stage.config.to_dict()
        content = {
            "arch": config["arch"]["type"],
            **tensors,
            "epoch": self.progress.epoch,
            "step": self.step,
            "trainer": trainer_state,
            "monitor_best": self.progress.best,
            "config": config,
            "text_files": self._text_files(),
            "saved_at": time.time(),
            "folder": str(self.stage.folder),
        }
        folder = self.stage.folder
        checkpoint.write(
            folder / checkpoint.LATEST, content, [folder / name for name in also]
        )

    def _text_files(self) -> dict[str, Any]:
        """The text model's files, of a model that has some."""
        text_files = getattr(self.objective.model, "text_files", dict)
        return text_files()

    def load(self, path: Path) -> None:
        """Resume from a checkpoint; logs what will differ from a run without the interruption."""
        saved = checkpoint.read(path)
        checkpoint.restore(saved, self.objective, self.optimizer, self.scaler, path)
        trainer_state = saved["trainer"]
        counts = {
            "step": saved["step"],
            "samples_seen": samples_taken(trainer_state),
            **trainer_state,
        }
        self.progress = Progress(**{name: counts[name] for name in asdict(Progress())})
        if path.resolve().parent != self.stage.folder.resolve():
            # the best checkpoint so far lies in the other folder; this one gets its own
            self.progress.best = None
            self.progress.stale = 0
        num_loaders = len(trainer_state["samples"])
        if num_loaders != len(self.loader_names):
            raise ConfigError(
                f"{path}: was trained with {num_loaders} loaders, data_loader has "
                f"{len(self.loader_names)}; start from its weights with arch.args.load_checkpoint"
            )
        self.progress.position = resume_position(trainer_state, self.batches)
        self.meter.load(trainer_state["meter"], self.batches.device)
        log.info(
            "going on from %s: epoch %d, step %d",
            path,
            self.progress.epoch + 1,
            self.step,
        )
        if rank() == 0:
            changes = config_changes(saved["config"], self.stage.config.to_dict())
            changes += batch_changes(trainer_state, self.batches)
            for change in changes:
                log.warning("since the checkpoint: %s", change)


def samples_taken(trainer_state: Mapping[str, Any]) -> int:
    """Samples of a checkpoint that does not count them, as if its steps an epoch had never changed."""
    steps = trainer_state["epoch"] * trainer_state["steps_per_epoch"]
    steps += trainer_state["position"]
    samples = trainer_state["samples"]
    rounds, rest = divmod(steps, len(samples))
    return rounds * sum(samples) + sum(samples[:rest])


def resume_position(trainer_state: Mapping[str, Any], batches: RoundRobinLoader) -> int:
    """The position within the epoch to resume from.

    It is the saved one if a step takes the same samples, else the last whole round that leaves no sample out (some may
    be seen twice).
    """
    position = trainer_state["position"]
    saved_samples = list(trainer_state["samples"])
    if saved_samples == batches.samples_per_step:
        return min(position, batches.steps_per_epoch)
    num_loaders = len(batches.samples_per_step)
    rounds = (
        position // num_loaders * sum(saved_samples) // sum(batches.samples_per_step)
    )
    return min(rounds, batches.rounds) * num_loaders


def batch_changes(
    trainer_state: Mapping[str, Any], batches: RoundRobinLoader
) -> list[str]:
    """What makes the rest of the run differ from one that was not interrupted, apart from the config."""
    changes = []
    saved_world_size = trainer_state["world"]
    saved_accumulate = trainer_state["accumulate"]
    if saved_world_size != world_size() or saved_accumulate != batches.accumulate:
        changes.append(
            f"{saved_world_size} processes x {saved_accumulate} micro-batches -> {world_size()} x "
            f"{batches.accumulate}: dropout and masks are drawn otherwise, sums are taken in another order"
        )
    saved_samples = list(trainer_state["samples"])
    if saved_samples != batches.samples_per_step:
        changes.append(
            f"samples a step {saved_samples} -> {batches.samples_per_step}: the data is cut into other steps, "
            "and samples of the round that was cut off may be seen twice in this epoch"
        )
    saved_steps = trainer_state["steps_per_epoch"]
    if saved_steps != batches.steps_per_epoch:
        changes.append(
            f"steps an epoch {saved_steps} -> {batches.steps_per_epoch}: steps are counted on, schedules go by "
            "the share of the run that is done"
        )
    return changes


def config_changes(old: Any, new: Any, key_path: str = "") -> list[str]:
    """Settings that differ between two configs: ["optimizer.args.lr: 0.1 -> 0.2", ...]."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changes = []
        for key in sorted({*old, *new}):
            child_path = f"{key_path}.{key}" if key_path else key
            changes += config_changes(old.get(key), new.get(key), child_path)
        return changes
    if to_plain(old) == to_plain(new):
        return []
    return [f"{key_path}: {to_plain(old)!r} -> {to_plain(new)!r}"]
