"""Masked visual modeling on features as they are, length included; for ablations.

B clips, T frames, N patches per frame, E width of the features.
"""

import torch.nn.functional as F
from torch import Tensor

from model.loss import LOSSES, ReconstructionLoss, full_precision, masked_sum_and_count
from parse_config import ConfigError


@LOSSES.register("SmoothL1Regression")
class SmoothL1Regression(ReconstructionLoss):
    """Smooth L1 distance of the features, averaged over their width.

    Args:
        beta: distance below which the loss is quadratic
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if beta < 0:
            raise ConfigError(
                f"mvm_loss.args.beta: {beta} is given, 0 or more is needed"
            )
        self.beta = beta

    @full_precision
    def forward(
        self, pred_BTNE: Tensor, target_BTNE: Tensor, mask_BTN: Tensor
    ) -> Tensor:
        """Features -> sums_12, see `ReconstructionLoss`."""
        distance_BTNE = F.smooth_l1_loss(
            pred_BTNE, target_BTNE.detach(), reduction="none", beta=self.beta
        )
        return masked_sum_and_count(distance_BTNE.mean(-1), mask_BTN)
