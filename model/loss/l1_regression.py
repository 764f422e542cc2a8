"""Masked visual modeling as L1 regression on the snapshot's features, as in V-JEPA (arXiv 2404.08471).

B clips, T frames, N patches per frame, E width of the features.
"""

from torch import Tensor

from model.loss import LOSSES, ReconstructionLoss, full_precision, masked_sum_and_count


@LOSSES.register("L1Regression")
class L1Regression(ReconstructionLoss):
    """Absolute difference of the features, averaged over their width."""

    @full_precision
    def forward(
        self, pred_BTNE: Tensor, target_BTNE: Tensor, mask_BTN: Tensor
    ) -> Tensor:
        """Features -> sums_12, see `ReconstructionLoss`."""
        distance_BTNE = (pred_BTNE - target_BTNE.detach()).abs()
        return masked_sum_and_count(distance_BTNE.mean(-1), mask_BTN)
