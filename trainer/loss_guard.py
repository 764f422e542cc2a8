"""Stops a run before an update by a loss or gradient that is not finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from parse_config import UserError


class NonFiniteLoss(UserError):
    """A loss or the gradient is NaN or infinite."""


class LossGuard:
    """Checks every step's losses before the update, without making a GPU wait. K losses.

    `record_losses`, called between forward and backward pass, queues a copy of the values to the host; `check_losses`,
    called when the backward pass has been queued, waits for that copy alone, while the GPU has the backward pass to do.
    The gradient's norm is only known after that: on a GPU it is checked when the host reads from there anyway
    (`check_norm`: at log lines and before every checkpoint), so that no checkpoint holds a spoilt update.

    Attributes:
        names: names of the K losses of the last step
        values_K: their values, on the device
    """

    def __init__(self, device: torch.device) -> None:
        self.names: list[str] = []
        self.values_K = torch.zeros(0)
        self._host_values_K = torch.zeros(0)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._norm_is_bad = torch.zeros((), dtype=torch.bool, device=device)

    def record_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Note a step's losses, to be checked by `check_losses`."""
        self.names = list(losses)
        self.values_K = torch.stack([loss.detach().float() for loss in losses.values()])
        if self._copied is None:
            self._host_values_K = self.values_K
            return
        if len(self._host_values_K) != len(self.values_K):
            self._host_values_K = torch.zeros(len(self.values_K), pin_memory=True)
        self._host_values_K.copy_(self.values_K, non_blocking=True)
        self._copied.record()

    def check_losses(self, where: str) -> None:
        """Raise NonFiniteLoss, which names the loss and `where`, if a recorded loss is not finite."""
        if self._copied is not None:
            self._copied.synchronize()
        values = dict(zip(self.names, self._host_values_K.tolist()))
        non_finite = [
            name for name, value in values.items() if not math.isfinite(value)
        ]
        if non_finite:
            # the sum, "loss", says less than the part that spoilt it
            name = next((name for name in non_finite if name != "loss"), non_finite[0])
            raise NonFiniteLoss(
                f"{name} is {values[name]} at {where}: stopped before the update; lower "
                "optimizer.args.lr, set trainer.clip_grad_norm, or take precision bf16 or fp32; -r "
                "goes on from the last checkpoint"
            )

    def record_norm(self, norm: Tensor, where: str) -> None:
        """Note the gradient's norm, before the update; on the CPU, raise NonFiniteLoss at once.

        Not for fp16, whose scaler expects infinite norms and skips these updates.
        """
        self._norm_is_bad |= ~torch.isfinite(norm)
        if self._copied is None:
            self.check_norm(where)

    def check_norm(self, where: str) -> None:
        """Raise NonFiniteLoss if a gradient since the start was not finite."""
        if self._norm_is_bad.item():
            raise NonFiniteLoss(
                f"the gradient is not finite at or before {where}, the loss is; lower "
                "optimizer.args.lr or take precision bf16 or fp32; -r goes on from the last checkpoint"
            )
