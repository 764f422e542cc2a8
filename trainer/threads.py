"""How many threads compute on the CPU: where there are more than CPUs, they wait for each other."""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

log = logging.getLogger(__name__)


def limit_threads(cpus: int, num_workers: int) -> None:
    """Have torch compute with `choose_threads` threads, never more than it would take itself, and log how many.

    Args:
        cpus: CPUs that this process may use (`data_loader.cpus`)
        num_workers: processes that read data for this one
    """
    if os.environ.get("OMP_NUM_THREADS"):
        log.info("CPU threads: %d, by OMP_NUM_THREADS", torch.get_num_threads())
        return
    threads = min(_threads_of_torch(), choose_threads(cpus, num_workers))
    torch.set_num_threads(threads)
    log.info(
        "CPU threads: %d, of %d CPUs for this process and its %d data workers; OMP_NUM_THREADS sets another number",
        threads,
        cpus,
        num_workers,
    )


@functools.cache
def _threads_of_torch() -> int:
    """What torch takes itself, before this module changes it."""
    return torch.get_num_threads()


def choose_threads(cpus: int, num_workers: int) -> int:
    """The CPUs that the data workers leave, but half of them at least, as workers wait where training is slow."""
    return max(1, cpus - num_workers, cpus // 2)


def count_workers(loaders: Sequence[Any]) -> int:
    """Data workers of all these loaders."""
    return sum(getattr(loader, "num_workers", 0) for loader in loaders)
