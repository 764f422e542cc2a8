"""The ablation's results -> ablation.json, ablation.md and ablation.png: mean and standard deviation over the seeds."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BASELINE = "contrastive"
COLUMNS = (("t2v", "R1"), ("t2v", "R5"), ("t2v", "MedR"), ("v2t", "R1"))
DIRECTIONS = {"t2v": "text-to-video", "v2t": "video-to-text"}


def write(
    out: Path, paths: Mapping[tuple[str, int], Path], titles: Mapping[str, str]
) -> str:
    """Write the three files from the results.json that exist; returns the table, in Markdown.

    Args:
        paths: {(variant, seed): results.json}, which may not exist yet
        titles: {variant: words for a reader}
    """
    results = {
        key: json.loads(path.read_text(encoding="utf-8"))
        for key, path in paths.items()
        if path.is_file()
    }
    planned_runs = Counter(variant for variant, _ in paths)
    rows = {
        variant: summarise_variant(variant, results, runs)
        for variant, runs in planned_runs.items()
    }
    text = table(rows, titles)
    (out / "ablation.json").write_text(
        json.dumps(rows, indent=2) + "\n", encoding="utf-8"
    )
    (out / "ablation.md").write_text(text + "\n", encoding="utf-8")
    if results:
        draw(rows, titles, out / "ablation.png")
    return f"{text}\nwritten: {out}/ablation.json, ablation.md, ablation.png"


def summarise_variant(
    variant: str,
    results: Mapping[tuple[str, int], Mapping[str, Any]],
    planned_runs: int,
) -> dict[str, Any]:
    """Of each metric the values by seed, their mean and sample standard deviation (null for one seed), and the same of
    the difference from the baseline with the same seed."""
    seeds = sorted(seed for name, seed in results if name == variant)
    summary: dict[str, Any] = {"seeds": seeds, "asked": planned_runs}
    for direction, metric in COLUMNS:
        values = {seed: results[variant, seed][direction][metric] for seed in seeds}
        differences = [
            values[seed] - results[BASELINE, seed][direction][metric]
            for seed in seeds
            if (BASELINE, seed) in results
        ]
        summary[f"{direction}.{metric}"] = {
            "values": list(values.values()),
            **mean_and_deviation(list(values.values())),
            "difference": mean_and_deviation(differences),
        }
    return summary


def mean_and_deviation(values: list[float]) -> dict[str, float | None]:
    """Mean (null without values), and standard deviation with n - 1 (null below two values)."""
    mean = deviation = None
    if values:
        mean = statistics.fmean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
    return {"mean": mean, "std": deviation}


def table(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Markdown: one line per variant."""
    headings = [
        f"{DIRECTIONS[direction]} {metric.replace('R1', 'R@1').replace('R5', 'R@5')}"
        for direction, metric in COLUMNS
    ]
    lines = [["variant", "seeds", *headings, f"R@1 less that of {titles[BASELINE]}"]]
    for variant, summary in rows.items():
        cells = [
            as_text(summary[f"{direction}.{metric}"]) for direction, metric in COLUMNS
        ]
        difference = ""
        if variant != BASELINE:
            difference = as_text(summary["t2v.R1"]["difference"], "+")
        seeds = str(len(summary["seeds"]))
        if len(summary["seeds"]) < summary["asked"]:
            seeds += f" of {summary['asked']}"
        lines.append([titles[variant], seeds, *cells, difference])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_text(statistics_of_runs: Mapping[str, Any], sign: str = "") -> str:
    """mean +- std, as far as there are enough seeds."""
    mean, deviation = statistics_of_runs["mean"], statistics_of_runs["std"]
    if mean is None:
        return "-"
    if deviation is None:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} +- {deviation:.1f}"


def draw(
    rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], path: Path
) -> None:
    """Draw each run as a dot, each variant's mean as a bar with its standard deviation; readable without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    finished = {
        variant: summary for variant, summary in rows.items() if summary["seeds"]
    }
    figure, axes = pyplot.subplots(
        1, 2, figsize=(9, 0.9 + 0.38 * len(finished)), sharey=True, layout="constrained"
    )
    draw_metric(axes[0], finished, "t2v.R1", "text-to-video R@1 (%)")
    draw_metric(axes[1], finished, "t2v.R5", "text-to-video R@5 (%)")
    axes[0].set_yticks(range(len(finished)), [titles[variant] for variant in finished])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_metric(
    axis: Any, rows: Mapping[str, Mapping[str, Any]], metric: str, label: str
) -> None:
    """Draw one metric of all variants, from top to bottom; a dashed line at the baseline's mean."""
    for position, summary in enumerate(rows.values()):
        runs = summary[metric]
        axis.errorbar(
            runs["mean"],
            position,
            xerr=runs["std"],
            fmt="|",
            markersize=16,
            markeredgewidth=2,
            capsize=4,
            color="#1f4e79",
        )
        axis.plot(
            runs["values"],
            [position] * len(runs["values"]),
            "o",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor="#c55a11",
        )
    if BASELINE in rows:
        axis.axvline(
            rows[BASELINE][metric]["mean"],
            color="0.6",
            linewidth=1,
            linestyle="--",
            zorder=0,
        )
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/ablation.py --help")
