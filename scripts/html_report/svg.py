"""Curves as inline SVG that follows the page's colours: no script, no library, readable in print."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26  # margins around the plot
NUM_COLORS = 6
MAX_POINTS = 400  # of a curve; longer ones are means of neighbours
MAX_DOTS = 40  # a curve of so few points also gets a dot per point
LOG_RATIO = 200  # values that differ by a larger factor get a logarithmic axis

Curve = Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Axis:
    """The range of an axis, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def fraction(self, value: float) -> float:
        """Where `value` lies on the axis: 0 at `low`, 1 at `high`."""
        low = self.low
        high = self.high
        if self.log:
            low = math.log10(low)
            high = math.log10(high)
            value = math.log10(value)

        return (value - low) / ((high - low) or 1)

    def ticks(self) -> list[float]:
        """Round numbers of the range."""
        if self.log:
            return decades(self.low, self.high)
        return ticks(self.low, self.high)


@dataclass(frozen=True)
class Plot:
    """Both axes of a chart, in pixels of its SVG."""

    x_axis: Axis
    y_axis: Axis

    def to_pixels(self, x: float, y: float) -> tuple[float, float]:
        """Pixels from the left and from the top."""
        right = self.x_axis.fraction(x) * (WIDTH - LEFT - RIGHT)
        up = self.y_axis.fraction(y) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + right, 1), round(HEIGHT - BOTTOM - up, 1)


def chart(
    title: str,
    curves: Mapping[str, Curve],
    x_name: str = "step",
    bounds: tuple[float, float] | None = None,
    linear: bool = False,
) -> str:
    """Draws curves as a <figure>, one colour per curve; "" if there is no finite value.

    Args:
        title: of the chart
        curves: {name: [(x, y or None for a gap)]}; several curves are named below the chart
        x_name: of the x axis
        bounds: of the y axis, if not those of the values
        linear: whether the y axis is linear; else it is logarithmic for values that differ by a factor of LOG_RATIO
    """
    drawn_curves = {
        name: downsample(curve)
        for name, curve in curves.items()
        if any(is_finite(y) for _, y in curve)
    }
    if not drawn_curves:
        return ""

    xs = [x for curve in drawn_curves.values() for x, _ in curve]
    ys = [y for curve in drawn_curves.values() for _, y in curve if is_finite(y)]
    plot = Plot(Axis(min(xs), max(xs)), y_axis(ys, bounds, linear))
    x_ticks = ticks(min(xs), max(xs), whole=True)
    y_ticks = plot.y_axis.ticks()
    if min(ys) == max(ys) and not bounds:
        y_ticks = [ys[0]]

    lines = "".join(
        draw_curve(curve, plot, color)
        for color, curve in enumerate(drawn_curves.values())
    )
    caption = html.escape(title)
    if plot.y_axis.log:
        caption += " (logarithmic)"
    label = html.escape(f"{title}: {', '.join(drawn_curves)} against {x_name}")
    return (
        f'<figure class="chart"><figcaption>{caption}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{axes(x_ticks, y_ticks, plot)}{lines}</svg>"
        f'<div class="keys">{legend(list(drawn_curves))}{gap_note(curves)}'
        f'<span class="x">{html.escape(x_name)}</span></div></figure>'
    )


def y_axis(
    ys: Sequence[float], bounds: tuple[float, float] | None, linear: bool
) -> Axis:
    """The axis for finite values `ys`; see `chart`."""
    if bounds:
        low, high = bounds
        return Axis(low, high)

    log = not linear and min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO
    low, high = padded_range(min(ys), max(ys), log)
    return Axis(low, high, log)


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether `value` is a number, and neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)


def downsample(curve: Curve, max_points: int = MAX_POINTS) -> Curve:
    """At most `max_points` points, each the mean of a group of neighbours.

    A group without a finite value becomes a gap. Groups are of one size, except for the last.
    """
    group_size = math.ceil(len(curve) / max_points)
    if group_size <= 1:
        return [(x, y if is_finite(y) else None) for x, y in curve]

    points: list[tuple[float, float | None]] = []
    for start in range(0, len(curve), group_size):
        group = curve[start : start + group_size]
        ys = [y for _, y in group if is_finite(y)]

        x_mean = sum(x for x, _ in group) / len(group)
        y_mean = sum(ys) / len(ys) if ys else None
        points.append((x_mean, y_mean))

    return points


