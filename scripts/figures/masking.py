"""What masked visual modeling hides of a clip, and how far the model's guess of each hidden patch is off.

B = 1 clip, T frames, N = Y * X patches a frame (rows, columns), D encoder width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.loss import LOSSES
from model.miles import MILES
from model.restore import described
from model.weights import read_checkpoint
from parse_config import Config, to_plain
from scripts.figures.clips import Clip, File, clips, models
from scripts.figures.heatmap import PANEL, Scale, enlarge, overlay, save
from scripts.figures.sheet import Block, Row, draw
from trainer.objectives.miles_pretraining import MILESPretraining

TAKEN = (
    "mask",
    "mvm_loss",
    "target_space",
)  # of the checkpoint's objective; the rest does not change the error


class Masking(NamedTuple):
    """The objective with the checkpoint's teacher and [MASK] token, and in words which those are."""

    objective: MILESPretraining
    about: str


@torch.no_grad()
def masking_of(model: MILES | File, device: str = "cpu") -> Masking:
    """The objective that trained a checkpoint: its mask, distance, teacher and [MASK] token.

    What the file does not hold (of other projects, exported folders, a model alone) is the default mask and distance,
    the model itself as teacher, zeros as [MASK] token; `about` says so. Raises ConfigError.
    """
    checkpoint = {} if isinstance(model, MILES) or Path(model).is_dir() else read_checkpoint(model)
    section = described(checkpoint).get("objective") or {}
    args = {
        key: Config(value, f"objective.args.{key}") if isinstance(value, Mapping) else value
        for key, value in (to_plain(section).get("args") or {}).items()
        if key in TAKEN
    }
    student = models(model, device)[0]
    objective = MILESPretraining(
        student, LOSSES.build({"type": "NormSoftmaxLoss"}), teacher={"type": "Frozen"}, **args
    )
    held = checkpoint.get("objective") or {}
    teacher = {
        name.removeprefix("teacher."): x for name, x in held.items() if name.startswith("teacher.")
    }
    if teacher:
        objective.teacher.load_state_dict(teacher)
    objective.mask_token_D.data = (
        held["mask_token_D"].float()
        if "mask_token_D" in held
        else torch.zeros_like(objective.mask_token_D)
    )
    said = ["the checkpoint's teacher" if teacher else "the model itself (no teacher in the file)"]
    said += [] if "mask_token_D" in held else ["[MASK] is zeros (none in the file)"]
    return Masking(objective.to(device).eval(), "target: " + ", ".join(said))


@torch.no_grad()
def masking_error(masking: Masking, video_BTCHW: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """-> (mask_TYX, error_TYX): what is hidden of the first clip, and the objective's distance at each place.

    The distance is the loss of that place alone; the mean over the hidden ones is the objective's loss_mvm. It is there
    for the places that are seen too, which the loss leaves out.
    """
    objective, grid = masking.objective, masking.objective.model.grid(video_BTCHW)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask_BTN = objective.mask(1, grid, video_BTCHW.device)
    _, guess_BTND = objective.features(
        objective.model, video_BTCHW[:1], mask_BTN, objective.mask_token_D
    )
    _, target_BTND = objective.features(objective.teacher, video_BTCHW[:1])
    one = mask_BTN.new_ones(1, 1, 1)
    error_M = [
        objective.reconstruct(guess[None, None, None], target[None, None, None], one)[0, 0]
        for guess, target in zip(guess_BTND.flatten(0, 2), target_BTND.flatten(0, 2))
    ]
    return mask_BTN.view(grid).cpu(), torch.stack(error_M).view(grid).float().cpu()


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
    """Write a PNG: for each clip its frames, what the mask leaves of them, and the error at the hidden places; several
    models side by side under their `names`; one colour scale a clip. `clip`: files, or video_BTCHW."""
    given = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    made = [masking_of(one, device) for one in given]
    blocks = []
    for views in zip(*[clips(one.objective.model, clip, panel) for one in made]):
        found = [
            masking_error(one, view.video_BTCHW.to(device), seed) for one, view in zip(made, views)
        ]
        label = type(made[0].objective.reconstruct).__name__
        scale = Scale(
            0,
            max([float(e[m].max()) for m, e in found if m.any()], default=1.0),
            f"error ({label})",
        )
        rows = [
            Row("frame", [list(zip(view.picture_TPPC, view.titles)) for view in views], heat=False),
            Row(
                "masked",
                [hidden(view, m.numpy()) for view, (m, _) in zip(views, found)],
                heat=False,
            ),
            Row(
                "error",
                [errors(view, m.numpy(), e.numpy(), scale) for view, (m, e) in zip(views, found)],
            ),
        ]
        blocks.append(Block(views[0].name, rows, scale))
    about = "; ".join(dict.fromkeys(one.about for one in made))
    return save(draw(blocks, names or (), about if title is None else title), out_png)


def hidden(view: Clip, mask_TYX: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """The frames with the hidden patches in plain grey."""
    return [
        (
            np.where(
                enlarge(mask, picture.shape[:2], smooth=False)[..., None] > 0,
                np.uint8(128),
                picture,
            ),
            "",
        )
        for picture, mask in zip(view.picture_TPPC, mask_TYX)
    ]


def errors(
    view: Clip, mask_TYX: np.ndarray, error_TYX: np.ndarray, scale: Scale
) -> list[tuple[np.ndarray, str]]:
    """The error at the hidden patches, each as a block, with its mean over the frame."""
    return [
        (
            overlay(picture, np.where(mask, error, np.nan), scale, smooth=False),
            f"mean {error[mask].mean():.3f}" if mask.any() else "nothing hidden",
        )
        for picture, mask, error in zip(view.picture_TPPC, mask_TYX, error_TYX)
    ]
