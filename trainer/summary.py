"""What is about to be run, in words, before the first step."""

import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from trainer.batches import RoundRobinLoader
from trainer.distributed import world_size
from trainer.settings import TrainerSettings


def summary(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    feed: RoundRobinLoader,
    chosen: TrainerSettings,
    valid_loader: Any = None,
) -> list[str]:
    """Lines that say what each number of a run is: batch, samples, steps, frames, parameters, precision, memory."""
    lines = [
        f"processes: {world_size()} on {feed.device}, {chosen.parallel if world_size() > 1 else 'alone'}; precision "
        f"{chosen.precision}{', compiled' if chosen.compile else ''}"
        f"{', gradient checkpointing' if chosen.gradient_checkpointing else ''}; seed {chosen.seed}"
    ]
    for loader, samples in zip(feed.loaders, feed.samples, strict=True):
        lines.append(
            f"{title(loader)}: {len(loader.dataset)} clips, {frames(loader)}; global batch {samples} = "
            f"{world_size()} processes x {loader.batch_size} x {chosen.accumulate} micro-batches"
        )
    epoch = feed.rounds * sum(feed.samples)
    lines.append(
        f"an epoch: {feed.steps:,} steps, {epoch:,} samples; {chosen.epochs} epochs: "
        f"{feed.steps * chosen.epochs:,} steps, {epoch * chosen.epochs:,} samples"
    )
    memory = static_memory(objective, optimizer) / 2**30
    lines.append(
        f"parameters: {count(objective, True):,} trained, {count(objective, False):,} more without gradient; "
        f"memory: {memory:.2f} GiB before activations, of {available(feed.device)}"
    )
    if valid_loader is None:
        lines.append("validation: none")
    else:
        lines.append(
            f"validation: {title(valid_loader)}, {len(valid_loader.dataset)} clips, {frames(valid_loader)}"
        )
    return lines


def title(loader: Any) -> str:
    """The loader's data set in a word or three."""
    return getattr(loader.dataset, "name", type(loader.dataset).__name__)


def titles(loaders: Sequence[Any]) -> list[str]:
    """A short name for each loader, all different."""
    found: list[str] = []
    for number, loader in enumerate(loaders):
        name = type(loader.dataset).__name__
        found.append(name if name not in found else f"{name}_{number + 1}")
    return found


def frames(loader: Any) -> str:
    """How many frames of which size a clip has."""
    video = getattr(loader.dataset, "video", None)
    return (
        f"{video.num_frames} frames of {video.input_res} px"
        if video is not None
        else "frames as they come"
    )


def count(module: nn.Module, trained: bool) -> int:
    """Parameters with or without gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained)


def static_memory(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes on this process of parameters, gradients and moments (AdamW keeps two); activations come on top."""
    sizes = {True: 0, False: 0}
    for p in module.parameters():
        local = p.to_local() if hasattr(p, "to_local") else p
        sizes[p.requires_grad] += local.numel() * local.element_size()
    return sizes[True] * (2 + moments(optimizer)) + sizes[False]


def moments(optimizer: torch.optim.Optimizer) -> int:
    """Tensors that the optimizer keeps of each parameter."""
    group = optimizer.param_groups[0]
    return 2 if "betas" in group else int(bool(group.get("momentum")))


def available(device: torch.device) -> str:
    """The device's memory in words."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.total_memory / 2**30:.0f} GiB ({properties.name})"
    return "the host's"


def used(device: torch.device) -> float:
    """GiB: the GPU's peak so far, or this process's on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )
