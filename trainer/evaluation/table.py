"""Results as a table that fits a console."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.evaluation.published import published

COLUMNS = ("R1", "R5", "R10", "R50", "MedR", "MeanR", "gmean", "mAP")
SMALL_GALLERY = 1000  # candidates below which chance is printed beside the numbers
FEW_QUERIES = 100  # below which a warning is printed
HEADS = ("R@1", "R@5", "R@10", "R@50", "MedR", "MeanR", "gmean", "mAP")


def table(
    results: Mapping[str, Any],
    metrics: tuple[str, ...] = ("t2v_metrics", "v2t_metrics"),
    compare: bool = False,
) -> str:
    """The console's table: the rows, the headline's intervals, and with `compare` the published numbers."""
    directions = [
        direction
        for direction in ("t2v", "v2t")
        if f"{direction}_metrics" in metrics and direction in results
    ]
    lines = [_title(results), _line("", "", HEADS)]
    for name, row in results["rows"].items():
        for direction in directions:
            if direction in row:
                lines.append(_line(name, direction, _numbers(row[direction])))
                if name == "raw":
                    lines += _interval_lines(results["intervals"].get(direction))
                    lines += _chance_lines(results, direction)
    if "recognition" in results:
        recognition = results["recognition"]
        lines.append(
            f"top-1 {recognition['top1']:.2f}, top-5 {recognition['top5']:.2f} of "
            f"{recognition['classes']} classes"
        )
    lines += [
        f"{name}: {row['about']}"
        for name, row in results["rows"].items()
        if name != "raw"
    ]
    queries = results.get("queries", {})
    lines += few_queries({name: queries.get(name, 0) for name in directions})
    if compare:
        lines += _published_lines(results.get("protocol"))
    return "\n".join(lines)


def few_queries(queries: Mapping[str, int]) -> list[str]:
    """A warning for numbers of queries, by direction, that are too few to tell models apart; nothing for enough."""
    few = {name: number for name, number in queries.items() if 0 < number < FEW_QUERIES}
    if not few:
        return []
    counts = " and ".join(f"{number} of {name}" for name, number in few.items())
    points = 100 / min(few.values())
    return [
        f"warning: few queries ({counts}): one more hit is {points:.1f} points of R@K"
    ]


def _title(results: Mapping[str, Any]) -> str:
    candidates = "classes" if "recognition" in results else "captions"
    protocol = results.get("protocol")
    if not protocol:
        protocol = (
            f"{results.get('dataset')} {results.get('split')} (no published protocol)"
        )
    return f"{protocol}: {results['num_captions']} {candidates} x {results['num_videos']} videos, {results['stamp']}"


def _chance_lines(results: Mapping[str, Any], direction: str) -> list[str]:
    """What guessing gets in a small gallery; no line for a large one."""
    candidates = results["num_captions"]
    if direction == "t2v":
        candidates = results["num_videos"]
    if candidates >= SMALL_GALLERY or "chance" not in results:
        return []
    return [_line("  chance", "", _numbers(results["chance"][direction]))]


def _interval_lines(intervals: Mapping[str, Sequence[float]] | None) -> list[str]:
    """Two lines: the lower and the upper ends of the 95 % intervals; none without intervals."""
    lines: list[str] = []
    if not intervals:
        return lines
    for end, name in enumerate(("  95 % from", "       to")):
        ends = {column: interval[end] for column, interval in intervals.items()}
        lines.append(_line(name, "", _numbers(ends)))
    return lines


def _published_lines(protocol: str | None) -> list[str]:
    rows, note = published(protocol)
    if not rows:
        return [
            f"published: the paper has no row for {protocol or 'a data set without a protocol'}"
        ]
    lines = ["published by the authors (arXiv 2204.12408), not measured here:"]
    lines += [_line(name, "t2v", _numbers(numbers)) for name, numbers in rows]
    if note:
        lines.append(f"note: {note}")
    return lines


def _line(name: str, direction: str, cells: Sequence[str]) -> str:
    return f"{name:<18}{direction:<5}" + "".join(f"{cell:>9}" for cell in cells)


def _numbers(values: Mapping[str, float | None]) -> list[str]:
    """A cell for each column; empty where there is no number."""
    cells = []
    for column in COLUMNS:
        value = values.get(column)
        cells.append("" if value is None else f"{value:.2f}")
    return cells
