"""Optimizers over parameter groups, and learning-rate schedules as pure functions of the step.

schedule(step, steps, steps_per_epoch) is the factor of the learning rate for the update after `step` finished ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from parse_config import ConfigError, Registry

OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("lr_scheduler")
Schedule = Callable[[int, int, int], float]
CONSTANT = {"type": "Constant", "args": {}}


def parameter_groups(module: nn.Module, decay: str = "all") -> list[dict[str, Any]]:
    """The trainable parameters of a module, for an optimizer.

    decay: which of them weight decay applies to: "all" (as in Frozen-in-Time codebases) or "matrices" (not biases,
        norms and single tokens)
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if decay not in ("all", "matrices"):
        raise ConfigError(
            f"optimizer.args.decay: {decay!r} is given; known: all, matrices"
        )
    if decay == "all":
        return [{"params": trained}]
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for p in trained:
        if p.ndim < 2 or p.numel() == max(p.shape):
            vectors.append(p)
        else:
            matrices.append(p)
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


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
    """torch's AdamW; the defaults of eps and weight decay are those of the Frozen-in-Time codebases.

    Args:
        lr: learning rate, which the schedule multiplies
        betas: decay rates of the two moments
        eps: added to the denominator
        weight_decay: weight decay
        decay: parameters that are decayed: "all" or "matrices" (not biases, norms and single tokens)
        fused: torch's fused implementation; null: on a GPU
    """
    return torch.optim.AdamW(
        parameter_groups(module, decay),
        lr,
        _beta_pair(betas),
        eps,
        weight_decay,
        fused=_choose_fused(module, fused),
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
    """torch's Adam.

    Args:
        lr: learning rate, which the schedule multiplies
        betas: decay rates of the two moments
        eps: added to the denominator
        weight_decay: L2 penalty
        decay: parameters that are decayed: "all" or "matrices" (not biases, norms and single tokens)
        fused: torch's fused implementation; null: on a GPU
    """
    return torch.optim.Adam(
        parameter_groups(module, decay),
        lr,
        _beta_pair(betas),
        eps,
        weight_decay,
        fused=_choose_fused(module, fused),
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
    """torch's SGD.

    Args:
        lr: learning rate, which the schedule multiplies
        momentum: momentum
        weight_decay: L2 penalty
        nesterov: Nesterov momentum
        decay: parameters that are decayed: "all" or "matrices" (not biases, norms and single tokens)
    """
    return torch.optim.SGD(
        parameter_groups(module, decay),
        lr,
        momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
    )


def _beta_pair(betas: Sequence[float]) -> tuple[float, float]:
    if len(betas) != 2:
        raise ConfigError(
            f"optimizer.args.betas: {list(betas)} is given, two numbers are needed"
        )
    return betas[0], betas[1]


def _choose_fused(module: nn.Module, fused: bool | None) -> bool:
    if fused is None:
        return all(p.is_cuda for p in module.parameters())
    return fused


@SCHEDULES.register("Constant")
class Constant:
    """A linear rise, then 1.

    Args:
        warmup_steps: steps of the rise
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        _require("warmup_steps", warmup_steps, 0)
        self.warmup_steps = warmup_steps

    def warmup(self, steps_per_epoch: int) -> int:
        """Steps of the rise."""
        return self.warmup_steps

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@SCHEDULES.register("MultiStep")
@SCHEDULES.register("MultiStepLR")
class MultiStep:
    """A linear rise to 1, then a fall by a factor at each milestone.

    Args:
        milestones: where it falls, in epochs from the start
        gamma: the factor
        warmup_steps: steps of the rise
    """

    def __init__(
        self, milestones: Sequence[float], gamma: float = 0.1, warmup_steps: int = 0
    ) -> None:
        _require("gamma", gamma, 0, 1)
        for earlier, later in pairwise([0, *milestones]):
            _require("milestones", later, earlier)
        self.milestones = tuple(milestones)
        self.gamma = gamma
        self.rise = Constant(warmup_steps)

    def warmup(self, steps_per_epoch: int) -> int:
        """Steps of the rise."""
        return self.rise.warmup_steps

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        passed = sum(
            step >= round(milestone * steps_per_epoch) for milestone in self.milestones
        )
        return self.rise(step, steps, steps_per_epoch) * self.gamma**passed


@SCHEDULES.register("Cosine")
class Cosine:
    """A linear rise to 1, then half a cosine down to `floor` at the last step.

    Args:
        warmup_steps: steps of the rise
        warmup_epochs: epochs of the rise, in addition to warmup_steps
        floor: the factor at the end
    """

    def __init__(
        self, warmup_steps: int = 0, warmup_epochs: float = 0.0, floor: float = 0.0
    ) -> None:
        _require("warmup_steps", warmup_steps, 0)
        _require("warmup_epochs", warmup_epochs, 0)
        _require("floor", floor, 0, 1)
        self.warmup_steps = warmup_steps
        self.warmup_epochs = warmup_epochs
        self.floor = floor

    def warmup(self, steps_per_epoch: int) -> int:
        """Steps of the rise."""
        return self.warmup_steps + round(self.warmup_epochs * steps_per_epoch)

    def __call__(self, step: int, steps: int, steps_per_epoch: int) -> float:
        warmup = self.warmup(steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        fraction = min(1.0, (step - warmup) / max(1, steps - warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fraction))


def _require(name: str, value: float, least: float, most: float = math.inf) -> None:
    """ConfigError for a value of a schedule outside [least, most]."""
    if not least <= value <= most:
        at_most = "" if most == math.inf else f" and {most:g} at most"
        raise ConfigError(
            f"lr_scheduler.args.{name}: {value:g} is given, {least:g} at least{at_most} is needed"
        )


def require_warmup_within(schedule: Any, steps: int, steps_per_epoch: int) -> None:
    """ConfigError for a warm-up that the run ends in: the learning rate would never be the one that was given."""
    warmup = schedule.warmup(steps_per_epoch)
    if warmup >= steps:
        raise ConfigError(
            f"lr_scheduler.args: the warm-up has {warmup} steps, and the whole run {steps}; train longer, or give "
            "lr_scheduler.type=Constant for a short trial"
        )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's learning rate to its initial one times `factor`; returns the first group's."""
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]


def state(
    optimizer: torch.optim.Optimizer, module: nn.Module
) -> dict[str, dict[str, Any]]:
    """{parameter's name: its moments}, whatever the order and groups, whose settings come from the config alone."""
    names = {p: name for name, p in module.named_parameters()}
    return {
        names[p]: dict(optimizer.state[p])
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state
    }


def load_state(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    saved: Mapping[str, Mapping[str, Any]],
) -> None:
    """Load what `state` returned, tensors sharded as the parameters are.

    A parameter without saved moments starts without them.
    """
    names = {p: name for name, p in module.named_parameters()}
    ordered_names = [
        names[p] for group in optimizer.param_groups for p in group["params"]
    ]
    state_dict = optimizer.state_dict()
    state_dict["state"] = {
        i: dict(saved[name]) for i, name in enumerate(ordered_names) if name in saved
    }
    optimizer.load_state_dict(state_dict)
