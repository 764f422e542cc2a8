"""The teacher as an exponential moving average of the student (mean teacher, BYOL, MoCo; in MILES as reported)."""

import math

from torch import nn

from model.teacher import TEACHERS, Teacher
from parse_config import ConfigError

SCHEDULES = ("constant", "cosine")


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """From `start` at step 0 to 1 at `steps`: 1 - (1 - start) (1 + cos(pi step / steps)) / 2 (BYOL, 2006.07733)."""
    progress = min(step / max(steps, 1), 1.0)
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


@TEACHERS.register("EMA")
class EMA(Teacher):
    """Moves by 1 - `momentum` of the way to the student after every step.

    Args:
        momentum: share of itself that the teacher keeps at each step
        schedule: "constant", or "cosine": rises from momentum to 1 over the run
    """

    def __init__(
        self, student: nn.Module, momentum: float = 0.996, schedule: str = "constant"
    ) -> None:
        super().__init__(student)
        if not 0 <= momentum <= 1:
            raise ConfigError(
                f"teacher.args.momentum: {momentum} is given, a number from 0 to 1 is needed"
            )
        if schedule not in SCHEDULES:
            raise ConfigError(
                f"teacher.args.schedule: {schedule!r} is given; known: {', '.join(SCHEDULES)}"
            )
        self.momentum = momentum
        self.schedule = schedule

    def momentum_at(self, step: int, steps: int) -> float:
        """`momentum` when constant, else its cosine schedule at `step`."""
        if self.schedule == "constant":
            return self.momentum
        return cosine_momentum(step, steps, self.momentum)
