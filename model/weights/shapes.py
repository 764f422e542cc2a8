"""Position and frame embeddings for another number of frames or another grid of patches.

T frames, N patches per frame, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from parse_config import ConfigError

# F.interpolate's mode of each way of stretching; "interp" and "bilinear" are Frozen in Time's words.
STRETCH_MODES = {
    "linear": "linear",
    "nearest": "nearest",
    "interp": "nearest",
    "bilinear": "linear",
}
FIXES = ("zeros", *STRETCH_MODES)


def stretch_time(embed_1TD: Tensor, frames: int, how: str = "zeros") -> Tensor:
    """Temporal embedding for `frames` frames.

    "zeros": the first frames keep theirs, further ones get zeros (Frozen in Time's default); "linear": linear in time;
    "nearest": the nearest frame's; "bilinear" and "interp": the same two as Frozen in Time's files call them. Raises
    ConfigError for another word.
    """
    if how not in FIXES:
        raise ConfigError(
            f"arch.args.video_params.load_temporal_fix: {how!r} is given, one of {', '.join(FIXES)} is "
            f"needed"
        )
    if how == "zeros":
        kept_1TD = embed_1TD[:, :frames]
        return F.pad(kept_1TD, (0, 0, 0, frames - kept_1TD.shape[1]))
    embed_1DT = embed_1TD.transpose(1, 2).float()
    stretched_1DT = F.interpolate(embed_1DT, frames, mode=STRETCH_MODES[how])
    return stretched_1DT.transpose(1, 2).to(embed_1TD.dtype).contiguous()


def is_grid(embed_1ND: Tensor, grid: tuple[int, int] | None = None) -> bool:
    """Whether a position embedding, CLS first, has as many positions as `grid`, or as some square."""
    num_patches = embed_1ND.shape[1] - 1
    rows, columns = grid or _square(num_patches)
    return rows * columns == num_patches


def resize_pos_embed(
    embed_1ND: Tensor, grid: tuple[int, int], old_grid: tuple[int, int] | None = None
) -> Tensor:
    """Position embedding, CLS first, for `grid` = (rows, columns) of patches: bicubic, CLS as it is.

    `old_grid` is the file's; None: a square, see `is_grid`.
    """
    old_grid = old_grid or _square(embed_1ND.shape[1] - 1)
    old_1DHW = embed_1ND[:, 1:].float().unflatten(1, old_grid).permute(0, 3, 1, 2)
    new_1DHW = F.interpolate(old_1DHW, grid, mode="bicubic", antialias=True)
    new_1ND = new_1DHW.flatten(2).transpose(1, 2).to(embed_1ND.dtype)
    return torch.cat((embed_1ND[:, :1], new_1ND), dim=1)


def _square(num_patches: int) -> tuple[int, int]:
    """(rows, columns) of the largest square grid of at most so many patches."""
    side = math.isqrt(max(num_patches, 0))
    return side, side
