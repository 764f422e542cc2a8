"""Which device a process computes on."""

import torch

from parse_config import UserError


def choose_device(
    wanted: str | torch.device | None = None, local_rank: int | None = None
) -> torch.device:
    """ "cpu", "cuda", "cuda:1", ... or None (a GPU if there is one) -> the device; `local_rank` numbers the GPU where
    several processes share a machine. Raises UserError for a device that is absent."""
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UserError(f"--device {wanted}: no such device; write cpu, cuda or cuda:N") from None
    if device.type != "cuda":
        return device
    index = device.index if local_rank is None else local_rank
    there = torch.cuda.device_count()
    if (index or 0) >= there:
        raise UserError(
            f"GPU {index or 0} is asked for and {there} can be seen: start at most one process a GPU "
            "(torchrun --nproc_per_node), see CUDA_VISIBLE_DEVICES, or take --device cpu"
        )
    return torch.device("cuda", index or 0)
