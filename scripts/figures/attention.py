"""Where CLS looks: its self-attention in a block, over each frame.

B clips, H heads, T frames, Y rows and X columns of patches, S = 1 + T * Y * X tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.miles import MILES
from model.video.attention import DividedAttention, record_attention
from parse_config import UserError
from scripts.figures.clips import Clip, File, clips, models
from scripts.figures.heatmap import PANEL, Scale, overlay, save
from scripts.figures.sheet import Block, Row, draw

LABEL = "attention / uniform"


@torch.no_grad()
def cls_attention(
    model: MILES, video_BTCHW: Tensor, block: int = -1, over: str = "space"
) -> Tensor:
    """-> attention_BHTYX: the weights with which CLS reads the patches in a block, from the model's own forward pass.

    With the weight on CLS itself they add up to 1. `block`: from 0, or from the end (-1: the last). `over`: of the
    block's two layers the spatial one, whose output the block hands on, or the temporal one before it ("time"); CLS
    sees all frames in both. Raises UserError for a block that is not there.
    """
    layers = [
        m for m in model.video_model.modules() if isinstance(m, DividedAttention) and m.over == over
    ]
    if not layers:
        raise UserError(
            f"{type(model.video_model).__name__} has no attention over {over} that could be shown"
        )
    if not -len(layers) <= block < len(layers):
        raise UserError(
            f"block {block} is asked of a video encoder of {len(layers)}: 0 to {len(layers) - 1}, or -1 "
            "for the last"
        )
    with record_attention(layers[block]) as maps:
        model.video_features(video_BTCHW.to(model.device))
    return maps[""][0].cls_BHS[:, :, 1:].unflatten(2, model.grid(video_BTCHW)).float().cpu()


def attention_maps(
    model: MILES,
    clip: Clip,
    block: int = -1,
    heads: str | int = "mean",
    over: str = "space",
) -> dict[str, np.ndarray]:
    """{label: heat_TYX} of one clip, in multiples of the share that a uniform attention gives to each token.

    `heads`: "mean", "each" or the number of one.
    """
    attention_HTYX = cls_attention(model, clip.video_BTCHW, block, over)[0]
    heat_HTYX = (attention_HTYX * (1 + attention_HTYX[0].numel())).numpy()
    if heads == "mean":
        return {"mean of heads": heat_HTYX.mean(0)}
    if heads != "each" and not (str(heads).isdigit() and int(heads) < len(heat_HTYX)):
        raise UserError(
            f"head {heads} is asked of {len(heat_HTYX)}: 0 to {len(heat_HTYX) - 1}, mean or each"
        )
    chosen = range(len(heat_HTYX)) if heads == "each" else [int(heads)]
    return {f"head {i}": heat_HTYX[i] for i in chosen}


def attention_figure(
    model: MILES | File | Sequence[MILES | File],
    clip: Tensor | File | Sequence[File],
    out_png: File,
    *,
    block: int = -1,
    heads: str | int = "mean",
    over: str = "space",
    names: Sequence[str] | None = None,
    panel: int = PANEL,
    title: str = "",
    device: str = "cpu",
) -> Path:
    """Write a PNG: for each clip a row of its frames and a row of attention (or one a head), several models side by
    side under their `names`; one colour scale a clip. `clip`: files, or video_BTCHW as the model reads it."""
    made = models(model, device)
    read = [clips(one, clip, panel) for one in made]
    blocks = []
    for views in zip(*read):
        heats = [attention_maps(one, view, block, heads, over) for one, view in zip(made, views)]
        scale = Scale(0, max(float(heat.max()) for maps in heats for heat in maps.values()), LABEL)
        rows = [
            Row("frame", [list(zip(view.picture_TPPC, view.titles)) for view in views], heat=False)
        ]
        for label in dict.fromkeys(label for maps in heats for label in maps):
            rows.append(
                Row(
                    label,
                    [
                        [
                            (overlay(picture, heat, scale), "")
                            for picture, heat in zip(view.picture_TPPC, maps.get(label, []))
                        ]
                        for view, maps in zip(views, heats)
                    ],
                )
            )
        blocks.append(Block(views[0].name, rows, scale))
    return save(draw(blocks, names or (), title), out_png)
