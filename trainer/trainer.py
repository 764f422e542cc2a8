"""The training loop: batches, optimizer steps, logging, validation and checkpoints, from any saved position."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import nn

from trainer import checkpoint, health, images
from trainer.batches import Batch, RoundRobinLoader
from trainer.distributed import gather_objects, rank, reduce_max, world_size
from trainer.evaluator import evaluation_settings
from trainer.log import RunLog
from trainer.monitor import Monitor
from trainer.optim import require_warmup_within
from trainer.progress import ProgressReport
from trainer.settings import trainer_settings
from trainer.signals import NOTHING_TO_SAVE, StopSignal, exit_status, signal_name
from trainer.stages import Stage, describe_end, is_finished
from trainer.state import State
from trainer.step import OptimizerStep
from trainer.summary import loader_names, summary
from trainer.validation import Values, validate
from trainer.versions import remove_start, write_run_description

log = logging.getLogger(__name__)

StepBatches = tuple[
    int, list[Batch]
]  # number of the loader, micro-batches of one optimizer step


class Trainer:
    """Trains an objective on several loaders in turn and saves the run in the stage's folder.

    Constructed, it is in the state in which the checkpoint `stage.resume` was saved, if there is one. Raises UserError
    for a checkpoint that does not fit.

    Args:
        objective: the objective to train, not wrapped
        loaders: the training loaders
        stage: its config says how to train, its folder is where the run is saved
        device: this process's device
        valid_loader: clips and captions to validate on after every epoch
    """

    def __init__(
        self,
        objective: nn.Module,
        loaders: Sequence[Any],
        stage: Stage,
        device: torch.device,
        valid_loader: Any = None,
    ) -> None:
        self.stage = stage
        self.valid_loader = valid_loader
        self.settings = trainer_settings(stage.config)
        self.monitor = Monitor(self.settings.monitor, valid_loader is not None)
        self.monitor.require_for(self.settings.early_stop)
        self.batches = RoundRobinLoader(
            loaders,
            device,
            self.settings.accumulate,
            self.settings.max_samples(world_size()),
        )
        self.steps = self.settings.epochs * self.batches.steps_per_epoch
        self.optimizer_step = OptimizerStep(
            objective, stage.config, device, stage.number
        )
        require_warmup_within(
            self.optimizer_step.schedule, self.steps, self.batches.steps_per_epoch
        )
        self.state = State(
            stage, self.batches, self.optimizer_step, loader_names(loaders)
        )
        self.stop_signal = StopSignal()
        if stage.resume:
            self.state.load(stage.resume)
        self.run_log = RunLog(
            stage.folder, self.state.step, stage.config, self.settings.wandb
        )
        self.report = ProgressReport(
            self.run_log, self.state, self.steps, self.settings.log_every
        )

    def run(self) -> Values:
        """Train until the last epoch or an early stop and return the last epoch's values.

        A signal ends it with SystemExit (`trainer.signals.exit_status`) after a checkpoint; before the first step it
        leaves nothing behind. Raises NonFiniteLoss before the update it would spoil.
        """
        if self._is_finished():
            path = self.stage.folder / checkpoint.LATEST
            log.info("%s", describe_end(path, self.settings, self.state.progress.epoch))
            return {}
        with self.stop_signal:
            try:
                self._log_start()
                with self.run_log:
                    return self._train()
            except SystemExit:
                if rank() == 0 and self.state.step == 0:
                    remove_start(self.stage.folder)
                raise

    def _train(self) -> Values:
        """Train, with the log files open, and return the last epoch's values."""
        values: Values = {}
        self.run_log.line(
            "start",
            step=self.state.step,
            samples=self.state.progress.samples_seen,
            resumed=str(self.stage.resume or ""),
        )
        if (
            self.settings.init_val
            and self.valid_loader is not None
            and self.state.step == 0
        ):
            self.report.report_initial_validation(self._validate())
        while not self._is_finished():
            self._train_epoch()
            values = self._end_epoch()
        number = reduce_max(self.stop_signal.number)
        if number:  # no further stage begins
            self._exit(number)
        return values

    def _log_start(self) -> None:
        write_run_description(self.stage.folder, self.stage.config)
        log.info("run folder: %s", self.stage.folder)
        lines = summary(
            self.optimizer_step.objective,
            self.optimizer_step.optimizer,
            self.batches,
            self.settings,
            self.valid_loader,
        )
        for line in lines:
            log.info(line)

    def _is_finished(self) -> bool:
        progress = self.state.progress
        return is_finished(self.settings, progress.epoch, progress.stale)

    def _train_epoch(self) -> None:
        """Train on what remains of this epoch."""
        progress = self.state.progress
        self.report.begin_epoch(self.settings.epochs)
        iterator = self.batches.epoch(progress.epoch, progress.position)
        try:
            while (step_batches := self._next_batches(iterator)) is not None:
                loader, batches = step_batches
                self._train_step(loader, batches)
        finally:
            iterator.close()
            self.report.end_epoch()

    def _next_batches(self, iterator: Iterator[StepBatches]) -> StepBatches | None:
        """The next step's batches, None at the end of the epoch.

        After a signal to any process all processes save and exit here.
        """
        step_batches = None
        try:
            with self.stop_signal.interruptible():
                step_batches = next(iterator, None)
        except (KeyboardInterrupt, RuntimeError, ValueError):
            # the signal may have ended the data workers too
            if not self.stop_signal.number:
                raise
        number = reduce_max(self.stop_signal.number)
        if number:
            if self.state.step:
                self._save()
            self._exit(number)
        return step_batches

    def _exit(self, signal_number: int) -> NoReturn:
        """Say what is saved, and exit."""
        name = signal_name(signal_number)
        if rank() == 0 and self.state.step == 0:
            log.warning(NOTHING_TO_SAVE, name)
        elif rank() == 0:
            log.warning(
                "%s: saved at step %d of %d; -r auto goes on",
                name,
                self.state.step,
                self.report.last_step,
            )
        raise SystemExit(exit_status(signal_number))

    def _train_step(self, loader: int, batches: list[Batch]) -> None:
        """Take one optimizer step on batches of a loader, report it, and save where it is due."""
        step = self.state.schedule_step
        progress = self.state.progress
        loss_guard = self.optimizer_step.loss_guard
        loader_name = self.state.loader_names[loader]
        where = (
            f"step {self.state.step + 1} (epoch {progress.epoch + 1}, {loader_name})"
        )
        lr, norm = self.optimizer_step.take(
            batches, step, self.steps, self.batches.steps_per_epoch, where
        )
        is_first = progress.position == 0
        self.state.count_step(loader)
        self.report.add_step(loader, loss_guard.names, loss_guard.values_K)
        if self.report.is_due():
            loss_guard.check_norm(where)
            self.report.report_step(
                lr=lr, grad_norm=float(norm), **self._teacher_momentum(step + 1)
            )
        if is_first:  # on every process: masks may need the sharded teacher
            self._log_masked_clips(step, batches[0])
        if self._health_is_due():
            self._measure_health(batches[0], where)
        if self.settings.save_every and self.state.step % self.settings.save_every == 0:
            self._save()

    def _health_is_due(self) -> bool:
        every = self.settings.health_every
        return every > 0 and self.state.step % every == 0

    def _measure_health(self, batch: Batch, where: str) -> None:
        """Log the health of the model; UserError where its embeddings have collapsed. Every process must call it."""
        optimizer_step = self.optimizer_step
        numbers = health.measure(
            optimizer_step.objective, batch, optimizer_step.precision
        )
        self.report.report_health(numbers)
        warning = health.check(numbers, self.settings.min_rank, where)
        if warning and rank() == 0:
            log.warning(warning)

    def _teacher_momentum(self, step: int) -> dict[str, float]:
        """{"momentum": of the objective's teacher after `step`}, nothing without a teacher."""
        teacher = getattr(self.optimizer_step.objective, "teacher", None)
        if teacher is None:
            return {}
        return {"momentum": teacher.momentum_at(step, self.steps)}

    def _log_masked_clips(self, step: int, batch: Batch) -> None:
        self.optimizer_step.seed_draws(
            step
        )  # so that the picture shows the step's own masks
        picture_CHW = images.masked_clips(self.optimizer_step.objective, batch["video"])
        self.run_log.picture(self.state.step - 1, "clips", picture_CHW)

    def _end_epoch(self) -> Values:
        """Validate, compare with the best, report and save."""
        progress = self.state.progress
        self._log_failures()
        means = self.state.meter.means()
        validation: Values = {}
        if self.valid_loader is not None:
            self._save()  # so that a failing validation does not cost the epoch
            validation = self._validate()
        values = {**means, **validation}
        lr = self.optimizer_step.optimizer.param_groups[0]["lr"]
        self.report.report_epoch(means, validation, lr)

        is_better = bool(self.monitor.name) and self.monitor.is_better(
            values, progress.best
        )
        if is_better:
            progress.best = values[self.monitor.name]
        if is_better or not self.monitor.name:
            progress.stale = 0
        else:
            progress.stale += 1
        self.state.end_epoch()

        also = []
        if progress.epoch % self.settings.save_period == 0:
            also.append(f"checkpoint-epoch{progress.epoch}.pth")
        if is_better:
            also.append(checkpoint.BEST)
        self._save(also)
        if rank() == 0:
            checkpoint.prune(self.stage.folder, self.settings.keep_last)
        if self._is_finished() and progress.epoch < self.settings.epochs:
            log.info(
                "%s has not become better for %d epochs: the end",
                self.monitor.name,
                progress.stale,
            )
        return values

    def _validate(self) -> Values:
        """A single process ends this at once at a signal, several must go through it together."""
        interruptible: AbstractContextManager[None] = nullcontext()
        if world_size() == 1:
            interruptible = self.stop_signal.interruptible()
        try:
            with interruptible:
                return validate(
                    self.optimizer_step.objective,
                    self.valid_loader,
                    self.optimizer_step.precision,
                    self.settings.seed,
                    evaluation_settings(self.stage.config),
                )
        except KeyboardInterrupt:
            if not self.stop_signal.number:
                raise
            self._exit(self.stop_signal.number)  # all steps are saved

    def _save(self, also: Sequence[str] = ()) -> None:
        """Write checkpoint-latest.pth, and the same under the file names in `also`."""
        self.optimizer_step.loss_guard.check_norm(f"step {self.state.step}")
        self._log_failures()
        self.state.save(also)

    def _log_failures(self) -> None:
        """List and count the unreadable files that any process has met since the last call."""
        failures = []
        for process_failures in gather_objects(self.batches.failures):
            failures += [(path, reason) for path, reason in process_failures]
        self.batches.failures = []
        self.run_log.bad_files(failures, self.state.progress.epoch + 1)
        self.state.progress.bad_files += len(failures)
