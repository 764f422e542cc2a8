"""What is shown while a run trains: the progress bar, the numbers every few steps, the line of an epoch."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from tqdm import tqdm

from trainer.distributed import gather_objects, rank
from trainer.log import RunLog
from trainer.meter import Meter
from trainer.state import State
from trainer.summary import memory_used

log = logging.getLogger(__name__)

SLOW_SHARE = (
    0.25  # of the time spent waiting for data, from which on a warning is logged
)
SLOW_SECONDS = 10  # of waiting in an epoch, below which it is not
BAR_FORMAT = "{desc} {n_fmt}/{total_fmt}|{bar}|{postfix}"
LINE_SECONDS = 30.0  # between log lines where there is no terminal for a bar
SUMMARY_VALUES = (
    "val_loss",
    "t2v.R1",
    "t2v.R5",
    "v2t.R1",
)  # of validation, in the console


class ProgressReport:
    """Measures and reports the progress of one stage.

    Args:
        run_log: the files to write to
        state: the stage's state
        steps: optimizer steps of the whole stage, each epoch having as many as those that remain
        log_every: steps between reports; nothing is read from the device in between
    """

    def __init__(
        self, run_log: RunLog, state: State, steps: int, log_every: int
    ) -> None:
        self.run_log = run_log
        self.state = state
        self.steps = steps
        self.log_every = log_every
        self.bar: Any = None
        self.epoch_seconds = 0.0
        self._line_time = time.perf_counter()
        self._start_counters()

    @property
    def last_step(self) -> int:
        """The number that the stage's last step will have."""
        return self.state.step + self.steps - self.state.schedule_step

    def _start_counters(self) -> None:
        """Of the epoch, and of the interval since the last report."""
        self.epoch_start = time.perf_counter()
        self.epoch_samples = 0
        self.epoch_steps = 0
        self._start_interval(self.epoch_start)

    def _start_interval(self, now: float) -> None:
        self.interval_start = now
        self.interval_samples = 0
        self.interval_meter = Meter(self.state.loader_names)
        self.waiting_before = self.state.batches.waiting_seconds

    def begin_epoch(self, epochs: int) -> None:
        """Start the bar and the clock, from the position in the epoch."""
        progress = self.state.progress
        self.bar = tqdm(
            total=self.state.batches.steps_per_epoch,
            initial=progress.position,
            desc=f"epoch {progress.epoch + 1}/{epochs}",
            disable=True if rank() else None,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format=BAR_FORMAT,
        )
        self.state.batches.waiting_seconds = 0.0
        self._start_counters()

    def add_step(self, loader: int, names: list[str], values_K: torch.Tensor) -> None:
        """Count a step on a batch of `loader` with the losses `names` and `values_K`."""
        samples = self.state.batches.samples_per_step[loader]
        self.state.meter.add(loader, names, values_K, samples)
        self.interval_meter.add(loader, names, values_K, samples)
        self.epoch_samples += samples
        self.interval_samples += samples
        self.epoch_steps += 1
        self.bar.update(1)

    def is_due(self) -> bool:
        """Whether numbers are reported after this step."""
        position = self.state.progress.position
        is_last = position == self.state.batches.steps_per_epoch
        return position % self.log_every == 0 or is_last

    def report_step(self, **values: float) -> None:
        """Report `values` and the means since the last report; every process must call it."""
        state = self.state
        means = self.interval_meter.means()
        now = time.perf_counter()
        seconds = now - self.interval_start
        waiting_seconds = state.batches.waiting_seconds - self.waiting_before
        waiting_shares = gather_objects(waiting_seconds / seconds)
        values = {
            **means,
            **values,
            "samples_per_s": self.interval_samples / seconds,
            "waiting": max(waiting_shares),
            "memory_gib": memory_used(state.batches.device),
        }
        self._start_interval(now)
        samples = state.progress.samples_seen
        self.run_log.line(
            "step",
            epoch=state.progress.epoch + 1,
            step=state.step,
            samples=samples,
            **values,
        )
        self._write_scalars("train", {**values, "samples": samples})
        time_left = format_duration(self._seconds_left())
        self.bar.set_postfix_str(bar_text(means, values, time_left), refresh=False)
        if self.bar.disable and now - self._line_time > LINE_SECONDS:
            self._line_time = now
            log.info(
                "epoch %d, step %d of %d: %s, %s left",
                state.progress.epoch + 1,
                state.step,
                self.last_step,
                line_text(means, values),
                time_left,
            )

    def report_health(self, values: Mapping[str, float]) -> None:
        """Report what `trainer.health.measure` found."""
        self.run_log.line(
            "health",
            epoch=self.state.progress.epoch + 1,
            step=self.state.step,
            samples=self.state.progress.samples_seen,
            **values,
        )
        self._write_scalars("health", values)

    def end_epoch(self) -> None:
        """Close the bar and stop the clock."""
        self.bar.close()
        self.epoch_seconds = time.perf_counter() - self.epoch_start

    def report_initial_validation(self, values: Mapping[str, float]) -> None:
        """Report the results of validation before the first step."""
        self.run_log.line(
            "validation",
            step=self.state.step,
            samples=self.state.progress.samples_seen,
            **values,
        )
        self._write_scalars("val", values)
        log.info(
            "before the first step: %s",
            ", ".join(
                f"{name} {value:.4g}" for name, value in summary_values(values).items()
            ),
        )

    def report_epoch(
        self, means: Mapping[str, float], validation: Mapping[str, float], lr: float
    ) -> None:
        """Report a finished epoch: mean losses, results of validation, speed; every process must call it."""
        state = self.state
        waiting_share = max(
            gather_objects(state.batches.waiting_seconds / self.epoch_seconds)
        )
        epoch = state.progress.epoch + 1
        bad_files = state.progress.bad_files
        samples_per_second = self.epoch_samples / self.epoch_seconds
        self.run_log.line(
            "epoch",
            epoch=epoch,
            step=state.step,
            samples=state.progress.samples_seen,
            **means,
            **validation,
            lr=lr,
            samples_per_s=samples_per_second,
            waiting=waiting_share,
            seconds=self.epoch_seconds,
            bad_files=bad_files,
        )
        self._write_scalars("epoch", means)
        self._write_scalars("val", validation)
        self.run_log.flush()
        speed = {
            "lr": lr,
            "samples_per_s": samples_per_second,
            "waiting": waiting_share,
        }
        text = line_text({**means, **summary_values(validation)}, speed)
        if bad_files:
            text += f"; {bad_files} unreadable files replaced, see bad_files.jsonl"
        log.info("epoch %d: %s", epoch, text)
        if waiting_share > SLOW_SHARE and state.batches.waiting_seconds > SLOW_SECONDS:
            log.warning(slow_loader_text(waiting_share))

    def _write_scalars(self, group: str, values: Mapping[str, float]) -> None:
        tagged = {f"{group}/{name}": value for name, value in values.items()}
        self.run_log.scalars(self.state.step, tagged)

    def _seconds_left(self) -> float:
        """Seconds to the end of the stage, by the epoch's mean speed."""
        seconds_per_step = (time.perf_counter() - self.epoch_start) / max(
            1, self.epoch_steps
        )
        return seconds_per_step * (self.last_step - self.state.step)


