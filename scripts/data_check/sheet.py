"""The contact sheet: what the model will see of some clips, with their captions.

C channels, H height, W width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_loader.base import TextVideoDataset
from parse_config import ConfigError, UserError
from scripts.data_check.media import spread_indices
from trainer.files import atomic_write

ROWS = 6  # videos of each data set
TRIES = 4  # videos that are tried for each row
CHARACTERS = 36  # of a caption, below each frame
NO_GLYPH = "\u25a1"  # a box in place of a character that the font does not have


def check_path(path: Path) -> None:
    """ConfigError if no sheet can be written there."""
    from matplotlib.backend_bases import FigureCanvasBase

    types = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in types:
        raise ConfigError(
            f"--sheet: {path}: a picture is written, name it with .png or another of {', '.join(sorted(types))}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"--sheet: {path.parent}: no such folder; make it first")


def draw_sheet(
    datasets: Sequence[TextVideoDataset], unreadable: Sequence[set[int]], path: Path
) -> str:
    """Write the transformed frames of some videos of each data set, normalisation undone, and the caption.

    One row per video, one column per frame; what cannot be read has no row. unreadable: indices for each data set that
    are not tried. Returns what was written, in one line. Raises UserError.
    """
    from matplotlib.figure import Figure

    rows = [
        (dataset, sample)
        for dataset, broken in zip(datasets, unreadable, strict=True)
        for sample in readable_samples(dataset, broken)
    ]
    if not rows:
        return "contact sheet: not written, no clip can be read"

    num_columns = max(len(sample["video"]) for _, sample in rows)
    figure = Figure(figsize=(2.2 * num_columns, 2.6 * len(rows)))
    figure.subplots_adjust(
        left=0.02, right=0.98, top=0.97, bottom=0.04, wspace=0.04, hspace=0.25
    )
    axes = figure.subplots(len(rows), num_columns, squeeze=False)

    num_boxes = 0
    for axes_row, (dataset, sample) in zip(axes, rows, strict=True):
        num_boxes += draw_sample(axes_row, dataset, sample)
    try:
        with atomic_write(path, "wb") as file:
            figure.savefig(file, dpi=100, format=path.suffix.lstrip(".").lower())
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--sheet: {path}: cannot be written ({reason})") from None
    boxes = f"; {num_boxes} characters that its font lacks are drawn as boxes"
    return f"contact sheet: {path}{boxes if num_boxes else ''}"


def readable_samples(
    dataset: TextVideoDataset, broken: set[int]
) -> list[dict[str, Any]]:
    """Samples of up to ROWS videos, evenly spread, that can be read."""
    samples: list[dict[str, Any]] = []
    candidates = spread_indices(dataset, ROWS)
    more = spread_indices(dataset, ROWS * TRIES)
    for index in dict.fromkeys((*candidates, *more)):
        if index in broken:
            continue
        try:
            # in training another video would stand in for a broken one
            dataset.read_clip(index, lambda length: [length // 2])
            sample = dataset[index]
        except UserError:
            continue
        if sample["video"] is not None:
            samples.append(sample)
        if len(samples) == ROWS:
            break
    return sorted(samples, key=lambda sample: sample["meta"]["index"])


def draw_sample(
    axes_row: Any, dataset: TextVideoDataset, sample: dict[str, Any]
) -> int:
    """Draw the frames of a sample into a row of axes, with their indices above and the caption below.

    Returns how many characters are drawn as boxes.
    """
    mean = torch.tensor(dataset.video.norm_mean)[:, None, None]
    std = torch.tensor(dataset.video.norm_std)[:, None, None]

    for axis in axes_row:
        axis.axis("off")

    for axis, frame_CHW, index in zip(
        axes_row, sample["video"], sample["meta"]["frames"]
    ):
        pixels_CHW = (frame_CHW * std + mean).clamp(0, 1)
        axis.imshow(pixels_CHW.permute(1, 2, 0).numpy())
        axis.set_title(f"frame {index}", fontsize=7, color="0.4")

    text = f"{dataset.name}, {sample['meta']['id']}"
    if dataset.with_captions:
        text = f"{text}: {sample['text']}"
    text = drawable(text, CHARACTERS * len(axes_row))
    axes_row[0].text(
        0,
        -0.06,
        text,
        transform=axes_row[0].transAxes,
        fontsize=8,
        va="top",
        parse_math=False,
    )
    return text.count(NO_GLYPH)


def drawable(text: str, length: int) -> str:
    """`text` on one line of at most `length` characters that the font has; others are boxes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    glyphs = get_font(findfont(FontProperties())).get_charmap()
    line = " ".join(text.split())
    if len(line) > length:
        line = f"{line[: length - 3]}..."
    return "".join(
        character if ord(character) in glyphs else NO_GLYPH for character in line
    )


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/check_data.py --help")
