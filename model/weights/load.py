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
WRAPPERS = (
    r"^(module\.)+|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\."
)
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
    """Load weights into `model` (MILES) and log a table of what was done.

    Args:
        model: what gets the weights
        source: a file, a folder, or a checkpoint that `read_checkpoint` has read
        temporal_fix: temporal embedding for another number of frames, see `stretch_time`
        strict: stop where a name does not fit; false loads what fits
        teacher: take the snapshot's video encoder and projection instead of the student's
        name: what messages call a checkpoint that was read before

    Raises:
        FileNotFoundError: no such file
        ConfigError: a damaged file, or weights that do not fit; nothing is loaded then
    """
    if isinstance(source, Mapping):
        checkpoint = source
        name = name or "a checkpoint"
    else:
        checkpoint = read_checkpoint(source)
        name = name or str(source)
    report = Report(name)
    state = clean(with_teacher(checkpoint) if teacher else checkpoint["state_dict"])
    state = _rename(state, model, report)
    _fill_time(state, model, report)
    _stretch_time(state, model, report, temporal_fix)
    _resize_positions(state, model, report, checkpoint)
    fit(model, state, report, strict)
    return report


def fit(
    model: nn.Module, state: dict[str, Tensor], report: Report, strict: bool
) -> None:
    """Compare `state` with `model`, log the report, raise or load.

    Args:
        model: what gets the weights
        state: tensors by the model's names
        report: what was changed and left out before; gets the rest
        strict: raise ConfigError where a name does not fit; false loads what fits
    """
    own_state = model.state_dict()
    for name, tensor in state.items():
        if name not in own_state:
            report.unknown[name] = ""
        elif own_state[name].shape != tensor.shape:
            report.misshapen[name] = (
                f"{_shape(tensor)} in the file, {_shape(own_state[name])} in the model"
            )
        elif name not in report.changed and name not in report.missing:
            report.loaded[name] = ""
    report.absent = {name: "" for name in own_state if name not in state}
    fits = not (report.absent or report.misshapen or report.unknown)
    log.log(logging.INFO if fits else logging.WARNING, "%s", report.table())
    report.check(strict)
    fitting_state = {
        name: tensor
        for name, tensor in state.items()
        if name not in report.misshapen and name not in report.unknown
    }
    model.load_state_dict(fitting_state, strict=False)


def clean(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, torch.compile and FSDP put into them."""
    return {re.sub(WRAPPERS, "", name): tensor for name, tensor in state.items()}


def with_teacher(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state_dict with the snapshot teacher's tensors in place of the student's; ConfigError if there are none."""
    state = clean(checkpoint["state_dict"])
    teacher_state = {}
    for name, tensor in checkpoint.get("objective", {}).items():
        match = re.fullmatch(
            r"(?:.*\.)?teacher\..*?((?:video_model|vid_proj)\..+)", name
        )
        if match:
            teacher_state[match[1]] = tensor
    if not teacher_state or not set(teacher_state) <= set(state):
        raise ConfigError(
            "the checkpoint holds no teacher: it was not written by pre-training with a snapshot"
        )
    return {**state, **teacher_state}


def _rename(
    state: dict[str, Tensor], model: nn.Module, report: Report
) -> dict[str, Tensor]:
    """`state` by our names, without what nothing here uses."""
    own_names = set(model.state_dict())
    renamed = {}
    for old_name, tensor in state.items():
        name = old_name
        for expression, replacement, reason in RENAMED:
            name, substitutions = re.subn(expression, replacement, name)
            if substitutions:
                report.changed[name] = f"was {pattern(old_name)} ({reason})"
        left_out_reason = _left_out_reason(name)
        if left_out_reason and name not in own_names:
            report.left_out[name] = left_out_reason
        else:
            renamed[name] = tensor
    return renamed


def _left_out_reason(name: str) -> str:
    """Why a tensor is not needed; "" if it is."""
    for expression, reason in LEFT_OUT:
        if re.fullmatch(expression, name):
            return reason
    return ""


def _fill_time(state: dict[str, Tensor], model: nn.Module, report: Report) -> None:
    """A file without any temporal attention (MCQ) gets a silent one: the network then computes what it did."""
    has_time = any(".timeattn." in name for name in state)
    has_space = any(".attn.qkv." in name for name in state)
    if has_time or not has_space:
        return
    for name, own_tensor in model.state_dict().items():
        if not name.startswith(VIDEO):
            continue
        if name == f"{VIDEO}temporal_embed" or ".timeattn.proj." in name:
            state[name] = torch.zeros_like(own_tensor)
            report.missing[name] = "zeros: the file has no temporal attention"
        elif ".timeattn." in name:
            state[name] = own_tensor
            report.missing[name] = "as initialised: the file has no temporal attention"
        elif ".norm3." in name:
            state[name] = state[name.replace("norm3", "norm1")]
            report.missing[name] = "copied from norm1"


def _stretch_time(
    state: dict[str, Tensor], model: nn.Module, report: Report, fix: str
) -> None:
    """Bring the temporal embedding of another number of frames to the model's."""
    name = f"{VIDEO}temporal_embed"
    own_embed = model.state_dict().get(name)
    if name not in state or own_embed is None:
        return
    frames, own_frames = state[name].shape[1], own_embed.shape[1]
    if frames != own_frames:
        report.changed[name] = f"{frames} -> {own_frames} frames ({fix})"
        state[name] = stretch_time(state[name], own_frames, fix)


def _resize_positions(
    state: dict[str, Tensor], model: Any, report: Report, checkpoint: Mapping[str, Any]
) -> None:
    """Bring the position embeddings of another grid of patches to the model's."""
    name = f"{VIDEO}pos_embed"
    own_embed = model.state_dict().get(name)
    if name not in state or own_embed is None or state[name].shape == own_embed.shape:
        return
    old_grid = _grid(checkpoint)
    if is_grid(state[name], old_grid):
        rows, columns = model.video_model.patch_grid
        report.changed[name] = (
            f"{state[name].shape[1] - 1} places -> {rows} x {columns} (bicubic)"
        )
        state[name] = resize_pos_embed(state[name], (rows, columns), old_grid)


def _grid(checkpoint: Mapping[str, Any]) -> tuple[int, int] | None:
    """(rows, columns) of patches as the file's own config says, for frames that are no squares."""
    config = checkpoint.get("config") or {}
    arch = config.get("arch") or (config.get("_config") or {}).get("arch") or {}
    video_params = arch.get("args", {}).get("video_params", {})
    img_size = video_params.get("img_size")
    patch_size = video_params.get("patch_size", 16)
    if not isinstance(img_size, list | tuple):
        return None
    height, width = img_size[:2]
    return height // patch_size, width // patch_size


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
