"""The ablation's results -> ablation.json, ablation.md and ablation.png: mean and standard deviation over the seeds."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BASELINE = "contrastive"
COLUMNS = (("t2v", "R1"), ("t2v", "R5"), ("t2v", "MedR"), ("v2t", "R1"))
ARROWS = {"t2v": "text-to-video", "v2t": "video-to-text"}


def write(out: Path, paths: Mapping[tuple[str, int], Path], titles: Mapping[str, str]) -> str:
    """Write the three files from the results.json that are there -> the table, in Markdown.

    `paths`: (variant, seed) -> results.json, which may not be there yet. `titles`: variant -> words.
    """
    found = {
        key: json.loads(path.read_text(encoding="utf-8"))
        for key, path in paths.items()
        if path.is_file()
    }
    rows = {
        name: row(name, found, sum(variant == name for variant, _ in paths))
        for name in dict.fromkeys(name for name, _ in paths)
    }
    text = table(rows, titles)
    (out / "ablation.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (out / "ablation.md").write_text(text + "\n", encoding="utf-8")
    if found:
        draw(rows, titles, out / "ablation.png")
    return f"{text}\nwritten: {out}/ablation.json, ablation.md, ablation.png"


def row(
    name: str, found: Mapping[tuple[str, int], Mapping[str, Any]], asked: int
) -> dict[str, Any]:
    """One variant: of each metric the values by seed, mean and sample standard deviation (null for one seed), and the
    same of its difference from the baseline with the same seed."""
    seeds = sorted(seed for variant, seed in found if variant == name)
    line: dict[str, Any] = {"seeds": seeds, "asked": asked}
    for way, metric in COLUMNS:
        values = {seed: found[name, seed][way][metric] for seed in seeds}
        paired = [
            values[seed] - found[BASELINE, seed][way][metric]
            for seed in seeds
            if (BASELINE, seed) in found
        ]
        line[f"{way}.{metric}"] = {
            "values": list(values.values()),
            **spread(list(values.values())),
            "difference": spread(paired),
        }
    return line


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean, and standard deviation with n - 1 (null below two values)."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def table(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Markdown: one line a variant."""
    head = [
        f"{ARROWS[way]} {metric.replace('R1', 'R@1').replace('R5', 'R@5')}"
        for way, metric in COLUMNS
    ]
    lines = [["variant", "seeds", *head, f"R@1 less that of {titles[BASELINE]}"]]
    for name, line in rows.items():
        cells = [said(line[f"{way}.{metric}"]) for way, metric in COLUMNS]
        difference = "" if name == BASELINE else said(line["t2v.R1"]["difference"], "+")
        count = str(len(line["seeds"])) + (
            f" of {line['asked']}" if len(line["seeds"]) < line["asked"] else ""
        )
        lines.append([titles[name], count, *cells, difference])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def said(cell: Mapping[str, Any], sign: str = "") -> str:
    """mean +- std, as far as there are enough seeds."""
    if cell["mean"] is None:
        return "-"
    return f"{cell['mean']:{sign}.1f}" + ("" if cell["std"] is None else f" +- {cell['std']:.1f}")


def draw(rows: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], path: Path):
    """Every run a dot, every variant's mean a bar with its standard deviation; readable without colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {name: line for name, line in rows.items() if line["seeds"]}
    figure, axes = pyplot.subplots(
        1, 2, figsize=(9, 0.9 + 0.38 * len(shown)), sharey=True, layout="constrained"
    )
    for axis, (key, label) in zip(
        axes, (("t2v.R1", "text-to-video R@1 (%)"), ("t2v.R5", "text-to-video R@5 (%)"))
    ):
        for place, line in enumerate(shown.values()):
            cell = line[key]
            axis.errorbar(
                cell["mean"],
                place,
                xerr=cell["std"],
                fmt="|",
                markersize=16,
                markeredgewidth=2,
                capsize=4,
                color="#1f4e79",
            )
            axis.plot(
                cell["values"],
                [place] * len(cell["values"]),
                "o",
                markersize=5,
                markerfacecolor="none",
                markeredgecolor="#c55a11",
            )
        if BASELINE in shown:
            axis.axvline(
                shown[BASELINE][key]["mean"], color="0.6", linewidth=1, linestyle="--", zorder=0
            )
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(shown)), [titles[name] for name in shown])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
