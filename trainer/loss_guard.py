"""Stops a run before an update by a loss or gradient that is not finite."""

from collections.abc import Mapping

import torch
from torch import Tensor

from parse_config import UserError


class NonFiniteLoss(UserError):
    """A part of the loss is NaN or infinite."""


class LossGuard:
    """Looks at every step's loss before the update, without stopping a GPU.

    `see`, called between forward and backward pass, sends the values to the host behind the forward pass; `check`,
    called when the backward pass has been queued, waits for them alone. The GPU meanwhile has the backward pass to do.
    The gradient's norm is only known after that: on a GPU it is looked at when the host reads from there anyway
    (`check_norm`: at log lines and before every checkpoint), so that no checkpoint is ever spoilt.
    """

    def __init__(self, device: torch.device):
        self.event = torch.cuda.Event() if device.type == "cuda" else None
        self.names: list[str] = []
        self.values_K = self.host_K = torch.zeros(0)
        self.bad = torch.zeros((), dtype=torch.bool, device=device)

    def see(self, parts: Mapping[str, Tensor]):
        """The parts of a step's loss."""
        self.names = list(parts)
        self.values_K = torch.stack([part.detach().float() for part in parts.values()])
        if self.event is None:
            self.host_K = self.values_K
            return
        if len(self.host_K) != len(self.values_K):
            self.host_K = torch.zeros(len(self.values_K), pin_memory=True)
        self.host_K.copy_(self.values_K, non_blocking=True)
        self.event.record()

    def check(self, where: str):
        """Raises NonFiniteLoss, naming the part, if what was seen is not finite."""
        if self.event is not None:
            self.event.synchronize()
        found = dict(zip(self.names, self.host_K.tolist()))
        bad = [name for name, value in found.items() if value - value != 0]
        if bad:
            name = next((name for name in bad if name != "loss"), bad[0])
            raise NonFiniteLoss(
                f"{name} is {found[name]} at {where}: stopped before the update; lower "
                "optimizer.args.lr, set trainer.clip_grad_norm, or take precision bf16 or fp32; -r "
                "goes on from the last checkpoint"
            )

    def norm(self, value: Tensor, where: str):
        """The gradient's norm, before the update; not for fp16, whose scaler expects infinite ones."""
        self.bad |= ~torch.isfinite(value)
        if self.event is None:
            self.check_norm(where)

    def check_norm(self, where: str):
        """Raises NonFiniteLoss if a gradient since the start was not finite."""
        if self.bad.item():
            raise NonFiniteLoss(
                f"the gradient is not finite at or before {where}, the loss is; lower "
                "optimizer.args.lr or take precision bf16 or fp32; -r goes on from the last checkpoint"
            )
