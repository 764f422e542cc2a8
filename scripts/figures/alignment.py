"""Which patches a word is like: similarity of each word's feature with every patch feature, over each frame.

W words, T frames, N = Y * X patches per frame (rows, columns), E joint width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.miles import MILES
from model.text.word_features import encode_words
from parse_config import UserError
from scripts.figures.clips import Clip, File, open_models, read_clips
from scripts.figures.heatmap import PANEL, Scale, overlay, save
from scripts.figures.sheet import Block, Row, draw

LABEL = "cosine, word with patch"
RELATIVE = "cosine - mean over words"


@torch.no_grad()
def word_similarity(
    model: MILES,
    video_BTCHW: Tensor,
    text: str,
    source: str = "caption",
    patch_features: str = "last",
) -> tuple[list[str], Tensor]:
    """-> (the words of `text`, cosine_WTYX of each with every patch of the first clip, both in the joint space).

    Args:
        source: "caption", a word as the text encoder reads it inside the text, or "alone", as a text of its own; then
            the whole text, if it has several words, stands first
        patch_features: "last" or "value", see `MILES.encode_video`
    """
    words, w_WE = encode_words(model, text)
    if source == "alone":
        words = [text, *words] if len(words) > 1 else words
        w_WE = model.encode_text(words)
    _, patch_BTNE = model.encode_video(
        video_BTCHW.to(model.device), patch_features=patch_features
    )
    cosine_WTN = torch.einsum(
        "we,tne->wtn", F.normalize(w_WE, dim=-1), F.normalize(patch_BTNE[0], dim=-1)
    )
    return words, cosine_WTN.unflatten(2, model.grid(video_BTCHW)[1:]).float().cpu()


def word_indices(
    words: Sequence[str], selection: str | Sequence[str] | None
) -> list[int]:
    """Indices of the selected words, in any case; of all words if none is selected.

    Raises UserError that lists the words for one that is not among them.
    """
    if not selection:
        return list(range(len(words)))
    if isinstance(selection, str):
        selection = [selection]
    lower_words = [word.lower() for word in words]
    for word in selection:
        if word.lower() not in lower_words:
            raise UserError(
                f"--word {word}: is no word of the text; its words: {', '.join(dict.fromkeys(words))}"
            )
    lower_selection = [word.lower() for word in selection]
    return [i for i, word in enumerate(lower_words) if word in lower_selection]


def alignment_figure(
    model: MILES | File | Sequence[MILES | File],
    clip: Tensor | File | Sequence[File],
    text: str,
    out_png: File,
    word: str | Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    *,
    relative: bool = False,
    source: str = "alone",
    patch_features: str = "value",
    panel: int = PANEL,
    title: str | None = None,
    device: str = "cpu",
) -> Path:
    """Writes a PNG: for each clip a row of its frames and a row for each word of `text` (or for `word` alone).

    Several models stand side by side under their `names`; a clip has one colour scale. `clip`: files, or video_BTCHW.
    `relative`: less the mean over the words of the text at each patch, what a word has and the others have not.
    `source` and `patch_features`: see `word_similarity`.
    """
    models = open_models(model, device)
    clips_per_model = [read_clips(opened_model, clip, panel) for opened_model in models]
    blocks = [
        alignment_block(models, views, text, word, relative, source, patch_features)
        for views in zip(*clips_per_model)
    ]
    if title is None:
        title = f'"{text}"'
    return save(draw(blocks, names or (), title), out_png)


def alignment_block(
    models: Sequence[MILES],
    views: Sequence[Clip],
    text: str,
    selection: str | Sequence[str] | None,
    relative: bool,
    source: str,
    patch_features: str,
) -> Block:
    """The rows of one clip.

    Args:
        models: that stand side by side
        views: the clip as each model reads it
        text: whose words are compared with patches
        selection: the words that are shown; None: all
        relative: less the mean over the words of the text
        source: see `word_similarity`
        patch_features: see `word_similarity`
    """
    words: list[str] = []
    heats_WTYX = []
    for model, view in zip(models, views):
        words, cosine_WTYX = word_similarity(
            model, view.video_BTCHW, text, source, patch_features
        )
        if relative:
            cosine_WTYX = cosine_WTYX - cosine_WTYX.mean(0)
        heats_WTYX.append(cosine_WTYX.numpy()[word_indices(words, selection)])

    scale = Scale(
        min(float(heat.min()) for heat in heats_WTYX),
        max(float(heat.max()) for heat in heats_WTYX),
        RELATIVE if relative else LABEL,
    )

    rows = [Row("frame", [view.titled_pictures() for view in views], heat=False)]
    for i, word_index in enumerate(word_indices(words, selection)):
        groups = [
            word_pictures(view, heat_WTYX[i], words[word_index], scale)
            for view, heat_WTYX in zip(views, heats_WTYX)
        ]
        rows.append(Row("", groups))
    return Block(views[0].name, rows, scale)


def word_pictures(
    view: Clip, heat_TYX: np.ndarray, word: str, scale: Scale
) -> list[tuple[np.ndarray, str]]:
    """The frames with the heat of a word over them, and the word as their title."""
    return [
        (overlay(picture, heat, scale), word)
        for picture, heat in zip(view.picture_TPPC, heat_TYX)
    ]


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
