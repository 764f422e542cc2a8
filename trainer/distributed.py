"""Communication between processes; in a single process each function does nothing.

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
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from parse_config import ConfigError, UserError
from trainer.device import choose_device

log = logging.getLogger(__name__)

T = TypeVar("T")
_gathers = True  # see `without_gathering`

# Keeps DDP from broadcasting buffers at each forward pass; torch is changing the argument's name.
NO_BUFFER_BROADCAST: dict[str, Any] = {"broadcast_buffers": False}
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
    NO_BUFFER_BROADCAST = {"forward_sync_buffers": False}


def start(device: str | torch.device | None = None) -> torch.device:
    """Join the process group, if there are several processes, and return this process's device.

    Args:
        device: "cpu", "cuda", "cuda:1", ...; None is a GPU if there is one. With several processes "cuda" is the GPU
            that LOCAL_RANK numbers.

    Raises UserError for a device that is absent and for an incomplete environment of torchrun.
    """
    num_processes = _read_environment("WORLD_SIZE", 1)
    local_rank = _read_environment("LOCAL_RANK", 0) if num_processes > 1 else None
    device = choose_device(device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if num_processes > 1 and not dist.is_initialized():
        required = ("RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in required if name not in os.environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE is {num_processes} and {', '.join(missing)} is not set: start it with torchrun "
                "--nproc_per_node=N, or unset WORLD_SIZE"
            )
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=30))
    return device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has called it."""
    if world_size() > 1:
        dist.barrier()


def main_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: only process 0 runs `function`; on the others it returns None at once."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if rank() == 0 else None

    return run


def run_on_main(function: Callable[[], T]) -> T:
    """Run `function` on process 0 and return its result on every process; every process must call it.

    A ValueError or OSError that it raises there is raised on every process.
    """
    result: T | None = None
    error: Exception | None = None
    if rank() == 0:
        try:
            result = function()
        except (ValueError, OSError) as main_error:
            error = main_error
    result, error = gather_objects((result, error))[0]
    if error is not None:
        raise error
    return cast(T, result)


def gather(x: Tensor) -> Tensor:
    """(n, ...) on each process -> (world_size * n, ...) on all, in the order of ranks; n must be equal on all.

    Exact: the gradient that flows back is the sum over processes of the gradients that their losses have with respect
    to these rows. When the processes' parameter gradients are averaged, as DDP and FSDP2 do, the result is the
    gradient of one process that holds the whole batch. (The local slice without the sum is that gradient divided by
    the number of processes.) Within `without_gathering` the rows come back as they are.
    """
    if world_size() == 1 or not _gathers:
        return x
    return _Gather.apply(x)


@contextmanager
def without_gathering() -> Iterator[None]:
    """Within the block `gather` returns this process's own rows: losses are of its batch alone."""
    global _gathers
    _gathers = False
    try:
        yield
    finally:
        _gathers = True


def gather_objects(local: Any) -> list[Any]:
    """The picklable object of each process, as a list on all, in the order of ranks."""
    objects = [local] * world_size()
    if world_size() > 1:
        dist.all_gather_object(objects, local)
    return objects


def reduce_max(number: int) -> int:
    """The largest of the processes' numbers, on all."""
    if world_size() == 1:
        return number
    reduced = torch.tensor(
        number
    )  # on the CPU, so that it does not wait for a GPU's queue
    dist.all_reduce(reduced, dist.ReduceOp.MAX)
    return int(reduced)


def wrap(
    module: nn.Module, parallel: str = "ddp", unused_parameters: bool = False
) -> nn.Module:
    """The module whose gradients are averaged over processes; call it in place of `module`.

    An objective is wrapped when its teacher exists and it is on its device; the optimizer is made afterwards. In a
    single process it is returned as it is.

    Args:
        parallel: "ddp" puts a wrapper around the module (`unwrap` returns the module), "fsdp2" shards it in place,
            one unit per transformer block
        unused_parameters: some steps may give some parameters no gradient: DDP then looks for them in each step
    """
    if parallel not in WRAPPERS:
        raise ConfigError(
            f"trainer.parallel: {parallel!r} is given; known: {', '.join(WRAPPERS)}"
        )
    if world_size() == 1:
        return module
    return WRAPPERS[parallel](module, unused_parameters)


def unwrap(module: nn.Module) -> nn.Module:
    """The module that `wrap` was called with."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def without_sync(module: nn.Module, active: bool = True) -> AbstractContextManager:
    """Within the block DDP keeps gradients on each process; the next backward pass outside it averages them all.

    FSDP2 averages at each backward pass and accumulates shards: whole gradients would not fit where it is needed.
    """
    if active and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Within the block a module sharded by FSDP2 keeps its whole parameters.

    Processes may then run it unequally often; it must have run once before. Does nothing for another module.
    """
    sharded: list[Any] = [
        submodule
        for submodule in module.modules()
        if hasattr(submodule, "set_reshard_after_forward")
    ]
    for submodule in sharded:
        submodule.set_reshard_after_forward(False, recurse=False)
        submodule.unshard()
    try:
        yield
    finally:
        for number, submodule in enumerate(sharded):
            submodule.set_reshard_after_forward(number > 0, recurse=False)
            submodule.reshard()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        rows = x.new_empty(world_size(), *x.shape)
        dist.all_gather(list(rows), x.contiguous())
        return rows.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def _wrap_ddp(module: nn.Module, unused_parameters: bool) -> nn.Module:
    # static_graph stays off: it and no_sync, which GradCache needs, exclude each other in the first step.
    return DistributedDataParallel(
        module,
        gradient_as_bucket_view=True,
        find_unused_parameters=unused_parameters,
        **NO_BUFFER_BROADCAST,
    )


def _shard_fsdp2(module: nn.Module, unused_parameters: bool) -> nn.Module:
    from torch.distributed.fsdp import (
        fully_shard,
    )  # takes a second to import and is rarely needed

    # nothing writes in place into an encoder's output
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
    block_lists = [
        submodule
        for submodule in module.modules()
        if isinstance(submodule, nn.ModuleList)
    ]
    blocks = [block for block_list in block_lists for block in block_list]
    encoders = [encoder for child in module.children() for encoder in child.children()]
    for unit in (*blocks, *encoders):
        if next(unit.parameters(), None) is not None:
            fully_shard(unit)
    fully_shard(module)
    return module


WRAPPERS = {"ddp": _wrap_ddp, "fsdp2": _shard_fsdp2}


def _read_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise UserError(
            f"the environment variable {name} is {text!r}: start it with torchrun, or unset {name}"
        )
    return int(text)
