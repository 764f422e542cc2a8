"""Masking strategies, one per file, registered in `MASKS`.

B clips, T frames, N = rows * columns patches per frame.
"""

import torch
from torch import Tensor

from parse_config import ConfigError, Registry

MASKS = Registry("mask", __name__)


class Mask:
    """`mask(batch, (T, rows, columns), device) -> bool (B, T, N)`, True = hidden: exactly round(ratio * N)
    patches per frame.

    A subclass draws them in `draw`, on the CPU and from torch's global generator, so that a seeded step hides the same
    patches on any device.

    Args:
        ratio: share of each frame's patches that is hidden
    """

    def __init__(self, ratio: float = 0.5) -> None:
        if not 0 <= ratio <= 1:
            raise ConfigError(
                f"mask.args.ratio: {ratio} is given, a share from 0 to 1 is needed"
            )
        self.ratio = ratio

    def __call__(
        self, batch: int, grid: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> Tensor:
        """bool (B, T, N) on `device`; the host does not wait for a GPU."""
        frames, rows, columns = grid
        mask_BTN = self.draw(batch, grid, round(self.ratio * rows * columns))
        if torch.device(device).type == "cuda":
            # A copy from pageable memory would wait for what the GPU has queued.
            mask_BTN = mask_BTN.pin_memory()
        return mask_BTN.to(device, non_blocking=True).expand(-1, frames, -1)

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, T, N), or (B, 1, N) for the same in every frame, with `count` hidden patches per frame."""
        raise NotImplementedError


def random_subsets(num_subsets: int, num_patches: int, count: int) -> Tensor:
    """bool (num_subsets, num_patches): `count` patches True in each row, every subset equally likely."""
    mask = torch.zeros(num_subsets, num_patches, dtype=torch.bool)
    hidden = torch.rand(num_subsets, num_patches).argsort(1)[:, :count]
    return mask.scatter_(1, hidden, True)
