"""Several gloo processes on this machine for tests, forked from one that has imported all that they need."""

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

PRELOADED = [
    "tests.helpers.warm",
    "tests.helpers.processes",
    "torch.distributed.fsdp",
    "trainer.accumulate",
    "model.miles",
    "transformers.models.distilbert.modeling_distilbert",
    "trainer.objectives.miles_pretraining",
]


def run(
    work: Callable[..., Any], world: int, folder: Path, args: Sequence[Any] = ()
) -> list[Any]:
    """The results of `work(*args)` on each of `world` processes that have joined by `trainer.distributed.start`.

    `work` is a function of a module; its results go through files in `folder`. Raises what a process raised.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(
        _enter,
        (world, port, str(folder), work, args),
        nprocs=world,
        start_method="forkserver",
    )
    return [
        torch.load(folder / f"rank{rank}.pt", weights_only=False)
        for rank in range(world)
    ]


def _enter(
    rank: int,
    world: int,
    port: int,
    folder: str,
    work: Callable[..., Any],
    args: Sequence[Any],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    from trainer import distributed

    distributed.start("cpu")
    try:
        torch.save(work(*args), f"{folder}/rank{rank}.pt")
        distributed.barrier()  # no process leaves while another still communicates
    finally:
        distributed.stop()
