"""What masked visual modeling hides of a clip, and how far the model's prediction of each hidden patch is off.

B = 1 clip, T frames, N = Y * X patches per frame (rows, columns), M = T * N patches, D encoder width.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.load import is_hub_id
from model.loss import LOSSES
from model.miles import MILES
from model.restore import stored_config
from model.weights import read_checkpoint
from model.weights.read import find
from parse_config import Config, to_plain
from scripts.figures.clips import Clip, File, open_models, read_clips
from scripts.figures.heatmap import PANEL, Scale, enlarge, overlay, save
from scripts.figures.sheet import Block, Row, draw
from trainer.objectives.miles_pretraining import MILESPretraining

# Arguments of the checkpoint's objective that are used; the others do not change the error.
OBJECTIVE_KEYS = (
    "mask",
    "mvm_loss",
    "target_space",
    "target_features",
    "target_layers",
    "target_norm",
    "predictor",
    "regress",
)
GREY = np.uint8(128)  # of hidden patches


class Masking(NamedTuple):
    """The objective with the checkpoint's teacher and [MASK] token, and in words which those are."""

    objective: MILESPretraining
    description: str


@torch.no_grad()
def load_masking(model: MILES | File, device: str = "cpu") -> Masking:
    """The objective that trained a checkpoint: its mask, distance, teacher and [MASK] token.

    What the file does not hold (of other projects, exported folders, a model without a file) is the default mask and
    distance, the model itself as teacher, zeros as [MASK] token; `description` says so. Raises ConfigError.
    """
    checkpoint = training_checkpoint(model)
    student = open_models(model, device)[0]
    state = checkpoint.get("objective") or {}
    # Older checkpoints have neither setting: hidden patches regressed targets as they are.
    args = {"target_norm": "none", "regress": "masked"}
    if "target_norm.mean_X" in state:
        args = {"target_norm": "centred"}
    objective = MILESPretraining(
        student,
        LOSSES.build({"type": "NormSoftmaxLoss"}),
        teacher={"type": "Frozen"},
        **{**args, **objective_args(checkpoint)},
    )
    objective.teacher.load_state_dict(
        part_of_state(state, "teacher") or objective.teacher.state_dict()
    )
    objective.predictor.load_state_dict(part_of_state(state, "predictor"))
    objective.target_norm.load_state_dict(part_of_state(state, "target_norm"))

    if part_of_state(state, "teacher"):
        description = "target: the checkpoint's teacher"
    else:
        description = "target: the model itself (no teacher in the file)"

    if "mask_token_D" in state:
        objective.mask_token_D.data = state["mask_token_D"].float()
    else:
        objective.mask_token_D.data = torch.zeros_like(objective.mask_token_D)
        description += ", [MASK] is zeros (none in the file)"

    return Masking(objective.to(device).eval(), description)


def part_of_state(state: Mapping[str, Any], module: str) -> dict[str, Any]:
    """The entries of one module of the objective, under their names in it."""
    return {
        name.removeprefix(f"{module}."): value
        for name, value in state.items()
        if name.startswith(f"{module}.")
    }


def training_checkpoint(model: MILES | File) -> Mapping[str, Any]:
    """The content of a checkpoint's file; {} for a model, an exported folder or a hub id, which have none."""
    if isinstance(model, MILES) or is_hub_id(model):
        return {}

    path = find(model)
    return {} if path.suffix == ".safetensors" else read_checkpoint(path)


