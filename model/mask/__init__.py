"""Masking strategies, one per file, registered in `MASKS`.

B clips, T frames, N = rows * columns patches per frame.
"""

import torch
from torch import Tensor

from model.schedule import Points, Schedule
from parse_config import Registry

MASKS = Registry("mask", __name__)


class Mask:
    """`mask(batch, (T, rows, columns), device) -> bool (B, T, N)`, True = hidden: exactly round(ratio * N)
    patches per frame.

    A subclass draws them in `draw`, on the CPU and from torch's global generator, so that a seeded step hides the same
    patches on any device.

    Args:
        ratio: share of each frame's patches that is hidden, or its schedule [[share of training, ratio], ...]
    """

    needs_attention = False  # whether it is called with `attention_BTN`

    def __init__(self, ratio: Points = 0.5) -> None:
        self.ratio = Schedule(ratio, "mask.args.ratio", least=0, most=1)

    def __call__(
        self,
        batch: int,
        grid: tuple[int, int, int],
        device: torch.device | str = "cpu",
        progress: float = 0.0,
        attention_BTN: Tensor | None = None,
    ) -> Tensor:
        """bool (B, T, N) on `device`; the host does not wait for a GPU.

        Args:
            progress: share of training that is done, 0 to 1
            attention_BTN: how much CLS attends to each patch of these clips, for masks that need it
        """
        frames, rows, columns = grid
        count = round(self.ratio(progress) * rows * columns)
        mask_BTN = self.draw(batch, grid, count)
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
