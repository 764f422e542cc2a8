"""Checkpoints: what is in one, written so that the previous one is never lost, and restored exactly.

A file is plain data, read without running anything in it:
    arch, state_dict   the model, by the names of the released checkpoint (however it is wrapped, sharded or compiled)
    objective          what the objective owns beside the model: teacher, mask token
    optimizer          {parameter's name: its moments}; learning rates and the like come from the config
    scaler             of fp16
    epoch, step        finished epochs and optimizer steps of this stage
    trainer            position within the epoch, loaders, running means (see `State.save` in trainer/state.py)
    monitor_best       best monitored value so far; None without
    config             as resolved
    text_files         configuration and tokenizer of the text model, {file name: uint8 bytes}
    saved_at, folder   seconds since 1970 and the folder it was written to: which of several is the newest
"""

import contextlib
import logging
import os
import shutil
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from model.weights import read_checkpoint
from model.weights.read import find_damage, read_skeleton
from parse_config import UserError
from trainer import optim
from trainer.distributed import rank
from trainer.files import atomic_write

log = logging.getLogger(__name__)

MODEL = "model."  # prefix of the model's tensors in an objective
LATEST = "checkpoint-latest.pth"
BEST = "model_best.pth"
REQUIRED = (
    "state_dict",
    "objective",
    "optimizer",
    "scaler",
    "epoch",
    "step",
    "trainer",
    "config",
)


def collect(
    objective: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any
) -> dict[str, Any]:
    """The tensors of a run on the CPU, unsharded.

    Every process must call it; on processes other than 0 the values are None.
    """
    tensors = {name: _to_cpu(tensor) for name, tensor in objective.state_dict().items()}
    moments = {
        name: {key: _to_cpu(value) for key, value in entry.items()}
        for name, entry in optim.state(optimizer, objective).items()
    }
    model_tensors = {}
    objective_tensors = {}
    for name, tensor in tensors.items():
        if name.startswith(MODEL):
            model_tensors[name.removeprefix(MODEL)] = tensor
        else:
            objective_tensors[name] = tensor
    return {
        "state_dict": model_tensors,
        "objective": objective_tensors,
        "optimizer": moments,
        "scaler": scaler.state_dict(),
    }


def restore(
    state: Mapping[str, Any],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    path: Path,
) -> None:
    """Load what `collect` returned.

    Raises UserError, one line that names the checkpoint's `path`, if it does not fit; nothing is loaded then.
    """
    current = objective.state_dict()
    saved = {MODEL + name: tensor for name, tensor in state["state_dict"].items()}
    saved.update(state["objective"])
    _check_fit(saved, current, path)
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    moments = state["optimizer"]
    untrained = set(moments) - trained
    if untrained:
        raise UserError(
            f"{path}: its optimizer holds parameters that this config does not train "
            f"({_first_three(untrained)}); start from its weights with arch.args.load_checkpoint"
        )
    objective.load_state_dict(
        {name: _shard_like(tensor, current[name]) for name, tensor in saved.items()}
    )
    sharded_moments = {
        name: {key: _shard_like(value, current[name]) for key, value in entry.items()}
        for name, entry in moments.items()
    }
    optim.load_state(optimizer, objective, sharded_moments)
    if state["scaler"]:
        scaler.load_state_dict(dict(state["scaler"]))


def load_from_previous_stage(state: Mapping[str, Any], objective: nn.Module) -> None:
    """Copy what the objective itself learned by gradient in the previous stage (the mask token), where it fits.

    The model has its own loading, and a teacher starts as a copy of the model, as at every start.
    """
    for name, parameter in objective.named_parameters():
        saved = state["objective"].get(name)
        if (
            saved is None
            or not parameter.requires_grad
            or saved.shape != parameter.shape
        ):
            continue
        parameter.data.copy_(saved)
        log.info("%s is taken over from the stage before", name)


