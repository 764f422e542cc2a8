"""Masking strategies, one a file, registered in `MASKS`. B clips, T frames, N = rows * columns patches a frame."""

import torch
from torch import Tensor

from parse_config import ConfigError, Registry

MASKS = Registry("mask", __name__)


class Mask:
    """`mask(batch, (T, rows, columns), device) -> bool (B, T, N)`, True = hidden: exactly round(ratio * N) places of
    each frame.

    A subclass draws them in `draw`, on the CPU and from torch's global generator, so that a seeded step hides the same
    places again on any device.
    """

    def __init__(self, ratio: float = 0.5):
        if not 0 <= ratio <= 1:
            raise ConfigError(f"mask.args.ratio: {ratio} is given, a share from 0 to 1 is needed")
        self.ratio = ratio

    def __call__(
        self, batch: int, grid: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> Tensor:
        """bool (B, T, N) on `device`; the host does not wait for a GPU."""
        frames, rows, columns = grid
        mask_BTN = self.draw(batch, grid, round(self.ratio * rows * columns))
        if torch.device(device).type == "cuda":
            mask_BTN = (
                mask_BTN.pin_memory()
            )  # a copy from pageable memory would wait for what the GPU has queued
        return mask_BTN.to(device, non_blocking=True).expand(-1, frames, -1)

    def draw(self, batch: int, grid: tuple[int, int, int], count: int) -> Tensor:
        """bool (B, T, N), or (B, 1, N) for the same in every frame, with `count` hidden places a frame."""
        raise NotImplementedError


def scatter(draws: int, places: int, count: int) -> Tensor:
    """bool (draws, places): `count` places hidden in each draw, every choice equally likely."""
    mask = torch.zeros(draws, places, dtype=torch.bool)
    return mask.scatter_(1, torch.rand(draws, places).argsort(1)[:, :count], True)
