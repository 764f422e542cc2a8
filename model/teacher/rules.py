"""The three rules: exponential moving average, a copy now and then, never."""
import math

from torch import nn

from model.teacher import TEACHERS
from model.teacher.teacher import Teacher
from parse_config import ConfigError


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """From `start` at step 0 to 1 at `steps`: 1 - (1 - start) (1 + cos(pi step / steps)) / 2 (BYOL)."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(step / max(steps, 1), 1))) / 2


@TEACHERS.register("EMA")
class EMA(Teacher):
    """Exponential moving average after every step, by a constant `momentum` or one that rises to 1 (`cosine`)."""

    def __init__(self, student: nn.Module, momentum: float = 0.996, schedule: str = "constant"):
        super().__init__(student)
        if not 0 <= momentum <= 1:
            raise ConfigError(f"teacher.args.momentum: {momentum} is given, a number from 0 to 1 is needed")
        if schedule not in ("constant", "cosine"):
            raise ConfigError(f"teacher.args.schedule: {schedule!r} is given; known: constant, cosine")
        self.momentum, self.schedule = momentum, schedule

    def momentum_at(self, step: int, steps: int) -> float:
        return self.momentum if self.schedule == "constant" else cosine_momentum(step, steps, self.momentum)


@TEACHERS.register("Snapshot")
class Snapshot(Teacher):
    """A copy of the student after every `every`-th step."""

    def __init__(self, student: nn.Module, every: int = 1000):
        super().__init__(student)
        if every < 1:
            raise ConfigError(f"teacher.args.every: {every} is given, 1 or more steps are needed")
        self.every = every

    def momentum_at(self, step: int, steps: int) -> float:
        return 0.0 if step % self.every == 0 else 1.0


@TEACHERS.register("Frozen")
class Frozen(Teacher):
    """The student as it was at the start, for ever."""

    def momentum_at(self, step: int, steps: int) -> float:
        return 1.0