def write(path: Path, state: Mapping[str, Any], also: Sequence[Path] = ()) -> None:
    """Write `state` atomically as `path` and as each of `also`; `path` is replaced last.

    Raises UserError if it cannot be written (a full disk); the previous checkpoints stay as they were.
    """
    try:
        with atomic_write(path, "wb") as file:
            save_to(file, state)
            file.flush()
            os.fsync(file.fileno())
            for other_path in also:
                _link(Path(file.name), other_path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}); what was saved before is whole: "
            "make room and go on with -r auto"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that `write` wrote, to resume from. Raises UserError or FileNotFoundError."""
    return _require_state(read_checkpoint(path), path)


def _require_state(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """`state` if it is that of a run, else UserError."""
    missing = [name for name in REQUIRED if name not in state]
    if missing:
        raise UserError(
            f"{path}: training cannot go on from it, it holds no {missing[0]}; to start from its weights "
            f"set arch.args.load_checkpoint={path}"
        )
    return state


def progress(path: Path) -> tuple[float, int, int, bool]:
    """Sort key by which the newest of several checkpoints is found; only a small part of the file is read.

    (seconds since 1970 when it was saved, stage, step, whether it lies in the folder that it was written to). The name
    and the time of the file do not count, since copying and touching change them. Raises what `read` raises.
    """
    state = _require_state(read_skeleton(path), path)
    folder = path.resolve().parent
    written_to = Path(state.get("folder") or "").parts
    in_place = bool(written_to) and folder.parts[-2:] == written_to[-2:]
    return (
        state.get("saved_at", 0.0),
        state["trainer"]["stage"],
        state["step"],
        in_place,
    )


def newest(paths: Iterable[Path]) -> Path | None:
    """The undamaged checkpoint that was saved last, or None; each newer one that is damaged costs a warning."""
    by_progress = []
    for path in paths:
        try:
            by_progress.append((progress(path), path.name == LATEST, path))
        except UserError as error:
            log.warning("%s; the one before is taken", error)
    for _, _, path in sorted(by_progress, reverse=True):
        damage = find_damage(path)
        if not damage:
            return path
        log.warning("%s: is damaged (%s); the one before is taken", path, damage)
    return None


def is_complete(path: Path) -> bool:
    """Whether `path` is a complete file: the zip directory, which is written last, is there."""
    return path.is_file() and zipfile.is_zipfile(path)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoint-epochN.pth; 0 keeps all."""
    if not keep:
        return
    paths = sorted(folder.glob("checkpoint-epoch*.pth"), key=_epoch_number)
    for path in paths[:-keep]:
        path.unlink(missing_ok=True)


def _epoch_number(path: Path) -> int:
    """checkpoint-epoch12.pth -> 12."""
    return int(path.stem.rpartition("epoch")[2])


def _to_cpu(value: Any) -> Any:
    """A tensor on the CPU, gathered if it is sharded; on processes other than 0 only the gathering happens."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if rank() == 0 else None


def _shard_like(value: Any, reference: Tensor) -> Any:
    """A tensor of the shape of `reference`, sharded as that is; anything else as it is."""
    if not isinstance(reference, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != reference.shape:
        return value
    return distribute_tensor(
        value.to(reference.device), reference.device_mesh, reference.placements
    )


def _check_fit(
    saved: Mapping[str, Tensor], current: Mapping[str, Tensor], path: Path
) -> None:
    """UserError that names up to three tensors that are missing, superfluous or of another shape."""
    problems = [f"{name} is missing" for name in current if name not in saved]
    problems += [f"{name} has no place" for name in saved if name not in current]
    problems += [
        f"{name} is {tuple(saved[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in current.items()
        if name in saved and saved[name].shape != tensor.shape
    ]
    if problems:
        raise UserError(
            f"{path}: does not fit this config: {_first_three(problems)}; go on with its own config, "
            f"-c {path.parent / 'config.json'}, or start from its weights, arch.args.load_checkpoint"
        )


def _first_three(phrases: Collection[str]) -> str:
    """The first three in alphabetical order, and how many more there are."""
    text = ", ".join(sorted(phrases)[:3])
    if len(phrases) > 3:
        text += f" and {len(phrases) - 3} more"
    return text


class _ErrorRecorder:
    """A file that remembers the error of a failed write: torch.save only reports that something failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_to(file: IO[bytes], content: Mapping[str, Any]) -> None:
    """torch.save into an open file. Raises OSError where it cannot be written, which torch itself does not."""
    recorder = _ErrorRecorder(file)
    try:
        torch.save(dict(content), cast(IO[bytes], recorder))
    except RuntimeError:
        if recorder.error:
            raise recorder.error from None
        raise


def _link(source: Path, target: Path) -> None:
    """Make `target` the file of `source`: by a hard link where the file system has them, else by a copy."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` survive a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
