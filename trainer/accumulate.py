"""k micro-batches that give the gradient of one big batch, negatives included: GradCache (arXiv 2101.06983).

A contrastive loss compares every clip with every caption, so gradients of micro-batches cannot simply be added up.
Instead: (1) encode every micro-batch without a graph and keep the embeddings, (2) take the loss of all embeddings
together and its gradient with respect to them, (3) encode each micro-batch again, this time with a graph, and send
that gradient back. Activations of one micro-batch at a time are in memory; the price is one more forward pass.

The random numbers of (1) are replayed in (3), so that masks and dropout are the same. "Equal to the big batch" means:
to `losses(cat of encode(micro-batch))` with the whole graph kept, each micro-batch drawing its masks and dropout in
turn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.distributed import unwrap, without_sync
from trainer.precision import Precision

Losses = dict[str, Tensor]


def forward_backward(
    objective: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    precision: Precision,
    before_backward: Callable[[Losses], None] | None = None,
) -> Losses:
    """Add the gradient of `objective` on all of `batches` together to the parameters' .grad.

    Args:
        objective: an objective, or what `distributed.wrap` made of it; its `losses` may hold no parameters
        batches: the micro-batches of one step; every process must have as many rows in all
        precision: autocast, and for fp16 the scaler: gradients are scaled, `precision.scaler` unscales and steps
        before_backward: called with the losses before the backward pass is queued

    Returns the objective's losses, detached.
    """
    if len(batches) > 1:
        return _forward_backward_cached(objective, batches, precision, before_backward)
    with precision.autocast():
        losses = objective(batches[0])
    if before_backward:
        before_backward(losses)
    precision.scaler.scale(losses["loss"]).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def _forward_backward_cached(
    objective: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    precision: Precision,
    before_backward: Callable[[Losses], None] | None,
) -> Losses:
    """The three steps of GradCache."""
    random_states = []
    cached_outputs = []
    for batch in batches:
        random_states.append(_random_state(precision.device))
        with torch.no_grad(), precision.autocast():
            cached_outputs.append(objective(batch, encode_only=True))

    outputs = {
        name: torch.cat([cached[name] for cached in cached_outputs]).requires_grad_()
        for name in cached_outputs[0]
    }
    unwrapped: Any = unwrap(objective)
    with precision.autocast():
        losses = unwrapped.losses(outputs)
    if before_backward:
        before_backward(losses)
    precision.scaler.scale(losses["loss"]).backward()

    gradients = {}
    for name, output in outputs.items():
        if output.grad is not None:  # the loss depends on it
            gradients[name] = output.grad.split(
                [len(cached[name]) for cached in cached_outputs]
            )
    for i, batch in enumerate(batches):
        _set_random_state(random_states[i], precision.device)
        with without_sync(objective, i < len(batches) - 1):
            with precision.autocast():
                outputs = objective(batch, encode_only=True)
            trained = [name for name in gradients if outputs[name].requires_grad]
            torch.autograd.backward(
                [outputs[name] for name in trained],
                [gradients[name][i] for name in trained],
            )
    return {name: loss.detach() for name, loss in losses.items()}


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The states of the CPU's generator and, on a GPU, of the GPU's."""
    if device.type == "cuda":
        return torch.get_rng_state(), torch.cuda.get_rng_state(device)
    return torch.get_rng_state(), None


def _set_random_state(
    state: tuple[Tensor, Tensor | None], device: torch.device
) -> None:
    cpu_state, cuda_state = state
    torch.set_rng_state(cpu_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state, device)
