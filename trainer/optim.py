"""Optimizers over parameter groups, and learning-rate schedules as pure functions of the step.

schedule(step, steps, steps_per_epoch) -> factor of the learning rate for the update after `step` finished ones
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from parse_config import ConfigError, Registry

OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("lr_scheduler")
Schedule = Callable[[int, int, int], float]
CONSTANT = {"type": "Constant", "args": {}}


def groups(module: nn.Module, decay: str = "all") -> list[dict[str, Any]]:
    """Trainable parameters for an optimizer. `decay` says which are decayed: "all" (as in the family) or "matrices"
    (biases, norms and single tokens are not)."""
    trained = [p for p in module.parameters() if p.requires_grad]
    if decay not in ("all", "matrices"):
        raise ConfigError(f"optimizer.args.decay: {decay!r} is given; known: all, matrices")
    if decay == "all":
        return [{"params": trained}]
    flat = [p for p in trained if p.ndim < 2 or p.numel() == max(p.shape)]
    matrices = [p for p in trained if all(p is not other for other in flat)]
    return [{"params": matrices}, {"params": flat, "weight_decay": 0.0}]


@OPTIMIZERS.register("AdamW")
def adamw(
    module: nn.Module,
    lr: float = 3e-5,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decay: str = "all",
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """torch's AdamW; eps and weight decay are what the family had by default. `fused` None: on a GPU."""
    return torch.optim.AdamW(
        groups(module, decay), lr, tuple(betas), eps, weight_decay, fused=_fused(module, fused)
    )


@OPTIMIZERS.register("Adam")
def adam(
    module: nn.Module,
    lr: float = 3e-5,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: str = "all",
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """torch's Adam. `fused` None: on a GPU."""
    return torch.optim.Adam(
        groups(module, decay), lr, tuple(betas), eps, weight_decay, fused=_fused(module, fused)
    )


@OPTIMIZERS.register("SGD")
def sgd(
    module: nn.Module,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    decay: str = "all",
) -> torch.optim.Optimizer:
    """torch's SGD."""
    return torch.optim.SGD(
        groups(module, decay), lr, momentum, weight_decay=weight_decay, nesterov=nesterov
    )


def _fused(module: nn.Module, wanted: bool | None) -> bool:
    return all(p.is_cuda for p in module.parameters()) if wanted is None else wanted


@SCHEDULES.register("Constant")
class Constant:
    """1, after `warmup_steps` of linear rise."""

    def __init__(self, warmup_steps: int = 0):
        self.warmup_steps = warmup_steps

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@SCHEDULES.register("MultiStep")
@SCHEDULES.register("MultiStepLR")
class MultiStep:
    """Times `gamma` at each of the `milestones`, in epochs from the start; a linear rise over `warmup_steps` first."""

    def __init__(self, milestones: Sequence[float], gamma: float = 0.1, warmup_steps: int = 0):
        self.milestones, self.gamma, self.rise = tuple(milestones), gamma, Constant(warmup_steps)

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        passed = sum(step >= round(milestone * steps_per_epoch) for milestone in self.milestones)
        return self.rise(step, steps, steps_per_epoch) * self.gamma**passed


@SCHEDULES.register("Cosine")
class Cosine:
    """A linear rise over `warmup_steps` (and `warmup_epochs`), then half a cosine from 1 to `floor` at the end."""

    def __init__(self, warmup_steps: int = 0, warmup_epochs: float = 0.0, floor: float = 0.0):
        self.warmup_steps, self.warmup_epochs, self.floor = warmup_steps, warmup_epochs, floor

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        warmup = self.warmup_steps + round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Put every group at its own first learning rate times `factor`; returns the first group's."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]


def state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, dict[str, Any]]:
    """{parameter's name: its moments}: independent of order and groups, whose settings come from the config alone."""
    names = {p: name for name, p in module.named_parameters()}
    return {
        names[p]: dict(optimizer.state[p])
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state
    }


def load_state(
    optimizer: torch.optim.Optimizer, module: nn.Module, saved: Mapping[str, Mapping[str, Any]]
):
    """Put back what `state` gave, tensors laid out as the parameters are; a parameter without moments starts anew."""
    names = {p: name for name, p in module.named_parameters()}
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    whole = optimizer.state_dict()
    whole["state"] = {i: dict(saved[name]) for i, name in enumerate(order) if name in saved}
    optimizer.load_state_dict(whole)
