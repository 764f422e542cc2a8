"""No teacher beside the student: the target is its own clean pass, detached (RILS, arXiv 2301.06958)."""

from torch import nn

from model.teacher import TEACHERS


@TEACHERS.register("Self")
class Self(nn.Module):
    """Where the contrastive loss sees the whole clip, its features are the target and no other pass is made.

    It holds no weights, so nothing of it is saved.
    """

    is_student = True

    def __init__(self, student: nn.Module) -> None:
        super().__init__()

    def momentum_at(self, step: int, steps: int) -> float:
        """Always 0: nothing of an earlier student is kept."""
        return 0.0

    def follow(self, student: nn.Module, step: int, steps: int) -> None:
        """Nothing to do."""
