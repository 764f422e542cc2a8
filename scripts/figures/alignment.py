"""Which patches a word is like: similarity of each word's feature with every patch feature, over each frame.

W words, T frames, N = Y * X patches a frame (rows, columns), E joint width.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.miles import MILES
from model.text.word_features import encode_words
from parse_config import UserError
from scripts.figures.clips import File, clips, models
from scripts.figures.heatmap import PANEL, Scale, overlay, save
from scripts.figures.sheet import Block, Row, draw

LABEL = "cosine, word with patch"
RELATIVE = "cosine - mean over words"


@torch.no_grad()
def word_similarity(model: MILES, video_BTCHW: Tensor, text: str) -> tuple[list[str], Tensor]:
    """-> (the words of `text`, cosine_WTYX of each with every patch of the first clip, both in the joint space)."""
    words, w_WE = encode_words(model, text)
    _, patch_BTNE = model.encode_video(video_BTCHW.to(model.device))
    cosine_WTN = torch.einsum(
        "we,tne->wtn", F.normalize(w_WE, dim=-1), F.normalize(patch_BTNE[0], dim=-1)
    )
    return words, cosine_WTN.unflatten(2, model.grid(video_BTCHW)[1:]).float().cpu()


def choose(words: Sequence[str], wanted: str | Sequence[str] | None) -> list[int]:
    """Places of the wanted words, of all without any. Raises UserError that says which words there are."""
    wanted = [wanted] if isinstance(wanted, str) else list(wanted or [])
    for word in wanted:
        if word.lower() not in [other.lower() for other in words]:
            raise UserError(
                f"--word {word}: is no word of the text; its words: {', '.join(dict.fromkeys(words))}"
            )
    low = [word.lower() for word in wanted]
    return [i for i, word in enumerate(words) if not low or word.lower() in low]


def alignment_figure(
    model: MILES | File | Sequence[MILES | File],
    clip: Tensor | File | Sequence[File],
    text: str,
    out_png: File,
    word: str | Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    *,
    relative: bool = False,
    panel: int = PANEL,
    title: str | None = None,
    device: str = "cpu",
) -> Path:
    """Write a PNG: for each clip a row of its frames and a row for each word of `text` (or for `word` alone), several
    models side by side under their `names`; one colour scale a clip. `clip`: files, or video_BTCHW.

    `relative`: less the mean over the words of the text, place by place: what a word has and the others have not.
    """
    made = models(model, device)
    blocks = []
    for views in zip(*[clips(one, clip, panel) for one in made]):
        found = [word_similarity(one, view.video_BTCHW, text) for one, view in zip(made, views)]
        words = found[0][0]
        chosen = choose(words, word)
        heats = [
            (cosine_WTYX - relative * cosine_WTYX.mean(0)).numpy()[chosen]
            for _, cosine_WTYX in found
        ]
        scale = Scale(
            min(float(heat.min()) for heat in heats),
            max(float(heat.max()) for heat in heats),
            RELATIVE if relative else LABEL,
        )
        rows = [
            Row("frame", [list(zip(view.picture_TPPC, view.titles)) for view in views], heat=False)
        ]
        for i, place in enumerate(chosen):
            rows.append(
                Row(
                    "",
                    [
                        [
                            (overlay(picture, heat, scale), words[place])
                            for picture, heat in zip(view.picture_TPPC, heat_WTYX[i])
                        ]
                        for view, heat_WTYX in zip(views, heats)
                    ],
                )
            )
        blocks.append(Block(views[0].name, rows, scale))
    return save(draw(blocks, names or (), f'"{text}"' if title is None else title), out_png)
