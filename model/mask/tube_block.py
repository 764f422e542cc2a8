"""Contiguous blocks, the same in every frame (the figure of MILES shows a block; its sampler is ours, after BEiT's).

B clips, T frames, N = rows * columns patches a frame.
"""
import math

import torch
from torch import Tensor

from model.mask import MASKS, hidden


@MASKS.register("TubeBlock")
class TubeBlock:
    """Rectangles of random size, aspect and place are laid until exactly the ratio is hidden; the last one is trimmed
    line by line, so that it stays contiguous. `min_block`, `min_aspect`: of one rectangle, in patches and as width /
    height (its inverse is the other end)."""

    def __init__(self, ratio: float = 0.5, min_block: int = 4, min_aspect: float = 0.3):
        self.ratio, self.min_block, self.min_aspect = ratio, min_block, min_aspect
        hidden(ratio, 1)

    def __call__(self, batch: int, grid: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
        """bool (B, T, N); exactly round(ratio * N) places of a frame are hidden."""
        frames, rows, columns = grid
        mask_BN = torch.stack([self._draw(rows, columns).flatten() for _ in range(batch)])
        return mask_BN.to(device, non_blocking=True)[:, None].expand(-1, frames, -1)

    def _draw(self, rows: int, columns: int) -> Tensor:
        mask_HW, wanted = torch.zeros(rows, columns, dtype=torch.bool), hidden(self.ratio, rows * columns)
        left = wanted
        while left > 0:
            size, aspect, top, side = torch.rand(4).tolist()
            area = min(self.min_block, wanted) + size * max(left - self.min_block, 0)
            stretch = math.exp((2 * aspect - 1) * -math.log(self.min_aspect))
            height = min(rows, max(1, round(math.sqrt(area * stretch))))
            width = min(columns, max(1, round(math.sqrt(area / stretch))))
            top, side = int(top * (rows - height + 1)), int(side * (columns - width + 1))
            block_HW = mask_HW[top:top + height, side:side + width]
            fresh = (~block_HW).flatten().nonzero().flatten()[:left]
            block_HW.masked_fill_(_lines(fresh, block_HW.shape), True)
            left = wanted - int(mask_HW.sum())
        return mask_HW


def _lines(places: Tensor, shape: torch.Size) -> Tensor:
    """bool of `shape` that is True at the flat `places`."""
    lines = torch.zeros(shape.numel(), dtype=torch.bool)
    lines[places] = True
    return lines.view(shape)
