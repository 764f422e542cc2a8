"""Masked visual modeling as regression on the snapshot's features (MILES, arXiv 2204.12408; the distance is ours).

B clips, T frames, N patches per frame, E width of the features.
"""

import torch.nn.functional as F
from torch import Tensor

from model.loss import LOSSES, ReconstructionLoss, full_precision, masked_sum_and_count


@LOSSES.register("CosineRegression")
class CosineRegression(ReconstructionLoss):
    """Squared distance of the L2-normalised features, that is 2 - 2 cos: from 0 to 4."""

    @full_precision
    def forward(
        self, pred_BTNE: Tensor, target_BTNE: Tensor, mask_BTN: Tensor
    ) -> Tensor:
        """Features -> sums_12, see `ReconstructionLoss`."""
        difference_BTNE = F.normalize(pred_BTNE, dim=-1) - F.normalize(
            target_BTNE.detach(), dim=-1
        )
        return masked_sum_and_count(difference_BTNE.square().sum(-1), mask_BTN)
