"""The loop: batches -> step -> numbers -> checkpoints, from wherever it was."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from trainer import checkpoint, images
from trainer.batches import Batches, RoundRobinLoader
from trainer.distributed import gather_objects, rank, reduce_max
from trainer.evaluator import evaluation_settings
from trainer.log import RunLog
from trainer.monitor import Monitor
from trainer.progress import Report, momentum
from trainer.settings import trainer_settings
from trainer.signals import EXIT, Stop, name
from trainer.stages import Stage, finished
from trainer.state import State
from trainer.step import Step
from trainer.summary import summary, titles
from trainer.validation import Values, validate
from trainer.versions import describe

log = logging.getLogger(__name__)


class Trainer:
    """Trains `objective` on `loaders` in turn, as the stage's config says, and keeps the run in the stage's folder.

    Made, it stands where `stage.resume` was saved. Raises UserError for a checkpoint that does not fit.
    """

    def __init__(
        self,
        objective: nn.Module,
        loaders: Sequence[Any],
        stage: Stage,
        device: torch.device,
        valid_loader: Any = None,
    ):
        self.stage, self.valid_loader, self.settings = (
            stage,
            valid_loader,
            trainer_settings(stage.config),
        )
        chosen = self.settings
        self.monitor = Monitor(chosen.monitor, valid_loader is not None)
        self.feed = RoundRobinLoader(
            loaders, device, chosen.accumulate, chosen.max_samples_per_epoch
        )
        self.steps = chosen.epochs * self.feed.steps
        self.step = Step(objective, stage.config, device, stage.number)
        self.state = State(stage, self.feed, self.step, titles(loaders))
        self.stop = Stop()
        if stage.resume:
            self.state.load(stage.resume)

    def run(self) -> Values:
        """Train until the last epoch or an early stop; the last epoch's values.

        A signal ends it with SystemExit(75) after a checkpoint. Raises NonFiniteLoss before the update it would spoil.
        """
        if self._finished():
            log.info("%s: all %d epochs are done", self.stage.folder, self.state.progress.epoch)
            return {}
        describe(self.stage.folder, self.stage.config)
        log.info("run folder: %s", self.stage.folder)
        for line in summary(
            self.step.objective, self.step.optimizer, self.feed, self.settings, self.valid_loader
        ):
            log.info(line)
        values: Values = {}
        files = RunLog(self.stage.folder, self.state.step, self.stage.config, self.settings.wandb)
        with self.stop, files as self.files:
            self.files.line("start", step=self.state.step, resumed=str(self.stage.resume or ""))
            self.report = Report(self.files, self.state, self.steps, self.settings.log_every)
            if self.settings.init_val and self.valid_loader is not None and self.state.step == 0:
                self.report.validated(self._validate())
            while not self._finished():
                self._train()
                values = self._end_epoch()
        return values

    def _finished(self) -> bool:
        return finished(
            {"stale": self.state.progress.stale}, self.state.progress.epoch, self.stage.config
        )

    def _train(self):
        """What remains of this epoch."""
        self.report.begin(self.settings.epochs)
        source = self.feed.epoch(self.state.progress.epoch, self.state.progress.position)
        try:
            while (item := self._next(source)) is not None:
                self._step(*item)
        finally:
            source.close()
            self.report.end()

    def _next(self, source: Iterator[tuple[int, Batches]]) -> tuple[int, Batches] | None:
        """The next step's batches, None at the end of the epoch; after a signal to any process all save and leave."""
        item = None
        try:
            item = next(source, None)
        except (RuntimeError, ValueError):
            if not self.stop.number:  # the signal may have ended the data workers too
                raise
        self.stop.watch()
        number = reduce_max(self.stop.number)
        if number:
            self._save()
            if rank() == 0:
                log.warning(
                    "%s: saved at step %d of %d; -r auto goes on",
                    name(number),
                    self.state.step,
                    self.steps,
                )
            raise SystemExit(EXIT)
        return item

    def _step(self, loader: int, batches: Batches):
        """One optimizer step, told and kept."""
        step, watch = self.state.step, self.step.watch
        where = (
            f"step {step + 1} (epoch {self.state.progress.epoch + 1}, {self.state.loaders[loader]})"
        )
        lr, norm = self.step.take(batches, step, self.steps, self.feed.steps, where)
        first = self.state.progress.position == 0
        self.state.progress.position += 1
        self.report.add(loader, watch.names, watch.values_K)
        if self.report.due():
            watch.check_norm(where)
            self.report.numbers(
                lr=lr, grad_norm=float(norm), **momentum(self.step.objective, step + 1, self.steps)
            )
        if first and rank() == 0:
            self.step.draw(step)
            self.files.picture(
                step, "clips", images.masked_clips(self.step.objective, batches[0]["video"])
            )
        if self.settings.save_every and self.state.step % self.settings.save_every == 0:
            self._save()

    def _end_epoch(self) -> Values:
        """Validate, judge, tell, keep."""
        progress, validated = self.state.progress, {}
        self._note_failures()
        means = self.state.meter.means()
        if self.valid_loader is not None:
            self._save()  # an exam that fails costs no epoch
            validated = self._validate()
        values = {**means, **validated}
        self.report.epoch(means, validated, self.step.optimizer.param_groups[0]["lr"])
        better = bool(self.monitor.name) and self.monitor.better(values, progress.best)
        progress.stale = 0 if better or not self.monitor.name else progress.stale + 1
        if better:
            progress.best = values[self.monitor.name]
        self.state.end_epoch()
        keep = (
            [f"checkpoint-epoch{progress.epoch}.pth"]
            if progress.epoch % self.settings.save_period == 0
            else []
        )
        self._save([*keep, *([checkpoint.BEST] if better else [])])
        if rank() == 0:
            checkpoint.prune(self.stage.folder, self.settings.keep_last)
        if self._finished() and progress.epoch < self.settings.epochs:
            log.info(
                "%s has not become better for %d epochs: the end", self.monitor.name, progress.stale
            )
        return values

    def _validate(self) -> Values:
        return validate(
            self.step.objective,
            self.valid_loader,
            self.step.precision,
            self.settings.seed,
            evaluation_settings(self.stage.config),
        )

    def _save(self, also: Sequence[str] = ()):
        self.step.watch.check_norm(f"step {self.state.step}")
        self._note_failures()
        self.state.save(also)

    def _note_failures(self):
        """Unreadable files that any process met since the last time."""
        failures = [tuple(each) for part in gather_objects(self.feed.failures) for each in part]
        self.feed.failures = []
        self.files.bad_files(failures, self.state.progress.epoch + 1)
        self.state.progress.bad_files += len(failures)
