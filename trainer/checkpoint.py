"""Checkpoints: what is in one, written so that the one before is never lost, and put back exactly.

A file is plain data, read without running anything in it:
    arch, state_dict   the model, by the released names (whatever wraps, shards or compiles it)
    objective          what the objective owns beside the model: teacher, mask token
    optimizer          {parameter's name: its moments}; learning rates and the like come from the config
    scaler             of fp16
    epoch, step        finished epochs and optimizer steps of this stage
    trainer            where within the epoch (see trainer/progress.py)
    monitor_best       the best value so far, None without
    config             as resolved
"""

import contextlib
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from model.weights import read_checkpoint
from parse_config import UserError
from trainer import optim
from trainer.distributed import rank

log = logging.getLogger(__name__)

MODEL = "model."
LATEST = "checkpoint-latest.pth"
BEST = "model_best.pth"
NEEDED = ("state_dict", "objective", "optimizer", "scaler", "epoch", "step", "trainer", "config")


def collect(objective: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any) -> dict[str, Any]:
    """The tensors of a run on the CPU, whole. Every process must call it; those but process 0 get empty shells."""
    names = objective.state_dict()
    whole = {name: _whole(tensor) for name, tensor in names.items()}
    moments = {
        name: {key: _whole(value) for key, value in entry.items()}
        for name, entry in optim.state(optimizer, objective).items()
    }
    return {
        "state_dict": {
            name[len(MODEL) :]: tensor for name, tensor in whole.items() if name.startswith(MODEL)
        },
        "objective": {name: tensor for name, tensor in whole.items() if not name.startswith(MODEL)},
        "optimizer": moments,
        "scaler": scaler.state_dict(),
    }


def restore(
    state: Mapping[str, Any],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    where: Path,
):
    """Put back what `collect` gave. Raises UserError, one line, if it does not fit; nothing is loaded then."""
    own = objective.state_dict()
    saved = {
        **{MODEL + name: tensor for name, tensor in state["state_dict"].items()},
        **state["objective"],
    }
    _check(saved, own, where)
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    moments = state["optimizer"]
    if not set(moments) <= trained:
        raise UserError(
            f"{where}: its optimizer holds parameters that this config does not train "
            f"({_few(set(moments) - trained)}); start from its weights with arch.args.load_checkpoint"
        )
    objective.load_state_dict({name: _like(tensor, own[name]) for name, tensor in saved.items()})
    optim.load_state(
        optimizer,
        objective,
        {
            name: {key: _like(value, own[name]) for key, value in entry.items()}
            for name, entry in moments.items()
        },
    )
    if state["scaler"]:
        scaler.load_state_dict(dict(state["scaler"]))


def carry(state: Mapping[str, Any], objective: nn.Module):
    """From one stage into the next: what the objective itself has learned by gradient (the mask token) where it fits.

    The model comes through its own loading, and a teacher starts as a copy of the model, as at every start.
    """
    for name, parameter in objective.named_parameters():
        found = state["objective"].get(name)
        if found is not None and parameter.requires_grad and found.shape == parameter.shape:
            parameter.data.copy_(found)
            log.info("%s is taken over from the stage before", name)


def write(path: Path, state: Mapping[str, Any], also: Sequence[Path] = ()):
    """Write `state` as `path` and as each of `also`, at once or not at all: beside, then renamed; `path` comes last.

    Raises UserError if it cannot be written (a full disk); what stood there stands there still.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            _save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for other in also:
            _link(part, other)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}); what was saved before is whole: "
            "make room and go on with -r auto"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that `write` made, to go on from. Raises UserError or FileNotFoundError."""
    state = read_checkpoint(path)
    missing = [name for name in NEEDED if name not in state]
    if missing:
        raise UserError(
            f"{path}: training cannot go on from it, it holds no {missing[0]}; to start from its weights "
            f"set arch.args.load_checkpoint={path}"
        )
    return state


def complete(path: Path) -> bool:
    """Whether `path` is a whole file: its table of contents, which is written last, is there."""
    return path.is_file() and zipfile.is_zipfile(path)


def prune(folder: Path, keep: int):
    """Remove all but the newest `keep` checkpoint-epochN.pth; 0 keeps all."""
    found = sorted(
        folder.glob("checkpoint-epoch*.pth"), key=lambda path: int(path.stem.rpartition("epoch")[2])
    )
    for path in found[:-keep] if keep else []:
        path.unlink(missing_ok=True)


def _whole(value: Any) -> Any:
    """A tensor on the CPU, gathered if it is sharded; on processes but 0 only the gathering happens."""
    if not isinstance(value, Tensor):
        return value
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().cpu() if rank() == 0 else None


def _like(value: Any, own: Tensor) -> Any:
    """A tensor laid out as `own` is, if it has its shape; else as it is."""
    if isinstance(own, DTensor) and isinstance(value, Tensor) and value.shape == own.shape:
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value


def _check(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], where: Path):
    wrong = [f"{name} is missing" for name in own if name not in saved]
    wrong += [f"{name} has no place" for name in saved if name not in own]
    wrong += [
        f"{name} is {tuple(saved[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in saved and saved[name].shape != tensor.shape
    ]
    if wrong:
        raise UserError(
            f"{where}: does not fit this config: {_few(wrong)}; go on with its own config, "
            f"-c {where.parent / 'config.json'}, or start from its weights, arch.args.load_checkpoint"
        )


def _few(words: Sequence[str] | set[str]) -> str:
    shown = sorted(words)[:3]
    return ", ".join(shown) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


class _Watched:
    """A file whose failing write is remembered: torch.save tells only that something failed."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self):
        self.file.flush()


def _save(state: Mapping[str, Any], file: BinaryIO):
    watched = _Watched(file)
    try:
        torch.save(dict(state), watched)
    except RuntimeError:
        if watched.error:
            raise watched.error from None
        raise


def _link(source: Path, target: Path):
    """`target` becomes the file of `source`, by a hard link where the file system has them, else by a copy."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    os.replace(part, target)


def _sync(folder: Path):
    """Make the renaming itself last through a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
