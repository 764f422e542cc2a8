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


def forward_backward(
    objective: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    precision: Precision,
    see: Callable[[dict[str, Tensor]], None] = lambda parts: None,
) -> dict[str, Tensor]:
    """Add the gradient of `objective` on all of `batches` together to the parameters' .grad; -> its detached parts.

    `objective` is an objective or what `distributed.wrap` made of it, `batches` the micro-batches of one step (one is
    plain forward and backward). With fp16 the gradients are scaled: `precision.scaler` unscales and steps. Every
    process must give as many rows in all. The objective's `losses` may hold no parameters. `see` is called with the
    parts before the backward pass is queued.
    """
    if len(batches) > 1:
        return _cached(objective, batches, precision, see)
    with precision.autocast():
        parts = objective(batches[0])
    see(parts)
    precision.scaler.scale(parts["loss"]).backward()
    return {name: part.detach() for name, part in parts.items()}


def _cached(
    objective: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    precision: Precision,
    see: Callable[[dict[str, Tensor]], None],
) -> dict[str, Tensor]:
    draws, caches = [], []
    for batch in batches:
        draws.append(_random_state(precision.device))
        with torch.no_grad(), precision.autocast():
            caches.append(objective(batch, dict))
    outputs = {
        name: torch.cat([cache[name] for cache in caches]).requires_grad_() for name in caches[0]
    }
    with precision.autocast():
        parts = unwrap(objective).losses(outputs)
    see(parts)
    precision.scaler.scale(parts["loss"]).backward()
    rows = {name: [len(cache[name]) for cache in caches] for name in outputs}
    grads = {name: output.grad.split(rows[name]) for name, output in outputs.items()}
    for i, batch in enumerate(batches):
        _set_random_state(draws[i], precision.device)
        with without_sync(objective, i < len(batches) - 1):
            with precision.autocast():
                again = objective(batch, dict)
            learning = [
                name for name, output in again.items() if output.requires_grad
            ]  # not that of a frozen tower
            torch.autograd.backward(
                [again[name] for name in learning], [grads[name][i] for name in learning]
            )
    return {name: part.detach() for name, part in parts.items()}


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(
        device
    ) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
