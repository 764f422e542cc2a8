"""Contiguous blocks, the same in every frame: what the figure of MILES (arXiv 2204.12408) shows. The sampler is ours,
after BEiT's (arXiv 2106.08254). B clips, H rows, W columns, N = H * W patches a frame."""

import math

import torch
from torch import Tensor

from model.mask import MASKS, Mask
from parse_config import ConfigError


@MASKS.register("TubeBlock")
class TubeBlock(Mask):
    """Rectangles of random size, aspect and place are laid until exactly the ratio is hidden.

    A rectangle's area is uniform from `min_block` (a share of the frame) to what is still to be hidden, the logarithm
    of its height / width uniform within +-log `max_aspect`, its middle uniform over the frame (it may hang over the
    border: else the corners would hardly ever be hidden). The last one is trimmed line by line from its top or bottom.
    """

    def __init__(self, ratio: float = 0.5, min_block: float = 0.1, max_aspect: float = 3.0):
        super().__init__(ratio)
        if not 0 <= min_block <= 1 or max_aspect < 1:
            raise ConfigError(
                f"mask.args: min_block {min_block} and max_aspect {max_aspect} are given, a share from "
                "0 to 1 and 1 or more are needed"
            )
        self.min_block, self.max_aspect = min_block, max_aspect

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, 1, N)."""
        mask_BN = torch.zeros(batch, grid[1] * grid[2], dtype=torch.bool)
        left_B1 = torch.full((batch, 1), count)
        while left_B1.any():
            fresh_BN = self._rectangles(left_B1, grid[1], grid[2]) & ~mask_BN
            from_top_BN = fresh_BN.cumsum(1)
            from_bottom_BN = from_top_BN[:, -1:] - from_top_BN + 1
            place_BN = torch.where(torch.rand(batch, 1) < 0.5, from_top_BN, from_bottom_BN)
            mask_BN |= fresh_BN & (place_BN <= left_B1)
            left_B1 = count - mask_BN.sum(1, keepdim=True)
        return mask_BN[:, None]

    def _rectangles(self, left_B1: Tensor, rows: int, columns: int) -> Tensor:
        """bool (B, N): one random rectangle a clip."""
        size_B1, stretch_B1, middle_y_B1, middle_x_B1 = torch.rand(4, len(left_B1), 1)
        least = max(1.0, self.min_block * rows * columns)
        area_B1 = least + size_B1 * (left_B1 - least).clamp(min=0)
        aspect_B1 = torch.exp((2 * stretch_B1 - 1) * math.log(self.max_aspect))
        inside_BH = _line((area_B1 * aspect_B1).sqrt(), middle_y_B1, rows)
        inside_BW = _line((area_B1 / aspect_B1).sqrt(), middle_x_B1, columns)
        return (inside_BH[:, :, None] & inside_BW[:, None]).flatten(1)


def _line(length_B1: Tensor, middle_B1: Tensor, places: int) -> Tensor:
    """bool (B, places): a run of about `length` (at least 1) places around `middle`, a share of the line."""
    length_B1 = length_B1.round().clamp(1, places)
    middle_B1 = (middle_B1 * places).floor()
    first_B1 = middle_B1 - ((length_B1 - 1) / 2).floor()
    place_P = torch.arange(places)
    return (place_P >= first_B1) & (place_P < first_B1 + length_B1)