def line_text(means: Mapping[str, float], speed: Mapping[str, float]) -> str:
    """A line of the console: means over all loaders, learning rate, samples/s, share of waiting."""
    losses = [f"{name} {value:.4g}" for name, value in means.items() if "/" not in name]
    return ", ".join(
        [
            *losses,
            f"lr {speed['lr']:.2e}",
            f"{speed['samples_per_s']:.1f} samples/s",
            f"{100 * speed['waiting']:.0f} % waiting for data",
        ]
    )


def bar_text(
    means: Mapping[str, float], speed: Mapping[str, float], time_left: str
) -> str:
    """The same as `line_text` in what fits beside a bar in 80 columns, with the time left."""
    losses = [
        f"{name.removeprefix('loss_')} {value:.3g}"
        for name, value in means.items()
        if "/" not in name
    ]
    return " ".join(
        [
            *losses,
            f"lr {speed['lr']:.1e} {speed['samples_per_s']:.0f}/s",
            f"wait {100 * speed['waiting']:.0f}% left {time_left}",
        ]
    )


def slow_loader_text(share: float) -> str:
    """The warning about a loader that is too slow; `share` of the time is spent waiting."""
    return f"{100 * share:.0f} % of the time waiting for data: raise num_workers or prepare the data"


def summary_values(validation: Mapping[str, float]) -> dict[str, float]:
    """The results of validation that fit into a line of the console."""
    return {name: value for name, value in validation.items() if name in SUMMARY_VALUES}


def format_duration(seconds: float) -> str:
    """12:03:09."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
