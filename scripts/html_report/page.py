"""Parts -> one HTML file that needs nothing else. What comes from captions, paths and configs is text, never markup."""

import base64
import hashlib
import json
import re
from pathlib import Path
from string import Template
from typing import Any

from scripts.html_report import tables
from scripts.html_report.curves import charts as loss_charts
from scripts.html_report.figures import figures, note
from scripts.html_report.gallery import gallery, said
from scripts.html_report.run_folder import Exam, Run
from scripts.html_report.tables import text
from scripts.html_report.thumbnails import Clips

TEMPLATE = Path(__file__).with_name("template.html")


def page(run: Run, limit: int = 200, drawn: int = 3) -> str:
    """The whole page, with `limit` queries of each exam and figures of `drawn` clips."""
    clips = [Clips(exam) for exam in run.exams]
    galleries = "".join(
        one(exam, its, number, limit)
        for number, (exam, its) in enumerate(zip(run.exams, clips))
        if exam.ranks is not None
    )
    name = run.config.get("name") or run.folder.resolve().name
    parts = {
        "title": text(name),
        "folder": text(run.folder),
        "missing": missing(run),
        "results": results(run),
        "curves": curves(run),
        "figures": figures(run, clips, drawn),
        "galleries": galleries or note("No ranks.jsonl."),
        "throughput": throughput(run),
        "settings": tables.settings(run),
        "versions": tables.made_by(run),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(template).substitute(parts, script_hash=f"sha256-{digest}")


def missing(run: Run) -> str:
    """What is not there and which command makes it; "" if all is there."""
    rows = "".join(
        f"<li>{text(what)}: <code>{text(command)}</code></li>" for what, command in run.missing
    )
    return (
        f'<section class="missing"><h2>What is missing</h2><ul>{rows}</ul></section>'
        if rows
        else ""
    )


def results(run: Run) -> str:
    """A table for each exam."""
    return "".join(
        f"{heading(exam)}<p>{tables.examined(exam)}</p>{tables.metrics(exam)}"
        f"{tables.identity(exam)}"
        for exam in run.exams
    ) or note("No exam.")


def heading(exam: Exam) -> str:
    """Of an exam in a folder of its own."""
    return f"<h3>{text(exam.name)}</h3>" if exam.name else ""


def curves(run: Run) -> str:
    """The charts of each stage."""
    made = ""
    for log in run.logs:
        charts = loss_charts(log)
        made += f"<h3>{text(log.stage)}</h3>" if log.stage else ""
        made += (
            f'<div class="charts">{"".join(charts)}</div>'
            if charts
            else note("No step was logged.")
        )
        made += note(f"{log.torn} torn lines of log.jsonl are left out.") if log.torn else ""
    return made or note("No log.jsonl.")


def throughput(run: Run) -> str:
    """Of each stage."""
    return "".join(
        (f"<h3>{text(log.stage)}</h3>" if log.stage else "") + tables.throughput(log)
        for log in run.logs
    ) or note("No log.jsonl.")


def one(exam: Exam, clips: Clips, number: int, limit: int) -> str:
    """A gallery: what is said of it, and its data; the page's script draws it."""
    data = gallery(exam, limit, clips)
    notes = "".join(note(line) for line in said(data, clips))
    return (
        f'{heading(exam)}{notes}<div class="gallery" id="gallery-{number}"></div>'
        f'<script type="application/json" data-for="gallery-{number}">{embedded(data)}</script>'
    )


def embedded(data: Any) -> str:
    """JSON that cannot end its <script>, nor begin a comment in it."""
    written = json.dumps(data, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