def draw_curve(curve: Curve, plot: Plot, color: int) -> str:
    """A line with gaps, and dots where points are few.

    Args:
        curve: its points
        plot: where points lie
        color: number of the curve's colour, a CSS class of the page
    """
    commands = []
    dots = []
    command = "M"  # move to a point, "L": draw a line to it
    for x, y in curve:
        if y is None:
            command = "M"
            continue

        left, top = plot.to_pixels(x, y)
        commands.append(f"{command}{left} {top}")
        dots.append(f'<circle cx="{left}" cy="{top}" r="2.5"/>')
        command = "L"

    if len(curve) > MAX_DOTS:
        dots = []
    return f'<g class="s{color % NUM_COLORS}"><path d="{"".join(commands)}"/>{"".join(dots)}</g>'


def axes(x_ticks: Sequence[float], y_ticks: Sequence[float], plot: Plot) -> str:
    """The grid and its numbers.

    Args:
        x_ticks: each gets a number
        y_ticks: each gets a number and a horizontal line
        plot: where they lie
    """
    elements = []
    for y in y_ticks:
        _, top = plot.to_pixels(plot.x_axis.low, y)
        elements.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top}" y2="{top}"/>'
        )
        elements.append(
            f'<text class="y" x="{LEFT - 6}" y="{top + 4}">{format_number(y)}</text>'
        )

    for x in x_ticks:
        left, _ = plot.to_pixels(x, plot.y_axis.low)
        elements.append(
            f'<text class="x" x="{left}" y="{HEIGHT - 8}">{format_number(x)}</text>'
        )
    return f'<g class="axes">{"".join(elements)}</g>'


def legend(names: Sequence[str]) -> str:
    """The names of several curves in their colours; "" for one curve."""
    if len(names) < 2:
        return ""

    return "".join(
        f'<span class="key s{color % NUM_COLORS}">{html.escape(name)}</span>'
        for color, name in enumerate(names)
    )


def gap_note(curves: Mapping[str, Curve]) -> str:
    """How many values were not finite; "" if all were."""
    gaps = sum(not is_finite(y) for curve in curves.values() for _, y in curve)
    if not gaps:
        return ""
    return f'<span class="note">{gaps} values were not finite</span>'


def format_number(value: float) -> str:
    """Short: 0.25, 1500, 12k, 3e-5, 2.5e-5."""
    if value and (abs(value) < 1e-4 or abs(value) >= 1e7):
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"

    if abs(value) >= 1e4 and value % 100 == 0:
        return f"{value / 1000:g}k"

    return f"{value:.6g}"


def padded_range(low: float, high: float, log: bool) -> tuple[float, float]:
    """A y range with a margin below and above, a large one around a flat curve."""
    if log:
        return low / 1.3, high * 1.3

    margin = (high - low) * 0.05 or abs(high) * 0.5 or 1
    return low - margin, high + margin


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`.

    Args:
        low: end of the range
        high: other end
        count: about so many numbers
        whole: whether numbers have no fractions
    """
    if low == high:
        return [low]

    min_step = (high - low) / count
    factors: tuple[float, ...] = (1, 2, 2.5, 5, 10)
    if whole:
        min_step = max(min_step, 1)
        factors = (1, 2, 5, 10)

    unit = 10 ** math.floor(math.log10(min_step))
    step = next(
        unit * factor for factor in factors if unit * factor >= min_step * 0.999
    )
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{step * k:.10g}") for k in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`, about six at most."""
    first = math.ceil(math.log10(low))
    last = math.floor(math.log10(high))
    stride = math.ceil((last - first) / 6) or 1
    return [10.0**power for power in range(first, last + 1, stride)]


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
