"""One optimizer step, and everything that takes part in it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from parse_config import Config
from trainer import seeds
from trainer.accumulate import forward_backward
from trainer.batches import Batch
from trainer.distributed import rank, world_size, wrap
from trainer.loss_guard import LossGuard
from trainer.optim import CONSTANT, OPTIMIZERS, SCHEDULES, set_lr
from trainer.precision import Precision
from trainer.settings import has_captions, trainer_settings

ENCODERS = ("video_model", "text_model")


class OptimizerStep:
    """Takes optimizer steps on an objective, as a whole config says.

    Args:
        objective: the objective to train, not wrapped
        config: the whole config: its optimizer, lr_scheduler and trainer sections are used
        device: this process's device
        stage: number of the run's stage, a part of the seed

    Attributes:
        objective: the objective on its device, not wrapped
        wrapped: the same, its gradients averaged over processes
        loss_guard: holds the losses of the last step
    """

    def __init__(
        self, objective: Any, config: Config, device: torch.device, stage: int = 0
    ) -> None:
        settings = trainer_settings(config)
        self.seed = settings.seed
        self.stage = stage
        self.clip_grad_norm = settings.clip_grad_norm
        self.precision = Precision(settings.precision, device)
        self.loss_guard = LossGuard(device)
        self.schedule = SCHEDULES.build(config.get("lr_scheduler") or CONSTANT)
        if settings.gradient_checkpointing:
            objective.model.set_gradient_checkpointing(True)
        if settings.compile:
            compile_encoders(objective)
        self.objective = objective.to(device)
        has_footage_alone = any(
            not has_captions(block) for block in config.blocks("data_loader")
        )
        self.wrapped = wrap(
            self.objective,
            settings.parallel,
            has_footage_alone or self.objective.leaves_parameters_unused,
        )
        self.optimizer = OPTIMIZERS.build(
            config.require("optimizer"), module=self.objective
        )
        self.rehearsed = self.wrapped is self.objective or world_size() < 3

    def take(
        self,
        batches: Sequence[Batch],
        step: int,
        steps: int,
        steps_per_epoch: int,
        where: str,
    ) -> tuple[float, Tensor]:
        """Take the next optimizer step when `step` of `steps` are done.

        Args:
            batches: its micro-batches, on the device
            where: the step in words, for the message of NonFiniteLoss, which is raised before the update

        Returns the learning rate and the norm of the gradient before clipping.
        """
        self.objective.before_step(step, steps)
        if not self.rehearsed:
            self._rehearse(batches)
        self.seed_draws(step)
        lr = set_lr(self.optimizer, self.schedule(step, steps, steps_per_epoch))
        forward_backward(
            self.wrapped,
            batches,
            self.precision,
            before_backward=self.loss_guard.record_losses,
        )
        self.loss_guard.check_losses(where)
        norm = self._update(where)
        self.objective.after_step(step + 1, steps)
        return lr, norm

    def seed_draws(self, step: int) -> None:
        """Seed torch's generators for this process's random draws of the step after `step`."""
        seeds.seed(self.seed, self.stage, step, rank())

    def _rehearse(self, batches: Sequence[Batch]) -> None:
        """Run a forward and backward pass whose gradients are discarded.

        DDP arranges its buffers by the first backward pass, and the sum over three processes or more depends on the
        arrangement in its last bits: without this, a resumed run would begin with another arrangement.
        """
        forward_backward(self.wrapped, batches, self.precision)
        self.optimizer.zero_grad(set_to_none=True)
        self.rehearsed = True

    def _update(self, where: str) -> Tensor:
        """Clip the gradient, check its norm, update the parameters; returns the norm before clipping."""
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        parameters = [
            p for group in self.optimizer.param_groups for p in group["params"]
        ]
        parameters = [p for p in parameters if p.grad is not None]
        norm: Any = nn.utils.get_total_norm([p.grad for p in parameters])
        if self.clip_grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_grad_norm, norm)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()
        if not scaler.is_enabled():
            self.loss_guard.record_norm(norm, where)
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def compile_encoders(objective: nn.Module) -> None:
    """Every encoder (the teacher's too) through torch.compile, in place."""
    for path, module in objective.named_modules():
        if path.rpartition(".")[2] in ENCODERS:
            module.compile()
