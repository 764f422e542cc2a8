"""Scattered places, drawn anew in every frame."""

from torch import Tensor

from model.mask import MASKS, Mask, scatter


@MASKS.register("Random")
class Random(Mask):
    """Each frame of each clip hides places of its own, equally many."""

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, T, N)."""
        return scatter(batch * grid[0], grid[1] * grid[2], count).unflatten(0, (batch, grid[0]))
