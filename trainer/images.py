"""A few masked clips as one picture: what the student sees. B clips, T frames, C channels, H height, W width,
N = rows * columns patches a frame."""

import torch
from torch import Tensor, nn

CLIPS = 4
GREY = 0.5


@torch.no_grad()
def masked_clips(objective: nn.Module, video_BTCHW: Tensor) -> Tensor:
    """uint8 (3, height, width): a row for each of the first clips, its frames side by side, hidden places grey; below
    each row the whole clip. For an objective without `mask` the whole clips alone.

    Draws from torch's generator as the objective does: with the step's seed set before, these are the step's masks (as
    long as the mask is the first thing that the objective draws).
    """
    mask = getattr(objective, "mask", None)
    shown_BTCHW = _visible(video_BTCHW[:CLIPS])
    rows = [shown_BTCHW]
    if mask is not None:
        grid = objective.model.grid(video_BTCHW)
        mask_BTN = mask(len(video_BTCHW), grid, torch.device("cpu"))[:CLIPS]
        rows.insert(0, torch.where(_pixels(mask_BTN, grid, shown_BTCHW), GREY, shown_BTCHW))
    pairs_BRTCHW = torch.stack(rows, 1)
    picture_CHW = pairs_BRTCHW.flatten(0, 1).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return (picture_CHW * 255).round().to(torch.uint8)


def _visible(video_BTCHW: Tensor) -> Tensor:
    """Each clip stretched to 0..1: whatever it was normalised by."""
    video_BTCHW = video_BTCHW.detach().float().cpu()
    low, high = (
        video_BTCHW.amin((1, 2, 3, 4), keepdim=True),
        video_BTCHW.amax((1, 2, 3, 4), keepdim=True),
    )
    return (video_BTCHW - low) / (high - low).clamp(min=1e-6)


def _pixels(mask_BTN: Tensor, grid: tuple[int, int, int], like_BTCHW: Tensor) -> Tensor:
    """bool (B, T, 1, H, W): the patches' mask in pixels."""
    mask_BTHW = mask_BTN.unflatten(2, grid[1:]).float()
    return (
        torch.nn.functional.interpolate(mask_BTHW, like_BTCHW.shape[-2:], mode="nearest")[
            :, :, None
        ]
        > 0.5
    )
