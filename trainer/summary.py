"""What is about to be trained, in words, before the first step."""

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from model.metric import chance
from trainer.batches import RoundRobinLoader
from trainer.distributed import world_size
from trainer.evaluation.table import SMALL_GALLERY, few_queries
from trainer.settings import TrainerSettings


def summary(
    objective: Any,
    optimizer: torch.optim.Optimizer,
    batches: RoundRobinLoader,
    settings: TrainerSettings,
    valid_loader: Any = None,
) -> list[str]:
    """Lines with the numbers of a run: batch, samples, steps, frames, parameters, precision, memory."""
    parallel = settings.parallel if world_size() > 1 else "alone"
    run_line = f"processes: {world_size()} on {batches.device}, {parallel}; precision {settings.precision}"
    if settings.compile:
        run_line += ", compiled"
    if settings.gradient_checkpointing:
        run_line += ", gradient checkpointing"
    lines = [f"{run_line}; seed {settings.seed}"]
    for loader, samples in zip(batches.loaders, batches.samples_per_step, strict=True):
        lines.append(
            f"{describe_loader(loader)}; global batch {samples} = "
            f"{world_size()} processes x {loader.batch_size} x {settings.accumulate} micro-batches"
        )
    steps = batches.steps_per_epoch
    samples = batches.rounds * sum(batches.samples_per_step)
    lines.append(
        f"an epoch: {steps:,} steps, {samples:,} samples; {settings.epochs} epochs: "
        f"{steps * settings.epochs:,} steps, {samples * settings.epochs:,} samples"
    )
    trained = count_parameters(objective, requires_grad=True)
    frozen = count_parameters(objective, requires_grad=False)
    memory = static_memory(objective, optimizer) / 2**30
    lines.append(
        f"parameters: {trained:,} trained, {frozen:,} more without gradient; "
        f"memory: {memory:.2f} GiB before activations, of {device_memory(batches.device)}"
    )
    if any(
        getattr(loader.dataset, "with_captions", True) for loader in batches.loaders
    ):
        lines.append(passes_line(objective))
    if valid_loader is None:
        lines.append("validation: none")
    else:
        lines.append(f"validation: {describe_loader(valid_loader)}")
        lines += validation_gallery(valid_loader.dataset)
    return lines


def validation_gallery(dataset: Any) -> list[str]:
    """What guessing gets among classes or in a small gallery of captions, and a warning for few queries."""
    classes = getattr(dataset, "classes", ())
    if classes:
        guessed = chance(dataset.labels, len(classes))["t2v"]
        lines = [f"chance among {len(classes)} classes: {_recalls(guessed)}"]
        return lines + few_queries({"v2t": len(dataset)})
    owner_C = getattr(dataset, "owner", None)
    if owner_C is None or not len(owner_C):
        return []
    lines = []
    if len(dataset) < SMALL_GALLERY:
        guessed = chance(owner_C, len(dataset))["t2v"]
        lines.append(f"chance in this gallery, text to video: {_recalls(guessed)}")
    return lines + few_queries({"t2v": len(owner_C), "v2t": len(owner_C.unique())})


def _recalls(numbers: Mapping[str, float]) -> str:
    names = ("R1", "R5", "R10", "MedR")
    return ", ".join(f"{name} {numbers[name]:.1f}" for name in names)


def passes_line(objective: Any) -> str:
    """What a step costs."""
    return (
        f"the video encoder makes {objective.passes_per_clip():.2f} forward and backward passes a captioned clip, "
        "averaged over the run"
    )


def describe_loader(loader: Any) -> str:
    """Name and size of the loader's data set, number and size of the frames."""
    dataset = loader.dataset
    name = getattr(dataset, "name", type(dataset).__name__)
    video = getattr(dataset, "video", None)
    frames = "frames as they come"
    if video is not None:
        frames = f"{video.num_frames} frames of {video.input_res} px"
    captions = "" if getattr(dataset, "with_captions", True) else ", without captions"
    return f"{name}: {len(dataset)} clips, {frames}{captions}"


def loader_names(loaders: Sequence[Any]) -> list[str]:
    """A short name for each loader, all different."""
    names: list[str] = []
    for number, loader in enumerate(loaders, 1):
        name = type(loader.dataset).__name__
        names.append(f"{name}_{number}" if name in names else name)
    return names


def count_parameters(module: nn.Module, requires_grad: bool) -> int:
    """Number of parameters with or without gradient."""
    return sum(
        p.numel() for p in module.parameters() if p.requires_grad == requires_grad
    )


def static_memory(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, gradients and moments on this process; activations come on top."""
    copies_of_trained = 2 + moments_per_parameter(optimizer)
    total = 0
    for p in module.parameters():
        local: Any = p.to_local() if hasattr(p, "to_local") else p
        size = local.numel() * local.element_size()
        total += size * copies_of_trained if p.requires_grad else size
    return total


def moments_per_parameter(optimizer: torch.optim.Optimizer) -> int:
    """Tensors that the optimizer keeps per parameter: 2 for AdamW and Adam, 1 for SGD with momentum."""
    group = optimizer.param_groups[0]
    if "betas" in group:
        return 2
    return 1 if group.get("momentum") else 0


def device_memory(device: torch.device) -> str:
    """The device's memory, in words."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.total_memory / 2**30:.0f} GiB ({properties.name})"
    return "the host's"


def memory_used(device: torch.device) -> float:
    """Peak memory so far in GiB: of the GPU, or of this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    units_per_gib = (
        2**30 if sys.platform == "darwin" else 2**20
    )  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units_per_gib
