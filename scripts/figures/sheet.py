"""Sheets: pictures in rows, to the pixel, with titles and colour bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.figures.heatmap import Scale, matplotlib_agg

TOP, HEAD, TITLE, LINE, LEFT, GAP, BAR = 6, 18, 18, 15, 22, 4, 74  # pixels
LETTER = 7  # pixels of a title's letter, about


@dataclass(frozen=True)
class Row:
    """Pictures side by side: groups (one a checkpoint) of (uint8 (H, W, 3), title or "")."""

    label: str
    groups: Sequence[Sequence[tuple[np.ndarray, str]]]
    heat: bool = True


@dataclass(frozen=True)
class Block:
    """Rows under one title that share a scale; its bar stands beside those that are heat."""

    title: str
    rows: Sequence[Row]
    scale: Scale


def draw(blocks: Sequence[Block], headings: Sequence[str] = (), title: str = "") -> np.ndarray:
    """The sheet -> uint8 (H, W, 3). `headings`: one over each group of columns."""
    matplotlib = matplotlib_agg()
    width, height = sheet_size(blocks, headings, title)
    figure = matplotlib.figure.Figure(
        figsize=(width / 100, height / 100), dpi=100, facecolor="white"
    )
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    page = _Page(figure, width, height)
    down = TOP
    if title:
        page.text(width / 2, down + HEAD / 2, title, size=9)
        down += HEAD
    if headings:
        for (left, right), heading in zip(_spans(blocks), headings):
            page.text((left + right) / 2, down + HEAD / 2, heading, size=9, weight="bold")
        down += HEAD
    for block in blocks:
        down = _draw_block(page, block, down)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sheet_size(
    blocks: Sequence[Block], headings: Sequence[str] = (), title: str = ""
) -> tuple[int, int]:
    """(width, height) of the sheet in pixels."""
    longest = max(len(text) for text in (title, *(block.title for block in blocks)))
    width = max(max(right for _, right in _spans(blocks)) + BAR, LETTER * longest + 2 * LEFT)
    height = sum(
        TITLE * bool(block.title) + sum(row_height(row) for row in block.rows) for block in blocks
    )
    return width, TOP + HEAD * (bool(title) + bool(headings)) + height + GAP


def row_height(row: Row) -> int:
    """Pixels of a row, with the titles over its pictures and the gap below."""
    pictures = [panel for group in row.groups for panel in group]
    return max(p.shape[0] for p, _ in pictures) + (LINE if any(t for _, t in pictures) else 0) + GAP


def _spans(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """Left and right of each group of columns: of the widest row."""

    def spans(row: Row) -> list[tuple[int, int]]:
        found, x = [], LEFT
        for group in row.groups:
            wide = sum(p.shape[1] + GAP for p, _ in group) - GAP
            found.append((x, x + wide))
            x += wide + 4 * GAP
        return found

    return max(
        (spans(row) for block in blocks for row in block.rows), key=lambda found: found[-1][1]
    )


def _draw_block(page: "_Page", block: Block, down: int) -> int:
    if block.title:
        page.text(LEFT, down + TITLE / 2, block.title, size=9, ha="left")
        down += TITLE
    heat_top = None
    for row in block.rows:
        below = down + row_height(row)
        titled = LINE if any(t for group in row.groups for _, t in group) else 0
        page.text(LEFT / 2, (down + titled + below - GAP) / 2, row.label, size=8, rotation=90)
        for (x, _), group in zip(_spans([Block("", [row], block.scale)]), row.groups):
            for picture, title in group:
                page.text(x + picture.shape[1] / 2, down + titled / 2, title, size=8)
                page.picture(x, down + titled, picture)
                x += picture.shape[1] + GAP
        if row.heat and heat_top is None:
            heat_top = down + titled
        down = below
    if heat_top is not None:
        page.bar(_spans([block])[-1][1] + 10, heat_top, down - GAP, block.scale)
    return down


class _Page:
    """A matplotlib figure whose origin is at the top left and whose unit is the pixel."""

    def __init__(self, figure: Any, width: int, height: int):
        self.figure, self.width, self.height = figure, width, height

    def text(self, x: float, y: float, text: str, **style: Any):
        style = {"ha": "center", "va": "center", "parse_math": False, **style}
        if text:
            self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def picture(self, x: int, y: int, picture_HWC: np.ndarray):
        self.figure.figimage(picture_HWC, x, self.height - y - picture_HWC.shape[0], origin="upper")

    def bar(self, x: int, top: int, bottom: int, scale: Scale):
        box = [
            x / self.width,
            1 - bottom / self.height,
            12 / self.width,
            (bottom - top) / self.height,
        ]
        axes = self.figure.add_axes(box)
        high = scale.high if scale.high > scale.low else scale.low + 1  # all values are one
        axes.imshow(
            np.linspace(1, 0, 256)[:, None],
            aspect="auto",
            cmap=scale.colours,
            extent=(0, 1, scale.low, high),
        )
        axes.set_xticks([])
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.yaxis.set_major_locator(
            matplotlib_agg().ticker.MaxNLocator(5 if bottom - top > 100 else 3)
        )
        axes.tick_params(labelsize=7, length=2, pad=1)
        axes.set_ylabel(scale.label, fontsize=7, labelpad=2)
