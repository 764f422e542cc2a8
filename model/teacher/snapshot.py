"""The teacher as a copy of the student that is renewed every so many steps."""

from torch import nn

from model.teacher import TEACHERS, Teacher
from parse_config import ConfigError


@TEACHERS.register("Snapshot")
class Snapshot(Teacher):
    """A copy of the student after every `every`-th step; in between it stays.

    Args:
        every: steps between copies of the student
    """

    def __init__(self, student: nn.Module, every: int = 1000) -> None:
        super().__init__(student)
        if every < 1:
            raise ConfigError(
                f"teacher.args.every: {every} is given, 1 or more steps are needed"
            )
        self.every = every

    def momentum_at(self, step: int, steps: int) -> float:
        """0 when a copy is due, else 1."""
        return 0.0 if step % self.every == 0 else 1.0
