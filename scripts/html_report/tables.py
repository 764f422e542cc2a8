"""The report's tables: metrics with intervals beside the published rows, throughput by epoch, settings, versions."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.html_report.run_folder import Exam, Log, Run
from scripts.html_report.svg import good, number
from trainer.evaluation.published import published
from trainer.evaluation.table import COLUMNS, HEADS

EPOCH = (
    ("epoch", "epoch", str),
    ("step", "step", str),
    ("seconds", "seconds", "{:.1f}".format),
    ("samples_per_s", "samples/s", "{:.1f}".format),
    ("waiting", "waiting for data", "{:.1%}".format),
    ("lr", "learning rate", lambda value: number(float(f"{value:.3g}"))),
    ("loss", "loss", "{:.4f}".format),
    ("val_loss", "validation loss", "{:.4f}".format),
    ("t2v.R1", "t2v R@1", "{:.2f}".format),
)
WAYS = {"t2v": "text to video", "v2t": "video to text"}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """<table>; cells are HTML already, the first of a row names it."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        f'<tr{" class=published" if row[0].endswith("(published)") else ""}><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    inner = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{inner}</div>'


def metrics(exam: Exam) -> str:
    """R@K of every row and direction with 95 % intervals of the headline, then what was published."""
    results = exam.results
    rows = [
        [
            text(name if name != "raw" else "this run"),
            WAYS[way],
            *values(row[way], spread(results, name, way)),
        ]
        for name, row in results["rows"].items()
        for way in WAYS
        if way in row
    ]
    theirs, note = published(results.get("protocol"))
    rows += [
        [f"{text(name)} (published)", WAYS["t2v"], *values(numbers, {})] for name, numbers in theirs
    ]
    made = table(["", "direction", *HEADS], rows, "metrics") if rows else ""
    if "recognition" in results:
        made += "<p>top-1 {top1:.2f} %, top-5 {top5:.2f} % of {classes} classes</p>".format(
            **results["recognition"]
        )
    notes = [f"{name}: {row['about']}" for name, row in results["rows"].items() if name != "raw"]
    if "t2v" in results:
        notes.append("Small: 95 % bootstrap interval over the queries, and its ends.")
    if theirs:
        notes.append("Published: by the authors, arXiv 2204.12408, not measured here.")
        notes += [f"Note: {note}."] if note else []
    else:
        notes.append(
            f"The paper has no row for {results.get('protocol') or 'a data set without a protocol'}."
        )
    return made + "".join(f'<p class="note">{text(line)}</p>' for line in notes)


def spread(results: Mapping[str, Any], row: str, way: str) -> Mapping[str, Any]:
    """Intervals of the headline's row."""
    return (results.get("intervals") or {}).get(way) or {} if row == "raw" else {}


def values(found: Mapping[str, Any], between: Mapping[str, Any]) -> list[str]:
    """A cell a column: the number, below it its interval."""
    cells = []
    for column in COLUMNS:
        cell = f"{found[column]:.2f}" if good(found.get(column)) else ""
        if cell and between.get(column):
            cell += " <small>{:.2f} to {:.2f}</small>".format(*between[column])
        cells.append(cell)
    return cells


def examined(exam: Exam) -> str:
    """One line: what was examined."""
    results = exam.results
    kind = "classes" if "recognition" in results else "captions"
    return text(
        f"{results.get('protocol') or results.get('dataset')} {results.get('split')}: "
        f"{results['num_captions']} {kind}, {results['num_videos']} videos, {results['stamp']}"
        + (
            "; the test split stands in for validation"
            if results.get("stands_in_for_validation")
            else ""
        )
    )


def throughput(log: Log) -> str:
    """Samples a second and what an epoch took."""
    epochs = log.rows.get("epoch", [])
    if not epochs:
        return '<p class="note">No epoch was finished.</p>'
    seconds = sum(row["seconds"] for row in epochs)
    samples = sum(row["seconds"] * row["samples_per_s"] for row in epochs)
    memory = [row["memory_gib"] for row in log.rows.get("step", []) if good(row.get("memory_gib"))]
    said = (
        f"{len(epochs)} epochs, {epochs[-1]['step']} steps, {seconds:.0f} s of training, "
        f"{samples / seconds:.1f} samples a second, "
        f"{sum(row['bad_files'] for row in epochs)} unreadable files replaced"
        + (f", {max(memory):.2f} GiB at most" if memory else "")
    )
    rows = [
        [how(row[name]) if good(row.get(name)) else "" for name, _, how in EPOCH] for row in epochs
    ]
    heads = [head for _, head, _ in EPOCH]
    return (
        f"<p>{text(said)}.</p><details><summary>Every epoch</summary>{table(heads, rows)}</details>"
    )


def settings(run: Run) -> str:
    """The resolved config, folded."""
    body = text(json.dumps(run.config, indent=2, ensure_ascii=False))
    return (
        f"<details><summary>The resolved config</summary><pre>{body}</pre></details>"
        if run.config
        else ""
    )


def made_by(run: Run) -> str:
    """Git revision, versions, command."""
    found = dict(run.versions)
    packages = found.pop("packages", None) or {}
    command = found.pop("command", None)
    if isinstance(command, list):
        found["command"] = " ".join(map(str, command))
    rows = [
        [text(key), f"<code>{text(value)}</code>"]
        for key, value in {**found, **packages}.items()
        if value
    ]
    return table(["", "version"], rows, "plain") if rows else '<p class="note">not recorded</p>'


def identity(exam: Exam) -> str:
    """What was examined by what, folded."""
    results = exam.results
    rows = [
        ["checkpoint", (results.get("checkpoint") or {}).get("path")],
        ["its SHA-256", (results.get("checkpoint") or {}).get("sha256")],
        ["data's hash", results.get("manifest_hash")],
        ["date", results.get("date")],
        ["device", results.get("device")],
        ["processes", results.get("processes")],
        ["git revision", results.get("git_revision")],
        ["frames", results.get("num_frames")],
        ["pixels", results.get("input_res")],
    ]
    shown = [[name, f"<code>{text(value)}</code>"] for name, value in rows if value is not None]
    return f"<details><summary>By what</summary>{table(['', ''], shown, 'plain')}</details>"


def text(value: Any) -> str:
    """Anything as text of HTML."""
    return html.escape(str(value))
