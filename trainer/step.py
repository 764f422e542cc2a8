"""One optimizer step, and everything that takes part in it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer import seeds
from trainer.accumulate import forward_backward
from trainer.batches import Batches
from trainer.distributed import rank, world_size, wrap
from trainer.loss_guard import LossGuard
from trainer.optim import CONSTANT, OPTIMIZERS, SCHEDULES, set_lr
from trainer.precision import Precision
from trainer.settings import trainer_settings


class Step:
    """Objective, optimizer, schedule and precision as a whole config says, on `device`.

    `objective` is the unwrapped one, on this process's device; `number` is the stage's, a part of the seed.
    """

    def __init__(
        self, objective: nn.Module, config: Mapping[str, Any], device: torch.device, number: int = 0
    ):
        chosen = trainer_settings(config)
        self.seed, self.number, self.clip = chosen.seed, number, chosen.clip_grad_norm
        self.precision, self.watch = Precision(chosen.precision, device), LossGuard(device)
        self.schedule = SCHEDULES.build(config.get("lr_scheduler") or CONSTANT)
        self.objective = prepare(objective, chosen.gradient_checkpointing, chosen.compile).to(
            device
        )
        self.wrapped = wrap(self.objective, chosen.parallel)
        self.optimizer = OPTIMIZERS.build(config.require("optimizer"), module=self.objective)
        self.rehearsed = self.wrapped is self.objective or world_size() < 3

    def take(
        self, batches: Batches, step: int, steps: int, steps_per_epoch: int, where: str
    ) -> tuple[float, Tensor]:
        """The step after `step` of `steps` finished ones -> (learning rate, norm of the gradient before clipping).

        The losses stand in `watch`. Raises NonFiniteLoss, which names `where`, before the update.
        """
        if not self.rehearsed:
            self._rehearse(batches)
        self.draw(step)
        lr = set_lr(self.optimizer, self.schedule(step, steps, steps_per_epoch))
        forward_backward(self.wrapped, batches, self.precision, self.watch.see)
        self.watch.check(where)
        norm = self._update(where)
        self.objective.after_step(step + 1, steps)
        return lr, norm

    def draw(self, step: int):
        """Put torch's generators where this process's draws of the step after `step` begin."""
        seeds.seed(self.seed, self.number, step, rank())

    def _rehearse(self, batches: Batches):
        """A pass that is thrown away. DDP arranges its buffers by the first backward pass, and the sum over three
        processes or more depends on the arrangement in its last bits: a resumed run must not begin with another."""
        forward_backward(self.wrapped, batches, self.precision)
        self.optimizer.zero_grad(set_to_none=True)
        self.rehearsed = True

    def _update(self, where: str) -> Tensor:
        """Clip, look, update."""
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        trained = [
            p
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = nn.utils.get_total_norm([p.grad for p in trained])
        if self.clip:
            nn.utils.clip_grads_with_norm_(trained, self.clip, norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not scaler.is_enabled():
            self.watch.norm(norm, where)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def prepare(objective: nn.Module, checkpointing: bool, compiled: bool) -> nn.Module:
    """Gradient checkpointing in the model; every tower (the teacher's too) through torch.compile, in place."""
    if checkpointing:
        objective.model.set_gradient_checkpointing(True)
    for path, part in objective.named_modules() if compiled else ():
        if path.rpartition(".")[2] in ("video_model", "text_model"):
            part.compile()
    return objective
