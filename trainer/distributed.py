"""All that knows of other processes; each function is a no-op alone.

`torchrun` sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; without WORLD_SIZE (or with 1) there is one
process and no group.
"""

import functools
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from parse_config import ConfigError, UserError
from trainer.device import choose_device

log = logging.getLogger(__name__)

# That no forward pass sends buffers around; torch is changing the name.
BUFFERS = "broadcast_buffers"
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
    BUFFERS = "forward_sync_buffers"


def start(device: str | torch.device | None = None) -> torch.device:
    """Join the other processes, if there are any -> this process's device.

    `device`: "cpu", "cuda", "cuda:1", ...; None is a GPU if there is one. With several processes "cuda" is the GPU
    that LOCAL_RANK numbers. Raises UserError for a device that is absent and for half of torchrun's environment.
    """
    processes = _environment("WORLD_SIZE", 1)
    device = choose_device(device, _environment("LOCAL_RANK", 0) if processes > 1 else None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if processes > 1 and not dist.is_initialized():
        missing = [
            name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
        ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {processes} and {', '.join(missing)} is not set: start it with torchrun "
                "--nproc_per_node=N, or unset WORLD_SIZE"
            )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
    return device


def stop():
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier():
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def main_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: only process 0 runs `function`; the others get None at once."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        return function(*args, **kwargs) if rank() == 0 else None

    return run


def gather(x: Tensor) -> Tensor:
    """(n, ...) on each process -> (world * n, ...) on all, in the order of ranks; n must be the same everywhere.

    Exact: the gradient that flows back is the sum over processes of what each one's loss asks of these rows. When
    the processes' parameter gradients are averaged, as DDP and FSDP2 do, the outcome is the gradient of one process
    that holds the whole batch. (A slice alone, without the sum, is that gradient divided by the number of processes.)
    """
    return _Gather.apply(x) if world_size() > 1 else x


def gather_objects(thing: Any) -> list[Any]:
    """Any picklable thing of each process -> the list of them on all, in the order of ranks."""
    things = [thing] * world_size()
    if world_size() > 1:
        dist.all_gather_object(things, thing)
    return things


def smallest(number: int) -> int:
    """The smallest of the processes' numbers, on all."""
    return _agreed(number, dist.ReduceOp.MIN)


def largest(number: int) -> int:
    """The largest of the processes' numbers, on all."""
    return _agreed(number, dist.ReduceOp.MAX)


def wrap(module: nn.Module, how: str = "ddp") -> nn.Module:
    """The module whose gradients are averaged over processes; call it in place of `module`. Alone: `module` itself.

    "ddp" copies the module (`unwrap` gives it back), "fsdp2" shards it in place, one unit a transformer block. An
    objective comes here when its teacher exists and it is on its device; the optimizer is made afterwards.
    """
    if how not in WRAPPERS:
        raise ConfigError(f"trainer.parallel: {how!r} is given; known: {', '.join(WRAPPERS)}")
    return WRAPPERS[how](module) if world_size() > 1 else module


def unwrap(module: nn.Module) -> nn.Module:
    """The module that `wrap` was given."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def without_sync(module: nn.Module, active: bool = True) -> AbstractContextManager:
    """Within the block DDP keeps gradients on each process; the next backward pass outside it averages them all.

    FSDP2 averages at each backward pass and adds up shards: whole gradients would not fit where it is needed.
    """
    return (
        module.no_sync()
        if active and isinstance(module, DistributedDataParallel)
        else nullcontext()
    )


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Within the block a module sharded by FSDP2 keeps its parameters whole, so that processes may run it unequally
    often; it must have run once before. Else nothing."""
    parts = [part for part in module.modules() if hasattr(part, "set_reshard_after_forward")]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for number, part in enumerate(parts):
            part.set_reshard_after_forward(number > 0, recurse=False)
            part.reshard()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        rows = x.new_empty(world_size(), *x.shape)
        dist.all_gather(list(rows), x.contiguous())
        return rows.flatten(0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def _agreed(number: int, how: Any) -> int:
    if world_size() == 1:
        return number
    agreed = torch.tensor(number)  # on the CPU, beside what a GPU does
    dist.all_reduce(agreed, how)
    return int(agreed)


def _ddp(module: nn.Module) -> nn.Module:
    # static_graph stays off: it and no_sync, which GradCache needs, exclude each other in the first step.
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **{BUFFERS: False})


def _fsdp2(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard  # takes a second to import and is rarely needed

    warnings.filterwarnings(
        "ignore", "FSDP2-wrapped module .* returned a view"
    )  # nobody writes into a tower's output
    blocks = [
        block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part
    ]
    towers = [tower for part in module.children() for tower in part.children()]
    for part in (*blocks, *towers):
        if next(part.parameters(), None) is not None:
            fully_shard(part)
    return fully_shard(module)


WRAPPERS = {"ddp": _ddp, "fsdp2": _fsdp2}


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise UserError(
            f"the environment variable {name} is {text!r}: start it with torchrun, or unset {name}"
        )
    return int(text)
