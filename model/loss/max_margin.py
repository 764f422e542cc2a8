"""The max-margin ranking loss of Frozen in Time, for fine-tuning. B pairs, E joint width."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.loss import LOSSES, ContrastiveLoss, full_precision


@LOSSES.register("MaxMarginRankingLoss")
class MaxMarginRankingLoss(ContrastiveLoss):
    """Mean of max(0, margin - cos(pair) + cos(other)) over all others of each row and of each column.

    A batch of one pair has no others: its loss is 0.

    Args:
        margin: by how much a pair must be more alike than others
        fix_norm: leave the pairs' own constant terms out of the mean
    """

    def __init__(self, margin: float = 0.2, fix_norm: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.fix_norm = fix_norm

    @full_precision
    def forward(self, v_BE: Tensor, t_BE: Tensor) -> Tensor:
        """Row i of both belongs together -> scalar."""
        sims_BB = F.normalize(t_BE, dim=-1) @ F.normalize(v_BE, dim=-1).T
        pair_B = sims_BB.diagonal()
        row_terms_BB = F.relu(self.margin - pair_B[:, None] + sims_BB)
        column_terms_BB = F.relu(self.margin - pair_B[None] + sims_BB)
        terms_BB = row_terms_BB + column_terms_BB
        pairs_BB = torch.eye(len(sims_BB), dtype=sims_BB.dtype, device=sims_BB.device)
        weight_BB = 1 - pairs_BB if self.fix_norm else torch.ones_like(pairs_BB)
        return (terms_BB * weight_BB).sum() / (2 * weight_BB.sum()).clamp(min=1)
