"""A checkpoint of MILES, MCQ or Frozen in Time, or one of ours, into a model: renamed, reshaped, compared, reported."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.weights.read import read_checkpoint
from model.weights.report import Report, pattern
from model.weights.shapes import is_grid, resize_pos_embed, stretch_time
from parse_config import ConfigError

log = logging.getLogger(__name__)

# What wrappers put before a name, at its start or inside.
WRAPPERS = r"^(module\.)+|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
RENAMED = (
    (r"^txt_proj\.", "text_proj.", "Frozen in Time's name"),
    (r"^video_model\.norm1\.", "video_model.norm.", "MCQ's name"),
)
LEFT_OUT = (
    (r"video_model\.(head|fc|pre_logits)\b.*", "classifier, nothing uses it"),
    (r"text_model\.(.*\.)?position_ids", "buffer that transformers dropped"),
    (r"text_model\.pooler\..*", "pooler, nothing uses it"),
    (
        r"video_model\.blocks\.\d+\.(crossattn|bridgeattn|bridge_mlp|norm[4-7])\..*|video_model\.norm2\..*"
        r"|bridge_proj\..*",
        "BridgeFormer of MCQ",
    ),
)
VIDEO = "video_model."


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    temporal_fix: str = "zeros",
    strict: bool = True,
    teacher: bool = False,
    name: str = "",
) -> Report:
    """Load a file, folder or checkpoint already read (then `name` is what messages call it) into `model` (MILES), and
    log a table of what was done.

    `temporal_fix`: see `stretch_time`; `teacher`: take the snapshot's video tower and projection instead of the
    student's. Raises FileNotFoundError, ConfigError (nothing is loaded then).
    """
    read = isinstance(source, Mapping)
    checkpoint = source if read else read_checkpoint(source)
    report = Report(name or ("a checkpoint" if read else str(source)))
    state = clean(teachers(checkpoint) if teacher else checkpoint["state_dict"])
    state = _rename(state, model, report)
    _fill_time(state, model, report)
    _reshape(state, model, report, checkpoint, temporal_fix)
    fit(model, state, report, strict)
    return report


def fit(model: nn.Module, state: dict[str, Tensor], report: Report, strict: bool):
    """Compare `state` with `model`, log the report, raise or load. `report` already holds what was changed before."""
    own = model.state_dict()
    for name, tensor in state.items():
        if name not in own:
            report.unknown[name] = ""
        elif own[name].shape != tensor.shape:
            report.misshapen[name] = (
                f"{_shape(tensor)} in the file, {_shape(own[name])} in the model"
            )
        elif name not in report.changed and name not in report.missing:
            report.loaded[name] = ""
    report.absent = {name: "" for name in own if name not in state}
    bad = report.absent or report.misshapen or report.unknown
    log.log(logging.WARNING if bad else logging.INFO, "%s", report.table())
    report.check(strict)
    model.load_state_dict(
        {
            name: tensor
            for name, tensor in state.items()
            if name not in report.misshapen and name not in report.unknown
        },
        strict=False,
    )


def clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, torch.compile and FSDP put into them."""
    return {re.sub(WRAPPERS, "", name): tensor for name, tensor in state.items()}


def teachers(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state_dict with the snapshot teacher's tensors in place of the student's; ConfigError if there are none."""
    state = clean(checkpoint["state_dict"])
    found = {
        match[1]: tensor
        for name, tensor in checkpoint.get("objective", {}).items()
        if (match := re.fullmatch(r"(?:.*\.)?teacher\..*?((?:video_model|vid_proj)\..+)", name))
    }
    if not found or not set(found) <= set(state):
        raise ConfigError(
            "the checkpoint holds no teacher: it was not written by pre-training with a snapshot"
        )
    return {**state, **found}


def _rename(state: dict[str, Tensor], model: nn.Module, report: Report) -> dict[str, Tensor]:
    own = model.state_dict()
    renamed = {}
    for old, tensor in state.items():
        name = old
        for expression, replacement, why in RENAMED:
            name, hits = re.subn(expression, replacement, name)
            if hits:
                report.changed[name] = f"was {pattern(old)} ({why})"
        why = next((why for expression, why in LEFT_OUT if re.fullmatch(expression, name)), "")
        if why and name not in own:
            report.left_out[name] = why
        else:
            renamed[name] = tensor
    return renamed


def _fill_time(state: dict[str, Tensor], model: nn.Module, report: Report):
    """A file without any temporal attention (MCQ) gets a silent one: the network then computes what it did."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(VIDEO)}
    if any(".timeattn." in name for name in state) or not any(
        ".attn.qkv." in name for name in state
    ):
        return
    for name, tensor in own.items():
        if name == f"{VIDEO}temporal_embed" or ".timeattn.proj." in name:
            state[name], report.missing[name] = (
                torch.zeros_like(tensor),
                "zeros: the file has no temporal attention",
            )
        elif ".timeattn." in name:
            state[name], report.missing[name] = (
                tensor,
                "as initialised: the file has no temporal attention",
            )
        elif ".norm3." in name:
            state[name], report.missing[name] = (
                state[name.replace("norm3", "norm1")],
                "copied from norm1",
            )


def _reshape(
    state: dict[str, Tensor],
    model: nn.Module,
    report: Report,
    checkpoint: Mapping[str, Any],
    fix: str,
):
    own = model.state_dict()
    name = f"{VIDEO}temporal_embed"
    if name in state and name in own and state[name].shape[1] != own[name].shape[1]:
        report.changed[name] = f"{state[name].shape[1]} -> {own[name].shape[1]} frames ({fix})"
        state[name] = stretch_time(state[name], own[name].shape[1], fix)
    name, old_grid = f"{VIDEO}pos_embed", _grid(checkpoint)
    if (
        name in state
        and name in own
        and state[name].shape != own[name].shape
        and is_grid(state[name], old_grid)
    ):
        grid = model.video_model.patch_grid
        report.changed[name] = (
            f"{state[name].shape[1] - 1} places -> {grid[0]} x {grid[1]} (bicubic)"
        )
        state[name] = resize_pos_embed(state[name], grid, old_grid)


def _grid(checkpoint: Mapping[str, Any]) -> tuple[int, int] | None:
    """(rows, columns) of patches as the file's own config says, for frames that are no squares."""
    config = checkpoint.get("config") or {}
    arch = config.get("arch") or (config.get("_config") or {}).get("arch") or {}
    params = arch.get("args", {}).get("video_params", {})
    size, patch = params.get("img_size"), params.get("patch_size", 16)
    return (size[0] // patch, size[1] // patch) if isinstance(size, list | tuple) else None


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
