"""Contiguous blocks, the same in every frame: what the figure of MILES (arXiv 2204.12408) shows.

The sampler is ours, after BEiT's (arXiv 2106.08254). B clips, H rows, W columns, N = H * W patches per frame.
"""

import math

import torch
from torch import Tensor

from model.mask import MASKS, Mask
from model.schedule import Points
from parse_config import ConfigError


@MASKS.register("TubeBlock")
class TubeBlock(Mask):
    """Rectangles of random size, aspect and position are laid until exactly the ratio is hidden.

    A rectangle's area is uniform from `min_block` (a share of the frame) to what is still to be hidden, the logarithm
    of its height / width uniform within +-log `max_aspect`, its middle uniform over the frame (it may hang over the
    border: else the corners would hardly ever be hidden). The last one is trimmed line by line from its top or bottom.

    Args:
        min_block: least area of a block, as a share of the frame
        max_aspect: greatest ratio of a block's height and width, either way
    """

    def __init__(
        self, ratio: Points = 0.5, min_block: float = 0.1, max_aspect: float = 3.0
    ) -> None:
        super().__init__(ratio)
        if not 0 <= min_block <= 1 or max_aspect < 1:
            raise ConfigError(
                f"mask.args: min_block {min_block} and max_aspect {max_aspect} are given, a share from "
                "0 to 1 and 1 or more are needed"
            )
        self.min_block = min_block
        self.max_aspect = max_aspect

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, 1, N)."""
        _, rows, columns = grid
        mask_BN = torch.zeros(batch, rows * columns, dtype=torch.bool)
        remaining_B1 = torch.full((batch, 1), count)
        while remaining_B1.any():
            new_BN = self._rectangles(remaining_B1, rows, columns) & ~mask_BN
            rank_from_top_BN = new_BN.cumsum(1)
            rank_from_bottom_BN = rank_from_top_BN[:, -1:] - rank_from_top_BN + 1
            fill_from_top_B1 = torch.rand(batch, 1) < 0.5
            rank_BN = torch.where(
                fill_from_top_B1, rank_from_top_BN, rank_from_bottom_BN
            )
            mask_BN |= new_BN & (rank_BN <= remaining_B1)
            remaining_B1 = count - mask_BN.sum(1, keepdim=True)
        return mask_BN[:, None]

    def _rectangles(self, remaining_B1: Tensor, rows: int, columns: int) -> Tensor:
        """bool (B, N): one random rectangle per clip."""
        size_B1, stretch_B1, middle_y_B1, middle_x_B1 = torch.rand(
            4, len(remaining_B1), 1
        )
        min_area = max(1.0, self.min_block * rows * columns)
        area_B1 = min_area + size_B1 * (remaining_B1 - min_area).clamp(min=0)
        aspect_B1 = torch.exp((2 * stretch_B1 - 1) * math.log(self.max_aspect))
        inside_BH = _interval((area_B1 * aspect_B1).sqrt(), middle_y_B1, rows)
        inside_BW = _interval((area_B1 / aspect_B1).sqrt(), middle_x_B1, columns)
        return (inside_BH[:, :, None] & inside_BW[:, None]).flatten(1)


def _interval(length_B1: Tensor, middle_B1: Tensor, size: int) -> Tensor:
    """bool (B, size): an interval of about `length` (at least 1) positions around `middle`, a share of `size`."""
    length_B1 = length_B1.round().clamp(1, size)
    middle_B1 = (middle_B1 * size).floor()
    first_B1 = middle_B1 - ((length_B1 - 1) / 2).floor()
    position_P = torch.arange(size)
    return (position_P >= first_B1) & (position_P < first_B1 + length_B1)
