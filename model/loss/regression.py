"""Masked visual modeling as regression on the snapshot's features (MILES, arXiv 2204.12408; the distance is ours).

B clips, T frames, N patches a frame, E width of the features.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.loss import LOSSES, full_precision


def hidden_sums(distance_BTN: Tensor, mask_BTN: Tensor) -> Tensor:
    """(1, 2): the distances summed over hidden places, and how many those are: sums of many such give an exact mean."""
    weight_BTN = mask_BTN.to(distance_BTN.dtype)
    return torch.stack(((distance_BTN * weight_BTN).sum(), weight_BTN.sum()))[None]


@LOSSES.register("CosineRegression")
class CosineRegression(nn.Module):
    """Squared distance of the L2-normalised features, 2 - 2 cos, at the hidden places only."""

    @full_precision
    def forward(self, pred_BTNE: Tensor, target_BTNE: Tensor, mask_BTN: Tensor) -> Tensor:
        """-> sums_12 (see `hidden_sums`); the target gets no gradient."""
        distance_BTN = (F.normalize(pred_BTNE, dim=-1) - F.normalize(target_BTNE.detach(), dim=-1)).square().sum(-1)
        return hidden_sums(distance_BTN, mask_BTN)


@LOSSES.register("SmoothL1Regression")
class SmoothL1Regression(nn.Module):
    """Smooth L1 distance of the features as they are, averaged over their width, at the hidden places only."""

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = beta

    @full_precision
    def forward(self, pred_BTNE: Tensor, target_BTNE: Tensor, mask_BTN: Tensor) -> Tensor:
        """-> sums_12 (see `hidden_sums`); the target gets no gradient."""
        distance_BTNE = F.smooth_l1_loss(pred_BTNE, target_BTNE.detach(), reduction="none", beta=self.beta)
        return hidden_sums(distance_BTNE.mean(-1), mask_BTN)