def objective_args(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a checkpoint's objective that decide what is hidden and how errors are measured."""
    section = to_plain(stored_config(checkpoint).get("objective") or {})
    args = {}
    for key, value in (section.get("args") or {}).items():
        if key in OBJECTIVE_KEYS:
            is_block = isinstance(value, Mapping)
            args[key] = Config(value, f"objective.args.{key}") if is_block else value
    return args


@torch.no_grad()
def masking_error(
    masking: Masking, video_BTCHW: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """-> (mask_TYX, error_TYX): what is hidden of the first clip, and the objective's distance at each patch.

    The distance is the loss of that patch alone; the mean over the hidden ones is the objective's loss_mvm. Visible
    patches have an error too, which is a part of the loss with regress "all".
    """
    objective = masking.objective
    grid = objective.model.grid(video_BTCHW)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask_BTN = objective.draw_masks(video_BTCHW[:1])[0]

    masked = objective.masked_view(video_BTCHW[:1], mask_BTN)
    predicted_BTNX, target_BTNX = objective.target_norm(
        masked.patch_BTNX, objective.target(video_BTCHW[:1])
    )

    hidden_111 = mask_BTN.new_ones(1, 1, 1)
    errors = []
    for predicted_X, target_X in zip(
        predicted_BTNX.flatten(0, 2), target_BTNX.flatten(0, 2)
    ):
        sum_and_count_12 = objective.reconstruct(
            predicted_X[None, None, None], target_X[None, None, None], hidden_111
        )
        errors.append(sum_and_count_12[0, 0])

    error_M = torch.stack(errors)
    return mask_BTN.view(grid).cpu(), error_M.view(grid).float().cpu()


def masking_figure(
    model: MILES | File | Sequence[MILES | File],
    clip: Tensor | File | Sequence[File],
    out_png: File,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    panel: int = PANEL,
    title: str | None = None,
    device: str = "cpu",
) -> Path:
    """Writes a PNG: for each clip its frames, what the mask leaves of them, and the error at the hidden patches.

    Several models stand side by side under their `names`; a clip has one colour scale. `clip`: files, or video_BTCHW.
    """
    sources = [model] if isinstance(model, MILES | str | os.PathLike) else model
    maskings = [load_masking(source, device) for source in sources]
    clips_per_model = [
        read_clips(masking.objective.model, clip, panel) for masking in maskings
    ]

    blocks = []
    for views in zip(*clips_per_model):
        errors = [
            masking_error(masking, view.video_BTCHW.to(device), seed)
            for masking, view in zip(maskings, views)
        ]
        loss_name = type(maskings[0].objective.reconstruct).__name__
        blocks.append(masking_block(views, errors, f"error ({loss_name})"))

    if title is None:
        title = "; ".join(dict.fromkeys(masking.description for masking in maskings))
    return save(draw(blocks, names or (), title), out_png)


def masking_block(
    views: Sequence[Clip], errors: Sequence[tuple[Tensor, Tensor]], label: str
) -> Block:
    """The rows of one clip.

    Args:
        views: the clip as each model reads it
        errors: (mask_TYX, error_TYX) of each model
        label: of the colour scale
    """
    highest = [float(error[mask].max()) for mask, error in errors if mask.any()]
    scale = Scale(0, max(highest, default=1.0), label)

    frame_groups = [view.titled_pictures() for view in views]
    masked_groups = []
    error_groups = []
    for view, (mask_TYX, error_TYX) in zip(views, errors):
        masked_groups.append(masked_pictures(view, mask_TYX.numpy()))
        error_groups.append(
            error_pictures(view, mask_TYX.numpy(), error_TYX.numpy(), scale)
        )

    rows = [
        Row("frame", frame_groups, heat=False),
        Row("masked", masked_groups, heat=False),
        Row("error", error_groups),
    ]
    return Block(views[0].name, rows, scale)


def masked_pictures(view: Clip, mask_TYX: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """The frames with the hidden patches in plain grey."""
    pictures = []
    for picture, mask_YX in zip(view.picture_TPPC, mask_TYX):
        hidden_PP = enlarge(mask_YX, picture.shape[:2], smooth=False) > 0
        pictures.append((np.where(hidden_PP[..., None], GREY, picture), ""))
    return pictures


def error_pictures(
    view: Clip, mask_TYX: np.ndarray, error_TYX: np.ndarray, scale: Scale
) -> list[tuple[np.ndarray, str]]:
    """The error at the hidden patches, each as a block, with its mean over the frame."""
    pictures = []
    for picture, mask_YX, error_YX in zip(view.picture_TPPC, mask_TYX, error_TYX):
        hidden_error_YX = np.where(mask_YX, error_YX, np.nan)
        title = "nothing hidden"
        if mask_YX.any():
            title = f"mean {error_YX[mask_YX].mean():.3f}"
        pictures.append((overlay(picture, hidden_error_YX, scale, smooth=False), title))
    return pictures


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
