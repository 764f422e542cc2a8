"""Losses, one per file, registered in `LOSSES`: contrastive ones, and reconstruction ones for masked modeling."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from parse_config import ConfigError, Registry

LOSSES = Registry("loss", __name__)


class ContrastiveLoss(nn.Module):
    """`forward(v_BE, t_BE) -> scalar`: row i of both belongs together. No parameters."""


class ReconstructionLoss(nn.Module):
    """`forward(pred_BTNE, target_BTNE, mask_BTN) -> sums_12`: distances where `mask_BTN` is True. No parameters.

    A (1, 2) tensor, [[sum of the distances, number of those patches]], and not their mean: such sums of several
    micro-batches or processes give the exact mean over all, however unequally they hide. The target gets no gradient.
    """


def require_loss(
    loss: nn.Module, loss_class: type[nn.Module], json_path: str
) -> nn.Module:
    """`loss`, or a ConfigError that names the setting's `json_path` if it is not of this class."""
    if not isinstance(loss, loss_class):
        entries: dict[str, Any] = {name: LOSSES.get(name) for name in LOSSES.names()}
        known = [
            name for name, entry in entries.items() if issubclass(entry, loss_class)
        ]
        raise ConfigError(
            f"{json_path}: {type(loss).__name__} is no {loss_class.__name__}; known: {', '.join(known)}"
        )
    return loss


def masked_sum_and_count(distance_BTN: Tensor, mask_BTN: Tensor) -> Tensor:
    """(1, 2): the sum of the distances where `mask_BTN` is True, and the number of those patches."""
    weight_BTN = mask_BTN.to(distance_BTN.dtype)
    return torch.stack(((distance_BTN * weight_BTN).sum(), weight_BTN.sum()))[None]


def full_precision(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator of a loss's forward: on float32 (float64 stays), outside of autocast and without tf32."""

    @functools.wraps(forward)
    def run(self: nn.Module, *tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False), _no_tf32():
            return forward(self, *(widened(x) for x in tensors))

    return run


def widened(x: Tensor) -> Tensor:
    """Half precision as float32; other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@contextmanager
def _no_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
