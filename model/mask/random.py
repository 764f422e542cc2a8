"""Random patches, independent per frame."""

from torch import Tensor

from model.mask import MASKS, Mask, random_subsets


@MASKS.register("Random")
class Random(Mask):
    """Each frame of each clip hides its own random patches, the same number in every frame."""

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, T, N)."""
        frames, rows, columns = grid
        mask_XN = random_subsets(batch * frames, rows * columns, count)  # X = B * T
        return mask_XN.unflatten(0, (batch, frames))
