"""How the teacher's features are made comparable before they are regressed.

B clips, T frames, N patches per frame, X width of the features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.loss import widened

TARGET_NORMS = ("none", "l2", "centred", "layer")
MOMENTUM = 0.9  # of the running mean, as in DINO (arXiv 2104.14294)


class TargetNorm(nn.Module):
    """`target_norm(pred_BTNX, target_BTNX)` -> both, as they are compared.

    none: as they are. l2: both scaled to length 1. centred: the running mean of the target is subtracted from both, so
    that the large part which all features share explains nothing (DINO centres its teacher alike). layer: each target
    vector by its own mean and deviation, without parameters (data2vec, arXiv 2202.03555); the prediction stays.

    The mean moves at `update_mean`, once per optimizer step, towards the `step_mean_X` that was set in the step; it is
    saved with the objective.

    Args:
        kind: none, l2, centred or layer
        width: X
    """

    mean_X: Tensor

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.width = width
        self.step_mean_X: Tensor | None = None
        if kind == "centred":
            self.register_buffer("mean_X", torch.zeros(width))

    def forward(self, pred_BTNX: Tensor, target_BTNX: Tensor) -> tuple[Tensor, Tensor]:
        pred_BTNX, target_BTNX = widened(pred_BTNX), widened(target_BTNX)
        if self.kind == "l2":
            return F.normalize(pred_BTNX, dim=-1), F.normalize(target_BTNX, dim=-1)
        if self.kind == "centred":
            return pred_BTNX - self.mean_X, target_BTNX - self.mean_X
        if self.kind == "layer":
            return pred_BTNX, F.layer_norm(target_BTNX, (self.width,))
        return pred_BTNX, target_BTNX

    @torch.no_grad()
    def update_mean(self) -> None:
        """Move the running mean towards that of the step's targets, if the step had any."""
        if self.step_mean_X is not None:
            self.mean_X.lerp_(self.step_mean_X.to(self.mean_X), 1 - MOMENTUM)
            self.step_mean_X = None
