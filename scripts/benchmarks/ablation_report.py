"""The ablation's runs -> ablation.json, ablation.md and ablation.png: paired differences from the baseline."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks import ablation_runs
from scripts.benchmarks.ablation_plan import BASELINE, BUDGETS, Run
from scripts.benchmarks.ablation_stats import (
    LARGEST_EXACT,
    mean_and_error,
    paired,
    sign_flip_p,
    smallest_p,
)

Record = Mapping[str, Any]
Summary = dict[str, Any]  # of one variant, by metric

# Columns of the tables: metric, heading, whether there is a column of differences.
COLUMNS = (
    ("t2v.R1", "R@1", True),
    ("t2v.R5", "R@5", False),
    ("t2v.MedR", "MedR", False),
    ("grounding.pointing", "pointing", True),
    ("values.pointing", "pointing by values", True),
    ("probe.linear.all", "probe", True),
    ("probe.untold.accuracy", "untold", True),
)
POOLED = (
    "t2v.R1",
    "grounding.pointing",
    "values.pointing",
    "probe.linear.all",
    "probe.untold.accuracy",
)
BELOW_THE_BAR = 0.25  # rings in the figure, in lines
PLANNED = "planned"  # beside the metrics in a summary


def write(
    out: Path, runs: Sequence[Run], titles: Mapping[str, str], tuned: Mapping[str, Any]
) -> str:
    """Write the three files from the runs that are done; returns the tables, in Markdown.

    Args:
        runs: all that were asked for
        titles: {variant: words for a reader}
        tuned: what --tune chose, with its runs
    """
    records = [
        record for run in runs if (record := ablation_runs.read_record(run)) is not None
    ]
    groups = list(dict.fromkeys((run.budget, run.world) for run in runs))
    summaries = {
        f"{budget}/{world}": summarise(
            [run for run in runs if (run.budget, run.world) == (budget, world)],
            [r for r in records if (r["budget"], r["world"]) == (budget, world)],
        )
        for budget, world in groups
    }
    pooled = {
        budget: pool([summaries[f"{b}/{w}"] for b, w in groups if b == budget])
        for budget in dict.fromkeys(budget for budget, _ in groups)
    }
    out.mkdir(parents=True, exist_ok=True)
    ablation_runs.write_json(
        out / "ablation.json",
        {"runs": records, "summary": summaries, "pooled": pooled, "tuning": tuned},
    )
    text = report_text(summaries, pooled, titles, tuned)
    (out / "ablation.md").write_text(text, encoding="utf-8")
    written = "ablation.json, ablation.md"
    if any(record["variant"] != BASELINE for record in records):
        draw(summaries, titles, out / "ablation.png")
        written += ", ablation.png"
    return f"{text}\nwritten: {out}/{written}"


def summarise(runs: Sequence[Run], records: Sequence[Record]) -> dict[str, Summary]:
    """Of each variant and metric the values by seed, their mean and standard error, the same of the differences.

    Args:
        runs: those that were planned of one world and budget
        records: of those that are done
    """
    by_variant: dict[str, dict[int, Mapping[str, float]]] = {}
    for run in runs:
        by_variant.setdefault(run.variant, {})
    for record in records:
        by_variant[record["variant"]][record["seed"]] = record["metrics"]
    baseline = by_variant.get(BASELINE, {})
    return {
        variant: {
            **summarise_variant(by_seed, baseline),
            PLANNED: sum(run.variant == variant for run in runs),
        }
        for variant, by_seed in by_variant.items()
    }


def summarise_variant(
    by_seed: Mapping[int, Mapping[str, float]],
    baseline: Mapping[int, Mapping[str, float]],
) -> Summary:
    """{metric: {"values": {seed: value}, "mean", "standard_error", "difference": paired with the baseline}}."""
    metrics = dict.fromkeys(
        name for seed_metrics in by_seed.values() for name in seed_metrics
    )
    summary: Summary = {}
    for metric in metrics:
        values = {
            seed: seed_metrics[metric]
            for seed, seed_metrics in sorted(by_seed.items())
            if metric in seed_metrics
        }
        differences = {
            seed: value - baseline[seed][metric]
            for seed, value in values.items()
            if metric in baseline.get(seed, {})
        }
        summary[metric] = {
            "values": values,
            **mean_and_error(list(values.values())),
            "difference": {
                "seeds": list(differences),
                **paired(list(differences.values())),
            },
        }
    return summary


def pool(worlds: Sequence[Mapping[str, Summary]]) -> dict[str, Summary]:
    """Of each variant, over the worlds where it has differences: their mean and the p of all of them together."""
    pooled: dict[str, Summary] = {}
    for variant in dict.fromkeys(name for world in worlds for name in world):
        if variant == BASELINE:
            continue
        pooled[variant] = {}
        for metric in POOLED:
            blocks = [
                world[variant][metric]["difference"]["values"]
                for world in worlds
                if metric in world.get(variant, {})
            ]
            blocks = [block for block in blocks if block]
            if blocks:
                means = [sum(block) / len(block) for block in blocks]
                pooled[variant][metric] = {
                    "worlds": len(blocks),
                    "pairs": sum(map(len, blocks)),
                    "mean": sum(means) / len(means),
                    "p": sign_flip_p(blocks),
                }
    return pooled


def report_text(
    summaries: Mapping[str, Mapping[str, Summary]],
    pooled: Mapping[str, Mapping[str, Summary]],
    titles: Mapping[str, str],
    tuned: Mapping[str, Any],
) -> str:
    """The tables, each world and budget one, then the worlds together, with what is needed to read them."""
    sections = []
    for name, summary in summaries.items():
        budget, _, world = name.partition("/")
        sections += [f"### {world}, {BUDGETS[budget]}", table(summary, titles)]
    for budget, variants in pooled.items():
        if any(variants.values()):
            sections.append(f"### worlds together, {BUDGETS[budget]}")
            sections.append(pooled_table(variants, titles))
    sections += [caption(summaries, titles), tuning_text(summaries, titles, tuned)]
    return "\n\n".join(section for section in sections if section) + "\n"


def caption(
    summaries: Mapping[str, Mapping[str, Summary]], titles: Mapping[str, str]
) -> str:
    """How the tables are read."""
    counts = [
        len(metrics["difference"]["values"])
        for summary in summaries.values()
        for variant, variant_summary in summary.items()
        for metric, metrics in variant_summary.items()
        if variant != BASELINE and metric in POOLED
    ]
    text = (
        "Means over the seeds, +- one standard error. Differences: from "
        f"{titles[BASELINE]} with the same seed, in brackets Student's 95 % interval. p: exact two-sided sign-flip "
        "test of the paired differences, not corrected for the number of variants."
    )
    pairs = max(counts, default=0)
    if pairs:
        text += f" With {pairs} pairs the least possible p is 2/{2**pairs} = {smallest_p(pairs):.3g}"
        text += (
            "; worlds together: every pair of every world is flipped on its own (all flips up to "
            f"{LARGEST_EXACT} pairs, else 100,000 drawn)."
        )
    return text


def tuning_text(
    summaries: Mapping[str, Mapping[str, Summary]],
    titles: Mapping[str, str],
    tuned: Mapping[str, Any],
) -> str:
    """What was chosen on validation, and which variants it was not chosen for."""
    if not tuned:
        return "No setting was tuned: every variant has those of its config."
    sentences = []
    for budget, choices in tuned.items():
        settings_texts = [
            f"{titles.get(variant, variant)} "
            + ", ".join(f"{key} {value}" for key, value in choice["settings"].items())
            for variant, choice in choices.items()
        ]
        sentences.append(
            f"Chosen on validation, {BUDGETS[budget]}: {'; '.join(settings_texts)}."
        )
    known = {variant for choices in tuned.values() for variant in choices}
    reported = dict.fromkeys(v for summary in summaries.values() for v in summary)
    missing = [titles[variant] for variant in reported if variant not in known]
    if missing:
        sentences.append(f"Not tuned: {', '.join(missing)}.")
    return " ".join(sentences)


def table(summary: Mapping[str, Summary], titles: Mapping[str, str]) -> str:
    """Markdown: one line per variant."""
    present = {metric for metrics in summary.values() for metric in metrics}
    columns = [column for column in COLUMNS if column[0] in present]
    lines = [["variant", "seeds"]]
    for _, heading, with_difference in columns:
        lines[0].append(heading)
        if with_difference:
            lines[0] += [f"{heading} difference", "p"]
    for variant, metrics in summary.items():
        line = [titles[variant], seeds_text(metrics)]
        for metric, _, with_difference in columns:
            result = metrics.get(metric, {})
            line.append(as_text(result))
            if with_difference:
                is_baseline = variant == BASELINE
                line += difference_cells({} if is_baseline else result)
        lines.append(line)
    return markdown(lines)


def seeds_text(metrics: Summary) -> str:
    """How many seeds are done, and of how many where some are missing."""
    done = max(
        (len(result["values"]) for name, result in metrics.items() if name != PLANNED),
        default=0,
    )
    return str(done) if done == metrics[PLANNED] else f"{done} of {metrics[PLANNED]}"


def pooled_table(variants: Mapping[str, Summary], titles: Mapping[str, str]) -> str:
    """Markdown: the mean difference over the worlds, and its p."""
    present = {metric for metrics in variants.values() for metric in metrics}
    columns = [column for column in COLUMNS if column[0] in present]
    lines = [["variant", "pairs"]]
    for _, heading, _ in columns:
        lines[0] += [f"{heading} difference", "p"]
    for variant, metrics in variants.items():
        if not metrics:
            continue
        pairs = max(result["pairs"] for result in metrics.values())
        line = [titles[variant], str(pairs)]
        for metric, _, _ in columns:
            result = metrics.get(metric)
            if result:
                line += [f"{result['mean']:+.1f}", p_text(result["p"])]
            else:
                line += ["", ""]
        lines.append(line)
    return markdown(lines)


def difference_cells(found: Mapping[str, Any]) -> list[str]:
    """The difference with its error and interval, and the p; empty without pairs."""
    difference = found.get("difference", {})
    if not difference.get("values"):
        return ["", ""]
    text = as_text(difference, "+")
    if difference["interval_95"]:
        low, high = difference["interval_95"]
        text += f" [{low:+.1f}, {high:+.1f}]"
    return [text, p_text(difference["p"])]


def as_text(found: Mapping[str, Any], sign: str = "") -> str:
    """mean +- standard error, as far as there are enough seeds."""
    mean, error = found.get("mean"), found.get("standard_error")
    if mean is None:
        return "-"
    if error is None:
        return f"{mean:{sign}.1f}"
    return f"{mean:{sign}.1f} +- {error:.1f}"


def p_text(p: float) -> str:
    """Four decimals, or less than the least of them."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def markdown(lines: Iterable[Sequence[str]]) -> str:
    """A table whose first line is the heading."""
    first, *rest = lines
    rows = [first, ["---"] * len(first), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(
    summaries: Mapping[str, Mapping[str, Summary]],
    titles: Mapping[str, str],
    path: Path,
    metric: str = "t2v.R1",
) -> None:
    """Draw the differences from the baseline: a panel per world and budget, a line per variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name.partition("/") for name in summaries]
    budgets = list(dict.fromkeys(budget for budget, _, _ in names))
    worlds = list(dict.fromkeys(world for _, _, world in names))
    variants = list(dict.fromkeys(v for summary in summaries.values() for v in summary))
    variants = [variant for variant in variants if variant != BASELINE]
    figure, axes = pyplot.subplots(
        len(budgets),
        len(worlds),
        figsize=(9, len(budgets) * (1.1 + 0.32 * len(variants))),
        sharey=True,
        sharex="row",
        squeeze=False,
        layout="constrained",
    )
    for budget, row in zip(budgets, axes, strict=True):
        for world, axis in zip(worlds, row, strict=True):
            summary = summaries.get(f"{budget}/{world}", {})
            draw_differences(axis, summary, variants, metric)
            axis.set_title(f"{world}, {BUDGETS[budget]}", fontsize=9)
    axes[0, 0].set_yticks(range(len(variants)), [titles[name] for name in variants])
    axes[0, 0].set_ylim(len(variants) - 0.5, -0.5)
    figure.supxlabel(f"R@1 less that of {titles[BASELINE]} (points)", fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_differences(
    axis: Any, summary: Mapping[str, Summary], variants: Sequence[str], metric: str
) -> None:
    """Draw the mean as a bar with two standard errors on either side, below it a ring for each seed; dashed: zero."""
    for position, variant in enumerate(variants):
        difference = summary.get(variant, {}).get(metric, {}).get("difference", {})
        if not difference.get("values"):
            continue
        values, error = difference["values"], difference["standard_error"]
        axis.errorbar(
            difference["mean"],
            position,
            xerr=None if error is None else 2 * error,
            fmt="|",
            markersize=13,
            markeredgewidth=2,
            capsize=4,
            color="#1f4e79",
        )
        axis.plot(
            values,
            [position + BELOW_THE_BAR] * len(values),
            "o",
            markersize=4.5,
            markerfacecolor="none",
            markeredgecolor="#c55a11",
        )
    axis.axvline(0, color="0.3", linewidth=1, linestyle="--", zorder=0)
    axis.grid(axis="x", alpha=0.3)
    axis.tick_params(labelsize=9)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/ablation.py --help")
