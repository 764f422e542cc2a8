"""Scattered masks. B clips, T frames, N = rows * columns patches a frame, R independent draws."""
import torch
from torch import Tensor

from model.mask import MASKS, hidden


def scatter(draws: int, places: int, count: int) -> Tensor:
    """bool (R, N): `count` of `places` hidden in each of R draws, every choice equally likely."""
    mask_RN = torch.zeros(draws, places, dtype=torch.bool)
    return mask_RN.scatter_(1, torch.rand(draws, places).argsort(1)[:, :count], True)


@MASKS.register("Tube")
class Tube:
    """Scattered places, the same in every frame of a clip."""

    def __init__(self, ratio: float = 0.5):
        self.ratio, _ = ratio, hidden(ratio, 1)

    def __call__(self, batch: int, grid: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
        """bool (B, T, N); exactly round(ratio * N) places of a frame are hidden."""
        frames, places = grid[0], grid[1] * grid[2]
        mask_BN = scatter(batch, places, hidden(self.ratio, places)).to(device, non_blocking=True)
        return mask_BN[:, None].expand(-1, frames, -1)


@MASKS.register("Random")
class Random:
    """Scattered places, drawn anew in every frame."""

    def __init__(self, ratio: float = 0.5):
        self.ratio, _ = ratio, hidden(ratio, 1)

    def __call__(self, batch: int, grid: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
        """bool (B, T, N); exactly round(ratio * N) places of each frame are hidden."""
        frames, places = grid[0], grid[1] * grid[2]
        mask_PN = scatter(batch * frames, places, hidden(self.ratio, places)).to(device, non_blocking=True)
        return mask_PN.unflatten(0, (batch, frames))
