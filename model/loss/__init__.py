"""Losses, one a file.

Contrastive ones are `(v_BE, t_BE) -> scalar`, reconstruction ones `(pred_BTNE, target_BTNE, mask_BTN) -> sums_12`.
"""
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from parse_config import Registry

LOSSES = Registry("loss", __name__)


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator of a loss's forward: outside of autocast, on float32 (float64 stays)."""
    @functools.wraps(forward)
    def run(self, *tensors: Tensor) -> Tensor:
        wide = [x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return forward(self, *wide)
    return run
