"""The teacher that does not learn: a baseline of the ablation."""

from model.teacher import TEACHERS, Teacher


@TEACHERS.register("Frozen")
class Frozen(Teacher):
    """The student as it was at the start of training, unchanged."""

    def momentum_at(self, step: int, steps: int) -> float:
        """Always 1."""
        return 1.0
