"""log.jsonl -> charts of losses, learning rate, momentum, gradient norm, validation, speed, and every other number."""

from collections.abc import Iterator, Mapping, Sequence
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
    "clip_rank": "Effective rank of clip embeddings",
    "patch_rank": "Effective rank of patch features",
    "clip_mean": "Clip embeddings: share in common",
    "patch_mean": "Patch features: share in common",
    "temperature": "Temperature of the contrastive loss",
    "agreement": "Student and teacher: cosine",
    "mvm_explained": "Masked visual modeling: share explained",
    "mvm_gradient_share": "Masked visual modeling: share of the gradient",
    "loss": "Loss",
    "loss_vt": "Contrastive loss (loss_vt)",
    "loss_mvm": "Masked visual modeling (loss_mvm)",
}
COUNTERS = {"kind", "epoch", "step", "samples"}  # numbers of a line that are not drawn
DIRECTIONS = {"t2v": "Validation, text to video", "v2t": "Validation, video to text"}
RECALLS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50"}
BEFORE_RECALLS = 3  # charts between the losses and the recalls

Rows = Sequence[Mapping[str, Any]]


def charts(log: Log) -> list[str]:
    """A <figure> per quantity: losses, learning rate and the next two, recalls, and the remaining ones."""
    step_rows = log.rows.get("step", [])
    epoch_rows = [*log.rows.get("epoch", []), *log.rows.get("validation", [])]
    epoch_rows.sort(key=_step)

    names = list(
        dict.fromkeys(name for row in step_rows for name in row if name not in COUNTERS)
    )
    loss_names = [name for name in names if name.startswith("loss") and "/" not in name]
    other_names = [name for name in names if not name.startswith("loss")]

    ordered_names = [name for name in TITLES if name in other_names]
    ordered_names += [name for name in other_names if name not in TITLES]

    figures = [loss_chart(name, names, step_rows, epoch_rows) for name in loss_names]
    figures += [step_chart(name, step_rows) for name in ordered_names[:BEFORE_RECALLS]]
    figures += recall_charts(epoch_rows)
    figures += [step_chart(name, step_rows) for name in ordered_names[BEFORE_RECALLS:]]
    health_rows = log.rows.get("health", [])
    health_names = dict.fromkeys(name for row in health_rows for name in row)
    figures += [
        step_chart(name, health_rows) for name in health_names if name not in COUNTERS
    ]
    return [figure for figure in figures if figure]


def loss_chart(
    loss_name: str, names: Sequence[str], step_rows: Rows, epoch_rows: Rows
) -> str:
    """A loss in training, per loader where there are several, and in validation.

    Args:
        loss_name: name in the log, such as "loss_vt"; "loss_vt/NAME" is that of a loader, "val_loss_vt" of validation
        names: all names in the lines of steps
        step_rows: lines of steps
        epoch_rows: lines of epochs and validations
    """
    curves = {"training": curve(step_rows, loss_name)}
    for name in names:
        if name.startswith(f"{loss_name}/"):
            loader = name.partition("/")[2]
            curves[f"training, loader {loader}"] = curve(step_rows, name)

    curves["validation"] = curve(epoch_rows, f"val_{loss_name}")
    return chart(TITLES.get(loss_name, loss_name), curves)


def step_chart(name: str, step_rows: Rows) -> str:
    """A quantity that is logged with the steps."""
    return chart(
        TITLES.get(name, name), {name: curve(step_rows, name)}, linear=name == "lr"
    )


def recall_charts(epoch_rows: Rows) -> Iterator[str]:
    """R@K in percent by epoch's end, a chart per direction."""
    for direction, title in DIRECTIONS.items():
        curves = {
            name: curve(epoch_rows, f"{direction}.{key}")
            for key, name in RECALLS.items()
        }
        yield chart(title, curves, bounds=(0, 100))


def curve(rows: Rows, name: str) -> Curve:
    """[(step, value)] of the rows that hold the value; None where it was not finite."""
    return [(row["step"], row[name]) for row in rows if name in row]


def _step(row: Mapping[str, Any]) -> int:
    return row["step"]


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
