"""A picture of a few clips as the student sees them, masked.

B clips, T frames, C channels, H height, W width, N = rows * columns patches per frame.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

NUM_CLIPS = 4
GREY = 0.5


@torch.no_grad()
def masked_clips(objective: Any, video_BTCHW: Tensor) -> Tensor:
    """uint8 (3, height, width): for each of the first clips a row of its frames, hidden patches grey, and below it a
    row of the whole frames. For an objective that masks nothing the whole frames alone.

    Draws from torch's generator as the objective does: with the step's seed set before, these are the step's masks, as
    long as the mask is the first thing that the objective draws.
    """
    draw_masks = getattr(objective, "draw_masks", None)
    clips_BTCHW = _stretch_contrast(video_BTCHW[:NUM_CLIPS])
    rows = [clips_BTCHW]
    if draw_masks is not None:
        grid = objective.model.grid(video_BTCHW)
        mask_BTN = draw_masks(video_BTCHW)[0][:NUM_CLIPS].cpu()
        hidden_BT1HW = _mask_to_pixels(mask_BTN, grid, clips_BTCHW)
        rows.insert(0, torch.where(hidden_BT1HW, GREY, clips_BTCHW))
    rows_BRTCHW = torch.stack(rows, 1)
    picture_CHW = (
        rows_BRTCHW.flatten(0, 1).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    )
    return (picture_CHW * 255).round().to(torch.uint8)


def _stretch_contrast(video_BTCHW: Tensor) -> Tensor:
    """Each clip from its least to its largest value as 0..1, however it was normalised."""
    video_BTCHW = video_BTCHW.detach().float().cpu()
    least = video_BTCHW.amin((1, 2, 3, 4), keepdim=True)
    largest = video_BTCHW.amax((1, 2, 3, 4), keepdim=True)
    return (video_BTCHW - least) / (largest - least).clamp(min=1e-6)


def _mask_to_pixels(
    mask_BTN: Tensor, grid: tuple[int, int, int], video_BTCHW: Tensor
) -> Tensor:
    """bool (B, T, 1, H, W): for each pixel of `video_BTCHW`, whether its patch is hidden."""
    mask_BTRC = mask_BTN.unflatten(
        2, grid[1:]
    ).float()  # R rows and C columns of patches
    mask_BTHW = interpolate(mask_BTRC, video_BTCHW.shape[-2:], mode="nearest")
    return mask_BTHW[:, :, None] > 0.5
