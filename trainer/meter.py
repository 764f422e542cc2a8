"""Means of losses, weighted by samples, kept on the device; and the watch that stops a run before a bad update.

K parts of the loss, L loaders.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from parse_config import UserError
from trainer.distributed import gather_objects


class NonFiniteLoss(UserError):
    """A part of the loss is NaN or infinite."""


class Meter:
    """Weighted sums of loss parts, for each loader by itself. Nothing is read from the device before `means`."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.parts: list[str] = []
        self.sums_LK: Tensor | None = None
        self.weights = [0] * len(self.names)

    def add(self, loader: int, parts: Sequence[str], values_K: Tensor, weight: int):
        """One step of `loader` with `weight` samples."""
        if self.sums_LK is None:
            self.parts = list(parts)
            self.sums_LK = torch.zeros(
                len(self.names), len(parts), dtype=torch.float64, device=values_K.device
            )
        self.sums_LK[loader] += values_K * weight
        self.weights[loader] += weight

    def state(self) -> dict[str, Any]:
        """Plain data, averaged over the processes; every process must call it."""
        sums = [] if self.sums_LK is None else self.sums_LK.tolist()
        everyone = gather_objects(sums)
        mean = [[sum(column) / len(everyone) for column in zip(*rows)] for rows in zip(*everyone)]
        return {"parts": list(self.parts), "sums": mean, "weights": list(self.weights)}

    def load(self, state: Mapping[str, Any], device: torch.device):
        """Go on from what `state` gave."""
        self.parts, self.weights = list(state["parts"]), list(state["weights"])
        self.sums_LK = (
            torch.tensor(state["sums"], dtype=torch.float64, device=device) if self.parts else None
        )

    def means(self) -> dict[str, float]:
        """{part: mean over all samples of all processes, part/loader: of one loader's}; every process must call it."""
        state = self.state()
        found = {}
        for k, part in enumerate(state["parts"]):
            column = [row[k] for row in state["sums"]]
            found[part] = sum(column) / max(1, sum(self.weights))
            if len(self.names) > 1:
                found |= {
                    f"{part}/{name}": column[i] / weight
                    for i, (name, weight) in enumerate(zip(self.names, self.weights))
                    if weight
                }
        return found


class Watch:
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
