"""Random patches, the same in every frame (VideoMAE's tube masking, arXiv 2203.12602)."""

from torch import Tensor

from model.mask import MASKS, Mask, random_subsets


@MASKS.register("Tube")
class Tube(Mask):
    """Each clip hides its own random patches, the same ones in every frame."""

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, 1, N)."""
        _, rows, columns = grid
        return random_subsets(batch, rows * columns, count)[:, None]
