"""Curves as inline SVG that follows the page's colours: no script, no library, readable in print."""

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 26
POINTS = 400  # of a curve; longer ones are means of neighbours

Curve = Sequence[tuple[float, float | None]]


def chart(
    title: str,
    curves: Mapping[str, Curve],
    x_name: str = "step",
    bounds: tuple[float, float] | None = None,
    linear: bool = False,
) -> str:
    """<figure> with `curves` {name: [(x, y or None for a gap)]}; a colour a curve, named below if there are several.

    `bounds`: of the y axis, if not those of the values. The axis is logarithmic for values that differ by a factor
    of 200, unless `linear`. "" if there is no finite value.
    """
    shown = {name: thin(curve) for name, curve in curves.items() if any(good(y) for _, y in curve)}
    if not shown:
        return ""
    xs = [x for curve in shown.values() for x, _ in curve]
    ys = [y for curve in shown.values() for _, y in curve if good(y)]
    log = not (linear or bounds) and min(ys) > 0 and max(ys) / min(ys) > 200
    low, high = bounds or padded(min(ys), max(ys), log)
    x_ticks, y_ticks = ticks(min(xs), max(xs), whole=True), (decades if log else ticks)(low, high)
    y_ticks = [ys[0]] if min(ys) == max(ys) and not bounds else y_ticks

    def place(x: float, y: float) -> tuple[float, float]:
        a, b, c = (math.log10(v) for v in (low, high, y)) if log else (low, high, y)
        across = (x - min(xs)) / ((max(xs) - min(xs)) or 1)
        up = (c - a) / ((b - a) or 1)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    lines = "".join(line(curve, place, number) for number, curve in enumerate(shown.values()))
    keys = "".join(
        f'<span class="key s{number % 6}">{html.escape(name)}</span>'
        for number, name in enumerate(shown)
    )
    keys = keys if len(shown) > 1 else ""
    gone = sum(1 for curve in curves.values() for _, y in curve if not good(y))
    note = f'<span class="note">{gone} values were not finite</span>' if gone else ""
    said = f"{title}: {', '.join(shown)} against {x_name}"
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}{" (logarithmic)" if log else ""}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(said)}">'
        f"{axes(x_ticks, y_ticks, place, low, min(xs))}{lines}</svg>"
        f'<div class="keys">{keys}{note}<span class="x">{html.escape(x_name)}</span></div></figure>'
    )


def good(value: float | None) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def thin(curve: Curve, most: int = POINTS) -> Curve:
    """At most `most` points: each the mean of as many neighbours, a gap where none of them is finite."""
    group = -(-len(curve) // most)
    if group <= 1:
        return [(x, y if good(y) else None) for x, y in curve]
    parts = (curve[start : start + group] for start in range(0, len(curve), group))
    return [(mean([x for x, _ in part]), mean([y for _, y in part if good(y)])) for part in parts]


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def line(curve: Curve, place, number: int) -> str:
    """A path with gaps; dots where points are few."""
    parts, pen = [], "M"
    for x, y in curve:
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{place(x, y)[0]} {place(x, y)[1]}")
        pen = "L"
    dots = "".join(
        '<circle cx="{}" cy="{}" r="2.5"/>'.format(*place(x, y)) for x, y in curve if y is not None
    )
    return f'<g class="s{number % 6}"><path d="{"".join(parts)}"/>{dots if len(curve) <= 40 else ""}</g>'


def axes(x_ticks: Sequence[float], y_ticks: Sequence[float], place, low: float, left: float) -> str:
    """Grid lines and their numbers."""
    across = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place(left, y)[1]}" y2="{place(left, y)[1]}"/>'
        f'<text class="y" x="{LEFT - 6}" y="{place(left, y)[1] + 4}">{number(y)}</text>'
        for y in y_ticks
    )
    along = "".join(
        f'<text class="x" x="{place(x, low)[0]}" y="{HEIGHT - 8}">{number(x)}</text>'
        for x in x_ticks
    )
    return f'<g class="axes">{across}{along}</g>'


def number(value: float) -> str:
    """Short: 0.25, 1500, 12k, 3e-5, 2.5e-5."""
    if value and (abs(value) < 1e-4 or abs(value) >= 1e7):
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value / 1000:g}k" if abs(value) >= 1e4 and value % 100 == 0 else f"{value:.6g}"


def padded(low: float, high: float, log: bool) -> tuple[float, float]:
    """A little room below and above; for a flat curve much."""
    if log:
        return low / 1.3, high * 1.3
    room = (high - low) * 0.05 or abs(high) * 0.5 or 1
    return low - room, high + room


def ticks(low: float, high: float, about: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`; `whole`: no fractions."""
    if low == high:
        return [low]
    raw = max((high - low) / about, 1 if whole else 0)
    unit = 10 ** math.floor(math.log10(raw))
    sizes = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(unit * size for size in sizes if unit * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{step * k:.10g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten between them, about six at most."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    return [10.0**power for power in range(first, last + 1, -(-(last - first) // 6) or 1)]
