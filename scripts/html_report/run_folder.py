"""A run folder -> what its report tells: log, settings, exams; and what is not there, with the command that makes it.

Nothing here needs torch. A folder may be of train.py (log.jsonl, config.json, with exams in folders therein), of one
stage of it, or of test.py alone (results.json).
"""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parse_config import UserError

BEST = ("model_best.pth", "checkpoint-latest.pth")
SAVED = "--save-ranks --save-embeddings"


@dataclass
class Log:
    """One stage's log.jsonl. `rows`: kind -> lines, by step, of a step written twice the later; `torn`: lines that are
    no JSON; `stage`: its folder's name, "" without stages."""

    stage: str
    rows: dict[str, list[dict[str, Any]]]
    torn: int = 0


@dataclass
class Exam:
    """One results.json. `name`: its folder within the run, "" for the run's own; `ranks`: lines of ranks.jsonl, None
    without."""

    name: str
    folder: Path
    results: dict[str, Any]
    ranks: list[dict[str, Any]] | None = None


@dataclass
class Run:
    """A run folder; `missing`: (what is not there, the command that makes it)."""

    folder: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    logs: list[Log] = field(default_factory=list)
    exams: list[Exam] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    checkpoint: Path | None = None


def read(folder: Path) -> Run:
    """Everything of `folder`; UserError if it is no run folder, or if a file in it is not what it should be."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give a run folder of train.py, or one that test.py wrote"
        )
    stages = sorted(path for path in folder.glob("stage*") if (path / "log.jsonl").is_file())
    places = [folder, *stages] if (folder / "log.jsonl").is_file() else stages
    logs = [
        read_log(place / "log.jsonl", place.name if place != folder else "") for place in places
    ]
    exams = [read_exam(path, folder) for path in results_in(folder)]
    if not logs and not exams:
        raise UserError(
            f"{folder}: holds neither log.jsonl nor results.json; give a run folder of train.py, or one "
            "that test.py wrote"
        )
    last = places[-1] if places else folder
    first = exams[0].results if exams else {}
    run = Run(
        folder,
        optional(last / "config.json") or first.get("config") or {},
        optional(last / "versions.json")
        or {"git": first.get("git_revision"), **(first.get("versions") or {})},
        logs,
        exams,
    )
    run.checkpoint = checkpoint(last, exams)
    run.missing = list(missing(run, last))
    return run


def results_in(folder: Path) -> list[Path]:
    """Every results.json of test.py, up to two folders down, but for those of other runs."""
    found = [
        path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{depth}results.json"))
    ]
    others = {
        path.parent
        for path in folder.glob("*/log.jsonl")
        if not path.parent.name.startswith("stage")
    }
    return [path for path in found if not others & {path.parent, path.parent.parent}]


def read_log(path: Path, stage: str = "") -> Log:
    """The lines by kind; a torn line, as a kill leaves it, is counted."""
    found: dict[str, dict[Any, dict[str, Any]]] = {}
    torn = 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            row = json.loads(line)
            kind = row["kind"]
        except (json.JSONDecodeError, TypeError, KeyError):
            torn += bool(line.strip())
            continue
        found.setdefault(kind, {})[row.get("step", number) if kind != "start" else number] = row
    return Log(
        stage, {kind: [rows[step] for step in sorted(rows)] for kind, rows in found.items()}, torn
    )


def read_exam(path: Path, home: Path) -> Exam:
    """results.json and the ranks beside it."""
    results = content(path)
    if "rows" not in results or "schema" not in results:
        raise UserError(
            f"{path}: is no results.json of test.py; move it away, or run test.py again"
        )
    ranks = path.parent / "ranks.jsonl"
    name = str(path.parent.relative_to(home))
    return Exam(
        "" if name == "." else name,
        path.parent,
        results,
        list(read_ranks(ranks)) if ranks.is_file() else None,
    )


def read_ranks(path: Path) -> Iterable[dict[str, Any]]:
    """The lines of ranks.jsonl; UserError naming the first that is none."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield {key: row[key] for key in ("direction", "query", "right", "rank", "top")}
            except (json.JSONDecodeError, TypeError, KeyError):
                raise UserError(
                    f"{path}, line {number}: is no line of test.py --save-ranks; write it again"
                ) from None


def content(path: Path) -> dict[str, Any]:
    """A JSON object; UserError if it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return found


def optional(path: Path) -> dict[str, Any]:
    """The same, {} if the file is not there."""
    return content(path) if path.is_file() else {}


def checkpoint(folder: Path, exams: list[Exam]) -> Path | None:
    """The run's best checkpoint, its latest, or the one that was examined."""
    examined = [Path((exam.results.get("checkpoint") or {}).get("path") or "") for exam in exams]
    return next(
        (path for path in [*(folder / name for name in BEST), *examined] if path.is_file()), None
    )


def missing(run: Run, last: Path) -> Iterable[tuple[str, str]]:
    """What the report would show if it were there."""
    config = (
        shlex.join(["-c", str(last / "config.json")])
        if (last / "config.json").is_file()
        else "-c CONFIG"
    )
    exam = f"python test.py {config} {shlex.join(['-r', str(run.checkpoint or 'CHECKPOINT')])}"

    def examine(name: str) -> str:
        return f"{exam} {shlex.join(['-o', str(run.folder / name)])} {SAVED}"

    if not run.logs:
        yield (
            "no log.jsonl, so no curves and no throughput; train.py writes one",
            "python train.py -c CONFIG",
        )
    if not run.exams:
        yield "no results.json, so no table and no gallery", examine("test")
    for one in run.exams:
        if one.ranks is None:
            yield f"no ranks.jsonl in {one.folder}, so no gallery of it", examine("test_with_ranks")
    if run.checkpoint is None:
        yield "no checkpoint, so no figures", f"python train.py {config}"
