"""The contrastive loss of Frozen in Time (arXiv 2104.00650): InfoNCE in both directions. B pairs, E width."""

import torch.nn.functional as F
from torch import Tensor

from model.loss import LOSSES, ContrastiveLoss, full_precision
from parse_config import ConfigError


@LOSSES.register("NormSoftmaxLoss")
class NormSoftmaxLoss(ContrastiveLoss):
    """Cross-entropy of the cosine similarities in both directions: their sum, not their mean.

    -(mean log-softmax of the pairs over rows + the same over columns) of cosine / `temperature`.

    Args:
        temperature: divides the cosines, above 0
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(
                f"loss.args.temperature: {temperature} is given, a number above 0 is needed"
            )
        self.temperature = temperature

    @full_precision
    def forward(self, v_BE: Tensor, t_BE: Tensor) -> Tensor:
        """Row i of both belongs together -> scalar."""
        sims_BB = (
            F.normalize(t_BE, dim=-1) @ F.normalize(v_BE, dim=-1).T / self.temperature
        )
        return -(
            sims_BB.log_softmax(1).diagonal().mean()
            + sims_BB.log_softmax(0).diagonal().mean()
        )
