"""Renders a run as one HTML file that needs no other file.

What comes from captions, paths and configs is shown as text, never as markup.
"""

import base64
import hashlib
import json
from pathlib import Path
from string import Template
from typing import Any

from scripts.html_report import curves, tables
from scripts.html_report.figures import draw_figures
from scripts.html_report.gallery import gallery_data, gallery_notes
from scripts.html_report.run_folder import Evaluation, Log, Run
from scripts.html_report.tables import escape, note
from scripts.html_report.thumbnails import Clips

TEMPLATE = Path(__file__).with_name("template.html")


def render_page(run: Run, num_queries: int = 200, num_figures: int = 3) -> str:
    """The whole page, as HTML.

    Args:
        run: what `read_run` has read
        num_queries: at most so many are shown per evaluation
        num_figures: number of clips that are drawn
    """
    clips = [Clips(evaluation) for evaluation in run.evaluations]

    galleries = ""
    for number, evaluation in enumerate(run.evaluations):
        if evaluation.ranks is not None:
            galleries += gallery_section(evaluation, clips[number], number, num_queries)

    fields = {
        "title": escape(run.config.get("name") or run.folder.resolve().name),
        "folder": escape(run.folder),
        "missing": missing_section(run),
        "results": results_sections(run),
        "curves": "".join(map(curves_section, run.logs)) or note("No log.jsonl."),
        "figures": draw_figures(run, clips, num_figures),
        "galleries": galleries or note("No ranks.jsonl."),
        "throughput": "".join(map(throughput_section, run.logs))
        or note("No log.jsonl."),
        "settings": tables.settings(run),
        "versions": tables.versions(run),
    }

    template = TEMPLATE.read_text(encoding="utf-8")
    return Template(template).substitute(fields, script_hash=script_hash(template))


def script_hash(template: str) -> str:
    """The hash by which the page's Content-Security-Policy allows its own script and no other."""
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def heading(name: str) -> str:
    """An <h3> with the name of a stage or an evaluation; "" for one without a name."""
    return f"<h3>{escape(name)}</h3>" if name else ""


def missing_section(run: Run) -> str:
    """What is missing and which command makes it; "" if nothing is."""
    if not run.missing:
        return ""

    items = "".join(
        f"<li>{escape(description)}: <code>{escape(command)}</code></li>"
        for description, command in run.missing
    )
    return (
        f'<section class="missing"><h2>What is missing</h2><ul>{items}</ul></section>'
    )


def results_sections(run: Run) -> str:
    """The metrics of all evaluations, and what else was measured."""
    evaluations = "".join(map(results_section, run.evaluations))
    return (
        (evaluations or note("No evaluation."))
        + tables.grounding(run)
        + tables.probe(run)
    )


def results_section(evaluation: Evaluation) -> str:
    """The metrics of an evaluation."""
    return (
        f"{heading(evaluation.name)}<p>{tables.evaluation_summary(evaluation)}</p>"
        f"{tables.metrics(evaluation)}{tables.provenance(evaluation)}"
    )


def curves_section(log: Log) -> str:
    """The charts of a stage."""
    charts = "".join(curves.charts(log))
    section = heading(log.stage)
    if charts:
        section += f'<div class="charts">{charts}</div>'
    else:
        section += note("No step was logged.")
    if log.torn:
        section += note(f"{log.torn} torn lines of log.jsonl are left out.")
    return section


def throughput_section(log: Log) -> str:
    """The throughput of a stage."""
    return heading(log.stage) + tables.throughput(log)


def gallery_section(
    evaluation: Evaluation, clips: Clips, number: int, num_queries: int
) -> str:
    """The notes above a gallery and its data, which the page's script draws."""
    data = gallery_data(evaluation, num_queries, clips)
    notes = "".join(note(line) for line in gallery_notes(data, clips))
    return (
        f'{heading(evaluation.name)}{notes}<div class="gallery" id="gallery-{number}"></div>'
        f'<script type="application/json" data-for="gallery-{number}">{script_json(data)}</script>'
    )


def script_json(data: Any) -> str:
    """JSON that cannot end its <script>, nor begin a comment in it."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
