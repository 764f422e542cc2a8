"""What the loop tells while it runs: the bar, the numbers every few steps, the line of an epoch."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from trainer.distributed import gather_objects, rank
from trainer.log import RunLog
from trainer.meter import Meter
from trainer.state import State
from trainer.summary import used

log = logging.getLogger(__name__)

SLOW = 0.25  # share of the time waiting for data from which on it is said
BAR = "{desc} {n_fmt}/{total_fmt}|{bar}|{postfix}"
QUIET = 30.0  # seconds between lines where there is no terminal for a bar


class Report:
    """Of one stage. `steps`: of the whole stage. Nothing is read from the device but every `every` steps."""

    def __init__(self, files: RunLog, state: State, steps: int, every: int):
        self.files, self.state, self.steps, self.every = files, state, steps, every
        self.recent, self.bar = Meter(state.loaders), None
        self.began = self.marked = self.said = time.perf_counter()
        self.samples = self.recent_samples = self.taken = 0
        self.waited = self.seconds = 0.0

    def begin(self, epochs: int):
        """The bar of an epoch, from where it stands."""
        progress, feed = self.state.progress, self.state.feed
        self.bar = tqdm(
            total=feed.steps,
            initial=progress.position,
            desc=f"epoch {progress.epoch + 1}/{epochs}",
            disable=True if rank() else None,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format=BAR,
        )
        self.recent = Meter(self.state.loaders)
        self.began = self.marked = time.perf_counter()
        self.samples = self.recent_samples = self.taken = 0
        feed.waited = self.waited = 0.0

    def add(self, loader: int, names: list[str], values_K: torch.Tensor):
        """A step was taken."""
        samples = self.state.feed.samples[loader]
        self.state.meter.add(loader, names, values_K, samples)
        self.recent.add(loader, names, values_K, samples)
        self.samples += samples
        self.recent_samples += samples
        self.taken += 1
        self.bar.update(1)

    def due(self) -> bool:
        """Whether numbers are to be told after this step."""
        position = self.state.progress.position
        return position % self.every == 0 or position == self.state.feed.steps

    def numbers(self, **values: float):
        """The means since the last time; every process must call it."""
        means, now = self.recent.means(), time.perf_counter()
        waiting = max(gather_objects((self.state.feed.waited - self.waited) / (now - self.marked)))
        values = {
            **means,
            **values,
            "samples_per_s": self.recent_samples / (now - self.marked),
            "waiting": waiting,
            "memory_gib": used(self.state.feed.device),
        }
        self.recent, self.marked, self.recent_samples = Meter(self.state.loaders), now, 0
        self.waited = self.state.feed.waited
        self.files.line("step", epoch=self.state.progress.epoch + 1, step=self.state.step, **values)
        self.files.scalars(
            self.state.step, {f"train/{name}": value for name, value in values.items()}
        )
        left = duration(self._left())
        self.bar.set_postfix_str(brief(means, values, left), refresh=False)
        if self.bar.disable and now - self.said > QUIET:
            self.said = now
            log.info(
                "epoch %d, step %d of %d: %s, %s left",
                self.state.progress.epoch + 1,
                self.state.step,
                self.steps,
                self._text(means, values),
                left,
            )

    def end(self):
        """The bar goes, the clock stops."""
        self.bar.close()
        self.seconds = time.perf_counter() - self.began

    def validated(self, values: Mapping[str, float]):
        """What validation found before the first step."""
        self.files.line("validation", step=self.state.step, **values)
        self.files.scalars(
            self.state.step, {f"val/{name}": value for name, value in values.items()}
        )
        log.info(
            "before the first step: %s",
            ", ".join(f"{name} {value:.4g}" for name, value in shown(values).items()),
        )

    def epoch(self, means: Mapping[str, float], validated: Mapping[str, float], lr: float):
        """The line of an epoch that is done; every process must call it."""
        share = max(gather_objects(self.state.feed.waited / self.seconds))
        number, bad = self.state.progress.epoch + 1, self.state.progress.bad_files
        rate = self.samples / self.seconds
        self.files.line(
            "epoch",
            epoch=number,
            step=self.state.step,
            **means,
            **validated,
            lr=lr,
            samples_per_s=rate,
            waiting=share,
            seconds=self.seconds,
            bad_files=bad,
        )
        self.files.scalars(
            self.state.step, {f"epoch/{name}": value for name, value in means.items()}
        )
        self.files.scalars(
            self.state.step, {f"val/{name}": value for name, value in validated.items()}
        )
        self.files.flush()
        values = {"lr": lr, "samples_per_s": rate, "waiting": share}
        log.info(
            "epoch %d: %s%s",
            number,
            self._text({**means, **shown(validated)}, values),
            f"; {bad} unreadable files replaced, see bad_files.jsonl" if bad else "",
        )
        if share > SLOW and self.state.feed.waited > 10:
            log.warning(slow(share))

    def _text(self, means: Mapping[str, float], values: Mapping[str, float]) -> str:
        parts = [f"{name} {value:.4g}" for name, value in means.items() if "/" not in name]
        return ", ".join(
            [
                *parts,
                f"lr {values['lr']:.2e}",
                f"{values['samples_per_s']:.1f} samples/s",
                f"{100 * values['waiting']:.0f} % waiting for data",
            ]
        )

    def _left(self) -> float:
        """Seconds, by the epoch's mean speed."""
        return (
            (time.perf_counter() - self.began) / max(1, self.taken) * (self.steps - self.state.step)
        )


def brief(means: Mapping[str, float], values: Mapping[str, float], left: str) -> str:
    """What fits beside a bar in 80 columns: losses, learning rate, samples/s, share of waiting, time left."""
    parts = [
        f"{name.removeprefix('loss_')} {value:.3g}"
        for name, value in means.items()
        if "/" not in name
    ]
    return " ".join(
        [
            *parts,
            f"lr {values['lr']:.1e} {values['samples_per_s']:.0f}/s",
            f"wait {100 * values['waiting']:.0f}% left {left}",
        ]
    )


def slow(share: float) -> str:
    """What to do about a loader that is too slow."""
    return (
        f"{100 * share:.0f} % of the time waiting for data: raise num_workers or prepare the data"
    )


def shown(validated: Mapping[str, float]) -> dict[str, float]:
    """The few numbers of validation that a line has room for."""
    return {
        name: value
        for name, value in validated.items()
        if name in ("val_loss", "t2v.R1", "t2v.R5", "v2t.R1")
    }


def duration(seconds: float) -> str:
    """12:03:09."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def momentum(objective: nn.Module, step: int, steps: int) -> dict[str, Any]:
    """{"momentum": of the objective's teacher after `step`}, nothing without one."""
    teacher = getattr(objective, "teacher", None)
    return {"momentum": teacher.momentum_at(step, steps)} if teacher is not None else {}
