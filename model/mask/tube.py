"""Scattered places, the same in every frame (VideoMAE's tube, arXiv 2203.12602)."""

from torch import Tensor

from model.mask import MASKS, Mask, scatter


@MASKS.register("Tube")
class Tube(Mask):
    """Each clip hides places of its own, in every frame the same."""

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, 1, N)."""
        return scatter(batch, grid[1] * grid[2], count)[:, None]
