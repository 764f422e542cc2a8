"""log.jsonl -> charts: losses by part, learning rate, momentum, gradient norm, validation, speed, and whatever else."""

from collections.abc import Iterator
from typing import Any

from scripts.html_report.run_folder import Log
from scripts.html_report.svg import Curve, chart

TITLES = {
    "lr": "Learning rate",
    "momentum": "Teacher momentum",
    "grad_norm": "Gradient norm",
    "samples_per_s": "Samples a second",
    "waiting": "Share of time waiting for data",
    "memory_gib": "Memory, GiB",
    "loss": "Loss",
    "loss_vt": "Contrastive loss (loss_vt)",
    "loss_mvm": "Masked visual modeling (loss_mvm)",
}
COUNTERS = {"kind", "epoch", "step"}
WAYS = {"t2v": "Validation, text to video", "v2t": "Validation, video to text"}
RECALLS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50"}


def charts(log: Log) -> list[str]:
    """<figure>s, losses first."""
    steps = log.rows.get("step", [])
    epochs = sorted(
        [*log.rows.get("epoch", []), *log.rows.get("validation", [])], key=lambda row: row["step"]
    )
    names = list(dict.fromkeys(name for row in steps for name in row if name not in COUNTERS))
    parts = [name for name in names if name.startswith("loss") and "/" not in name]
    others = [name for name in names if not name.startswith("loss")]
    order = [name for name in TITLES if name in others] + [
        name for name in others if name not in TITLES
    ]
    made = [loss(part, names, steps, epochs) for part in parts]
    made += [
        chart(TITLES.get(name, name), {name: curve(steps, name)}, linear=name == "lr")
        for name in order[:3]
    ]
    made += list(recalls(epochs))
    made += [chart(TITLES.get(name, name), {name: curve(steps, name)}) for name in order[3:]]
    return [figure for figure in made if figure]


def loss(
    part: str, names: list[str], steps: list[dict[str, Any]], epochs: list[dict[str, Any]]
) -> str:
    """One part of the loss: in training, of each loader where there are several, and in validation."""
    curves = {"training": curve(steps, part)}
    curves |= {
        f"training, loader {name.partition('/')[2]}": curve(steps, name)
        for name in names
        if name.startswith(f"{part}/")
    }
    curves["validation"] = curve(epochs, f"val_{part}")
    return chart(TITLES.get(part, part), curves)


def recalls(epochs: list[dict[str, Any]]) -> Iterator[str]:
    """R@K in percent by epoch's end, each direction."""
    for way, title in WAYS.items():
        yield chart(
            title,
            {name: curve(epochs, f"{way}.{key}") for key, name in RECALLS.items()},
            bounds=(0, 100),
        )


def curve(rows: list[dict[str, Any]], name: str) -> Curve:
    """[(step, value)]; None where the value was not finite."""
    return [(row["step"], row[name]) for row in rows if name in row]
