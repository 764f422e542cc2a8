"""The device that a process computes on."""

import torch

from parse_config import UserError


def choose_device(
    name: str | torch.device | None = None, local_rank: int | None = None
) -> torch.device:
    """The torch device that is called `name`.

    Args:
        name: "cpu", "cuda", "cuda:1", ...; None is a GPU if there is one
        local_rank: number of the GPU, where several processes share a machine

    Raises UserError for a device that is absent.
    """
    if not name:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = _known_device(name)
    if device.type == "cpu":
        return device
    index = device.index if local_rank is None else local_rank
    index = index or 0
    device_count = torch.cuda.device_count()
    if index >= device_count:
        raise UserError(
            f"GPU {index} is asked for and {device_count} can be seen: start at most one process a GPU "
            "(torchrun --nproc_per_node), see CUDA_VISIBLE_DEVICES, or take --device cpu"
        )
    return torch.device("cuda", index)


def _known_device(name: str | torch.device) -> torch.device:
    """The CPU or a GPU; UserError for what torch, or this project, does not know."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: no such device; write cpu, cuda or cuda:N")
    return device
