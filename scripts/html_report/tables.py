"""The report's tables: metrics with intervals beside the published rows, throughput by epoch, settings, versions."""

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scripts.html_report.run_folder import Evaluation, Log, Run
from scripts.html_report.svg import format_number, is_finite
from trainer.evaluation.published import published
from trainer.evaluation.table import COLUMNS, HEADS, SMALL_GALLERY, few_queries

DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
GROUNDING_NUMBERS = {
    "pointing": "on its own object more than on another",
    "pointing_game": "highest patch on the object",
    "mean_iou": "overlap with the object",
}


def format_learning_rate(value: float) -> str:
    """Three significant digits: 3e-5, 0.00123."""
    return format_number(float(f"{value:.3g}"))


# name in log.jsonl, heading, value -> text
EPOCH_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("epoch", "epoch", str),
    ("step", "step", str),
    ("seconds", "seconds", "{:.1f}".format),
    ("samples_per_s", "samples/s", "{:.1f}".format),
    ("waiting", "waiting for data", "{:.1%}".format),
    ("lr", "learning rate", format_learning_rate),
    ("loss", "loss", "{:.4f}".format),
    ("val_loss", "validation loss", "{:.4f}".format),
    ("t2v.R1", "t2v R@1", "{:.2f}".format),
)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], css_class: str = ""
) -> str:
    """A <table>.

    Args:
        heads: headings of the columns
        rows: cells, which are HTML already; the first cell of a row is its heading
        css_class: of the table
    """
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(table_row(row) for row in rows)
    return (
        f'<div class="scroll"><table class="{css_class}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def table_row(row: Sequence[str]) -> str:
    """A <tr>, marked if it is a published result."""
    heading, *cells = row
    css_class = ""
    if heading.endswith("(published)"):
        css_class = " class=published"
    cells_html = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{css_class}><th scope="row">{heading}</th>{cells_html}</tr>'


def metrics(evaluation: Evaluation) -> str:
    """R@K of every row and direction with 95 % intervals of the headline, then the published rows."""
    results = evaluation.results
    rows = metric_rows(results)

    published_rows, published_note = published(results.get("protocol"))
    for name, numbers in published_rows:
        rows.append(
            [
                f"{escape(name)} (published)",
                DIRECTIONS["t2v"],
                *metric_cells(numbers, {}),
            ]
        )

    content = ""
    if rows:
        content += table(["", "direction", *HEADS], rows, "metrics")
    if "recognition" in results:
        accuracy = results["recognition"]
        content += (
            f"<p>top-1 {accuracy['top1']:.2f} %, top-5 {accuracy['top5']:.2f} % "
            f"of {accuracy['classes']} classes</p>"
        )

    notes = [
        f"{name}: {row['about']}"
        for name, row in results["rows"].items()
        if name != "raw"
    ]
    if "t2v" in results:
        notes.append("Small: 95 % bootstrap interval over the queries, and its ends.")
    notes += chance_notes(results)
    if published_rows:
        notes.append("Published: by the authors, arXiv 2204.12408, not measured here.")
    else:
        protocol = results.get("protocol") or "a data set without a protocol"
        notes.append(f"The paper has no row for {protocol}.")
    if published_note:
        notes.append(f"Note: {published_note}.")
    return content + "".join(note(line) for line in notes)


def chance_notes(results: Mapping[str, Any]) -> list[str]:
    """What guessing gets in a small gallery, a line per direction."""
    candidates = {"t2v": results["num_videos"], "v2t": results["num_captions"]}
    notes = []
    for direction, numbers in (results.get("chance") or {}).items():
        if candidates[direction] < SMALL_GALLERY:
            cells = [
                f"{head} {numbers[name]:.2f}"
                for name, head in zip(COLUMNS, HEADS, strict=True)
                if name in ("R1", "R5", "R10", "MedR")
            ]
            notes.append(f"Chance, {DIRECTIONS[direction]}: {', '.join(cells)}.")
    return notes + few_queries(results.get("queries") or {})


def metric_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Cells of each row of results.json ("raw" is the headline) and direction."""
    rows = []
    for name, row in results["rows"].items():
        label = name
        intervals: Mapping[str, Any] = {}
        if name == "raw":
            label = "this run"
            intervals = results.get("intervals") or {}

        for direction, direction_label in DIRECTIONS.items():
            if direction in row:
                cells = metric_cells(row[direction], intervals.get(direction) or {})
                rows.append([escape(label), direction_label, *cells])
    return rows


def metric_cells(
    numbers: Mapping[str, Any], intervals: Mapping[str, tuple[float, float]]
) -> list[str]:
    """A cell per column of the table.

    Args:
        numbers: the metrics by name; a missing or infinite one leaves its cell empty
        intervals: (low, high) by name, shown below the number
    """
    cells = []
    for column in COLUMNS:
        cell = ""
        if is_finite(numbers.get(column)):
            cell = f"{numbers[column]:.2f}"
            if intervals.get(column):
                low, high = intervals[column]
                cell += f" <small>{low:.2f} to {high:.2f}</small>"

        cells.append(cell)
    return cells


def evaluation_summary(evaluation: Evaluation) -> str:
    """One line: data set, split and sizes."""
    results = evaluation.results
    texts = "captions"
    if "recognition" in results:
        texts = "classes"

    line = (
        f"{results.get('protocol') or results.get('dataset')} {results.get('split')}: "
        f"{results['num_captions']} {texts}, {results['num_videos']} videos, {results['stamp']}"
    )
    if results.get("stands_in_for_validation"):
        line += "; the test split stands in for validation"
    return escape(line)


def throughput(log: Log) -> str:
    """Samples per second of a stage, and a folded table of its epochs."""
    epochs = log.rows.get("epoch", [])
    if not epochs:
        return note("No epoch was finished.")

    seconds = sum(row["seconds"] for row in epochs)
    samples = sum(row["seconds"] * row["samples_per_s"] for row in epochs)
    bad_files = sum(row["bad_files"] for row in epochs)
    summary = (
        f"{len(epochs)} epochs, {epochs[-1]['step']} steps, {seconds:.0f} s of training, "
        f"{samples / seconds:.1f} samples a second, {bad_files} unreadable files replaced"
    )

    memory = [row.get("memory_gib") for row in log.rows.get("step", [])]
    finite_memory = [gib for gib in memory if is_finite(gib)]
    if finite_memory:
        summary += f", {max(finite_memory):.2f} GiB at most"

    rows = [epoch_cells(row) for row in epochs]
    epoch_table = table([head for _, head, _ in EPOCH_COLUMNS], rows)
    return f"<p>{escape(summary)}.</p><details><summary>Every epoch</summary>{epoch_table}</details>"


def epoch_cells(row: Mapping[str, Any]) -> list[str]:
    """A cell per column of EPOCH_COLUMNS, empty where the epoch has no number."""
    cells = []
    for name, _, format_value in EPOCH_COLUMNS:
        value = row.get(name)
        cells.append(format_value(value) if is_finite(value) else "")
    return cells


def settings(run: Run) -> str:
    """The resolved config, folded; "" without one."""
    if not run.config:
        return ""

    config_json = json.dumps(run.config, indent=2, ensure_ascii=False)
    return f"<details><summary>The resolved config</summary><pre>{escape(config_json)}</pre></details>"


def versions(run: Run) -> str:
    """Git revision, versions of packages, command."""
    values = dict(run.versions)
    packages = values.pop("packages", None) or {}
    command = values.pop("command", None)
    if isinstance(command, list):
        values["command"] = " ".join(map(str, command))

    values.update(packages)

    rows = [
        [escape(name), f"<code>{escape(value)}</code>"]
        for name, value in values.items()
        if value
    ]
    if not rows:
        return note("not recorded")
    return table(["", "version"], rows, "plain")


def grounding(run: Run) -> str:
    """How well phrases find their objects; "" where it was not measured."""
    score = run.grounding
    if not score:
        return ""
    rows = []
    for name, words in GROUNDING_NUMBERS.items():
        if score.get(name) is not None:
            low, high = score["interval"][name]
            chance = score["chance"][name]
            rows.append(
                [
                    words,
                    f"{score[name]:.1f}",
                    f"{low:.1f} to {high:.1f}",
                    f"{chance:.1f}",
                ]
            )
    title = f"Words on objects: {score['phrases']} phrases of {score['clips']} clips"
    heads = ["%", "", "95 % interval", "chance"]
    return f"<h3>{escape(title)}</h3>{table(heads, rows)}"


def probe(run: Run) -> str:
    """What the frozen encoder knows; "" where it was not probed."""
    report = run.probe
    if not report:
        return ""
    heads = ["%", *(escape(name) for name in report["linear"])]
    rows = [
        [words, *(f"{value:.1f}" for value in report[name].values())]
        for name, words in (("linear", "linear"), ("knn", "nearest neighbours"))
    ]
    section = f"<h3>Probes of the frozen encoder</h3>{table(heads, rows)}"
    untold = report.get("untold") or {}
    if untold.get("questions"):
        section += note(
            f"What captions leave out: {untold['accuracy']:.1f} % (chance {untold['chance']:.1f} %)."
        )
    return section


def provenance(evaluation: Evaluation) -> str:
    """Which checkpoint, data and machine made an evaluation, folded."""
    results = evaluation.results
    checkpoint = results.get("checkpoint") or {}
    values = {
        "checkpoint": checkpoint.get("path"),
        "its SHA-256": checkpoint.get("sha256"),
        "data's hash": results.get("manifest_hash"),
        "date": results.get("date"),
        "device": results.get("device"),
        "processes": results.get("processes"),
        "git revision": results.get("git_revision"),
        "frames": results.get("num_frames"),
        "pixels": results.get("input_res"),
    }
    rows = [
        [name, f"<code>{escape(value)}</code>"]
        for name, value in values.items()
        if value is not None
    ]
    return (
        f"<details><summary>By what</summary>{table(['', ''], rows, 'plain')}</details>"
    )


def note(text: str) -> str:
    """A line in small print; `text` is escaped."""
    return f'<p class="note">{escape(text)}</p>'


def escape(value: Any) -> str:
    """Anything as text in HTML, never as markup."""
    return html.escape(str(value))


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
