"""Sheets: pictures in rows, to the pixel, with titles and colour bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripts.figures.heatmap import Scale, matplotlib_agg

# Pixels.
TOP = 6  # margin above the sheet
HEAD = 18  # height of the sheet's title, and of the headings
TITLE = 18  # height of a block's title
LINE = 15  # height of the titles over pictures
LEFT = 22  # margin at the left, where rows have their labels
GAP = 4  # between pictures; four of them between groups
BAR = 74  # width of a colour bar with its numbers
LETTER = 7  # width of a title's letter, about


@dataclass(frozen=True)
class Row:
    """Pictures side by side.

    Args:
        label: written at the left
        groups: one per checkpoint, each a list of (uint8 (H, W, 3), title or "")
        heat: whether the colour bar stands beside this row
    """

    label: str
    groups: Sequence[Sequence[tuple[np.ndarray, str]]]
    heat: bool = True

    @property
    def title_height(self) -> int:
        """Pixels of the titles over the pictures; 0 if no picture has one."""
        return LINE if any(title for group in self.groups for _, title in group) else 0

    @property
    def height(self) -> int:
        """Pixels of the row, with the titles over its pictures and the gap below."""
        highest = max(picture.shape[0] for group in self.groups for picture, _ in group)
        return highest + self.title_height + GAP

    def group_spans(self) -> list[tuple[int, int]]:
        """The left and right edge of each group, in pixels."""
        spans = []
        left = LEFT
        for group in self.groups:
            right = left + sum(picture.shape[1] + GAP for picture, _ in group) - GAP
            spans.append((left, right))
            left = right + 4 * GAP

        return spans


@dataclass(frozen=True)
class Block:
    """Rows under one title that share a scale; its bar stands beside those that are heat."""

    title: str
    rows: Sequence[Row]
    scale: Scale


def draw(
    blocks: Sequence[Block], headings: Sequence[str] = (), title: str = ""
) -> np.ndarray:
    """Draws a sheet -> uint8 (H, W, 3).

    Args:
        blocks: from top to bottom
        headings: one over each group of columns
        title: above all
    """
    matplotlib = matplotlib_agg()
    width, height = sheet_size(blocks, headings, title)
    figure = matplotlib.figure.Figure(
        figsize=(width / 100, height / 100), dpi=100, facecolor="white"
    )
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    page = _Page(figure, width, height)

    y = TOP
    if title:
        page.text(width / 2, y + HEAD / 2, title, size=9)
        y += HEAD
    if headings:
        for (left, right), heading in zip(_widest_spans(blocks), headings):
            page.text((left + right) / 2, y + HEAD / 2, heading, size=9, weight="bold")
        y += HEAD
    for block in blocks:
        y = _draw_block(page, block, y)

    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sheet_size(
    blocks: Sequence[Block], headings: Sequence[str] = (), title: str = ""
) -> tuple[int, int]:
    """(width, height) of the sheet in pixels."""
    longest_title = max(
        len(text) for text in (title, *(block.title for block in blocks))
    )
    _, right = _widest_spans(blocks)[-1]
    width = max(right + BAR, LETTER * longest_title + 2 * LEFT)

    height = TOP + HEAD * (bool(title) + bool(headings)) + GAP
    for block in blocks:
        height += TITLE * bool(block.title) + sum(row.height for row in block.rows)

    return width, height


def _widest_spans(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    """Left and right of each group of columns in the widest row."""
    widest: list[tuple[int, int]] = []
    for block in blocks:
        for row in block.rows:
            spans = row.group_spans()
            if not widest or spans[-1][1] > widest[-1][1]:
                widest = spans

    return widest


def _draw_block(page: "_Page", block: Block, y: int) -> int:
    """Draws a block whose top is at `y`; returns the pixel below it."""
    if block.title:
        page.text(LEFT, y + TITLE / 2, block.title, size=9, ha="left")
        y += TITLE

    heat_top = None
    for row in block.rows:
        _draw_row(page, row, y)
        if row.heat and heat_top is None:
            heat_top = y + row.title_height
        y += row.height

    if heat_top is not None:
        _, right = _widest_spans([block])[-1]
        page.bar(right + 10, heat_top, y - GAP, block.scale)
    return y


def _draw_row(page: "_Page", row: Row, y: int) -> None:
    picture_top = y + row.title_height
    picture_bottom = y + row.height - GAP
    page.text(
        LEFT / 2, (picture_top + picture_bottom) / 2, row.label, size=8, rotation=90
    )

    for (x, _), group in zip(row.group_spans(), row.groups):
        for picture, title in group:
            page.text(x + picture.shape[1] / 2, y + row.title_height / 2, title, size=8)
            page.picture(x, picture_top, picture)
            x += picture.shape[1] + GAP


class _Page:
    """A matplotlib figure whose origin is at the top left and whose unit is the pixel."""

    def __init__(self, figure: Any, width: int, height: int) -> None:
        self.figure = figure
        self.width = width
        self.height = height

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Writes a text, centred at (x, y) unless `style` says otherwise; nothing for ""."""
        style = {"ha": "center", "va": "center", "parse_math": False, **style}
        if text:
            self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def picture(self, x: int, y: int, picture_HWC: np.ndarray) -> None:
        """Puts a picture with its top left corner at (x, y)."""
        self.figure.figimage(
            picture_HWC, x, self.height - y - picture_HWC.shape[0], origin="upper"
        )

    def bar(self, x: int, top: int, bottom: int, scale: Scale) -> None:
        """Draws a colour bar from `top` to `bottom` with its numbers and label at the right."""
        box = [
            x / self.width,
            1 - bottom / self.height,
            12 / self.width,
            (bottom - top) / self.height,
        ]
        axes = self.figure.add_axes(box)
        high = scale.high
        if high <= scale.low:  # all values are equal, but an axis needs a length
            high = scale.low + 1

        axes.imshow(
            np.linspace(1, 0, 256)[:, None],
            aspect="auto",
            cmap=scale.colour_map,
            extent=(0, 1, scale.low, high),
        )

        num_ticks = 5 if bottom - top > 100 else 3
        axes.set_xticks([])
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
        axes.yaxis.set_major_locator(matplotlib_agg().ticker.MaxNLocator(num_ticks))
        axes.tick_params(labelsize=7, length=2, pad=1)
        axes.set_ylabel(scale.label, fontsize=7, labelpad=2)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/visualize.py --help")
