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
from scripts.figures.clips import Clip, File, open_models, read_clips
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
    sees all frames in both. Raises UserError for a block that does not exist.
    """
    layers = [
        module
        for module in model.video_model.modules()
        if isinstance(module, DividedAttention) and module.over == over
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
    patch_attention_BHS = maps[""][0].cls_BHS[:, :, 1:]
    return patch_attention_BHS.unflatten(2, model.grid(video_BTCHW)).float().cpu()


def attention_maps(
    model: MILES,
    clip: Clip,
    block: int = -1,
    heads: str | int = "mean",
    over: str = "space",
) -> dict[str, np.ndarray]:
    """{label: heat_TYX} of one clip, in multiples of the share that a uniform attention gives to each token.

    `heads`: "mean", "each" or the number of one head.
    """
    attention_HTYX = cls_attention(model, clip.video_BTCHW, block, over)[0]
    num_tokens = 1 + attention_HTYX[0].numel()
    heat_HTYX = (attention_HTYX * num_tokens).numpy()
    num_heads = len(heat_HTYX)
    if heads == "mean":
        return {"mean of heads": heat_HTYX.mean(0)}
    if heads == "each":
        return {f"head {i}": heat_HTYX[i] for i in range(num_heads)}
    if not (str(heads).isdigit() and int(heads) < num_heads):
        raise UserError(
            f"head {heads} is asked of {num_heads}: 0 to {num_heads - 1}, mean or each"
        )
    return {f"head {int(heads)}": heat_HTYX[int(heads)]}


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
    """Writes a PNG: for each clip a row of its frames and a row of attention (or one per head).

    Several models stand side by side under their `names`; a clip has one colour scale. `clip`: files, or video_BTCHW
    as the model reads it.
    """
    models = open_models(model, device)
    clips_per_model = [read_clips(opened_model, clip, panel) for opened_model in models]
    blocks = []
    for views in zip(*clips_per_model):
        maps_per_model = [
            attention_maps(opened_model, view, block, heads, over)
            for opened_model, view in zip(models, views)
        ]
        blocks.append(attention_block(views, maps_per_model))
    return save(draw(blocks, names or (), title), out_png)


def attention_block(
    views: Sequence[Clip], maps_per_model: Sequence[dict[str, np.ndarray]]
) -> Block:
    """The rows of one clip, which each model reads as its own view; a model without a head leaves its row empty."""
    scale = attention_scale(maps_per_model)
    rows = [Row("frame", [view.titled_pictures() for view in views], heat=False)]
    for label in dict.fromkeys(label for maps in maps_per_model for label in maps):
        groups = []
        for view, maps in zip(views, maps_per_model):
            pictures = []
            if label in maps:
                for picture, heat_YX in zip(view.picture_TPPC, maps[label]):
                    pictures.append((overlay(picture, heat_YX, scale), ""))
            groups.append(pictures)
        rows.append(Row(label, groups))
    return Block(views[0].name, rows, scale)


def attention_scale(maps_per_model: Sequence[dict[str, np.ndarray]]) -> Scale:
    """From 0 to the highest attention of all models and heads."""
    highest = max(
        float(heat.max()) for maps in maps_per_model for heat in maps.values()
    )
    return Scale(0, highest, LABEL)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
