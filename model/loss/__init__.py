"""Losses, one a file, registered in `LOSSES`: contrastive ones, and reconstruction ones for masked modeling."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from parse_config import ConfigError, Registry

LOSSES = Registry("loss", __name__)


class ContrastiveLoss(nn.Module):
    """`forward(v_BE, t_BE) -> scalar`: row i of both belongs together. No parameters."""


class ReconstructionLoss(nn.Module):
    """`forward(pred_BTNE, target_BTNE, mask_BTN) -> sums_12`: distances at the hidden places. No parameters.

    A (1, 2) tensor, [[sum of the distances, number of hidden places]], and not their mean: such sums of several
    micro-batches or processes give the exact mean over all, however unequally they hide. The target gets no gradient.
    """


def require_loss(loss: nn.Module, kind: type[nn.Module], where: str) -> nn.Module:
    """`loss`, or a ConfigError that names `where` it was given if it is not of this kind."""
    if not isinstance(loss, kind):
        known = [name for name in LOSSES.names() if issubclass(LOSSES.get(name), kind)]
        raise ConfigError(
            f"{where}: {type(loss).__name__} is no {kind.__name__}; known: {', '.join(known)}"
        )
    return loss


def masked_sum_and_count(distance_BTN: Tensor, mask_BTN: Tensor) -> Tensor:
    """(1, 2): the distances summed over the hidden places, and how many places those are."""
    weight_BTN = mask_BTN.to(distance_BTN.dtype)
    return torch.stack(((distance_BTN * weight_BTN).sum(), weight_BTN.sum()))[None]


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator of a loss's forward: on float32 (float64 stays), outside of autocast and without tf32."""

    @functools.wraps(forward)
    def run(self, *tensors: Tensor) -> Tensor:
        wide = [x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False), _no_tf32():
            return forward(self, *wide)

    return run


@contextmanager
def _no_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
