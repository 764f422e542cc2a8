"""A run folder -> what its report shows, and what is missing in it with the command that makes it.

Nothing here needs torch. A folder may be of train.py (log.jsonl, config.json, with evaluations in folders therein), of
one stage of it, or of test.py alone (results.json).
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parse_config import UserError

CHECKPOINT_NAMES = (
    "model_best.pth",
    "checkpoint-latest.pth",
)  # the first one that exists is shown
GROUNDING_KEYS = ("clips", "phrases", "interval", "chance")
PROBE_KEYS = ("linear", "knn")
SAVE_OPTIONS = "--save-ranks --save-embeddings"


@dataclass
class Log:
    """One stage's log.jsonl.

    Args:
        stage: its folder's name, "" without stages
        rows: kind -> lines, sorted by step; of a step that was written twice the later line
        torn: number of lines that are no JSON
    """

    stage: str
    rows: dict[str, list[dict[str, Any]]]
    torn: int = 0


@dataclass
class Evaluation:
    """One results.json.

    Args:
        name: its folder within the run, "" for the run's own
        folder: where it lies
        results: its content
        ranks: lines of ranks.jsonl, None if there is no such file
    """

    name: str
    folder: Path
    results: dict[str, Any]
    ranks: list[dict[str, Any]] | None = None


@dataclass
class Run:
    """A run folder.

    Args:
        folder: its path
        config: the resolved config of the last stage, or of the first evaluation
        versions: git revision, versions of packages, command
        logs: one per stage
        evaluations: sorted by depth and name
        missing: (what is missing, the command that makes it)
        checkpoint: whose figures are drawn
        grounding: what visualize.py alignment --score wrote as grounding.json in the folder, {} if nothing
        probe: what probe.py wrote as probe.json in the folder, {} if nothing
    """

    folder: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    logs: list[Log] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    checkpoint: Path | None = None
    grounding: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)


def read_run(folder: Path) -> Run:
    """Reads a run folder. Raises UserError if it is none, or if a file in it is not what it should be."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give a run folder of train.py, or one that test.py wrote"
        )

    log_folders = find_log_folders(folder)
    logs = []
    for log_folder in log_folders:
        stage = "" if log_folder == folder else log_folder.name
        logs.append(read_log(log_folder / "log.jsonl", stage))
    evaluations = [read_evaluation(path, folder) for path in find_results(folder)]
    if not logs and not evaluations:
        raise UserError(
            f"{folder}: holds neither log.jsonl nor results.json; give a run folder of train.py, or one "
            "that test.py wrote"
        )

    last_folder = folder
    if log_folders:
        last_folder = log_folders[-1]
    config = read_json_if_present(last_folder / "config.json")
    versions = read_json_if_present(last_folder / "versions.json")
    if evaluations:
        results = evaluations[0].results
        config = config or results.get("config") or {}
        versions = versions or {
            "git": results.get("git_revision"),
            **(results.get("versions") or {}),
        }

    run = Run(
        folder,
        config=config,
        versions=versions,
        logs=logs,
        evaluations=evaluations,
        checkpoint=find_checkpoint(last_folder, evaluations),
        grounding=read_measurement(folder / "grounding.json", GROUNDING_KEYS),
        probe=read_measurement(folder / "probe.json", PROBE_KEYS),
    )
    run.missing = list(missing_files(run, last_folder))
    return run


def find_log_folders(folder: Path) -> list[Path]:
    """The folders with a log.jsonl: the run's own, then its stages in their order."""
    stage_folders = sorted(
        path for path in folder.glob("stage*") if (path / "log.jsonl").is_file()
    )
    if (folder / "log.jsonl").is_file():
        return [folder, *stage_folders]
    return stage_folders


def find_results(folder: Path) -> list[Path]:
    """Every results.json of test.py, up to two folders down, except those of other runs in this folder."""
    paths: list[Path] = []
    for pattern in ("results.json", "*/results.json", "*/*/results.json"):
        paths += sorted(folder.glob(pattern))

    other_runs = {
        path.parent
        for path in folder.glob("*/log.jsonl")
        if not path.parent.name.startswith("stage")
    }
    return [
        path for path in paths if not other_runs & {path.parent, path.parent.parent}
    ]


def read_log(path: Path, stage: str = "") -> Log:
    """Reads log.jsonl, sorted by kind and step.

    A torn line, as a killed run leaves it, is counted and left out.
    """
    rows: list[dict[str, Any]] = []
    torn = 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
            row["kind"]
        except (json.JSONDecodeError, TypeError, KeyError):
            torn += bool(line.strip())
            continue
        rows.append(row)

    rows_by_kind: dict[str, dict[Any, dict[str, Any]]] = {}
    for number, row in enumerate(one_step_axis(rows)):
        step = row.get("step", number)
        if row["kind"] == "start":  # one line per start, all of which count
            step = number
            if "samples" in row:
                _drop_after(rows_by_kind, row["step"])
        rows_by_kind.setdefault(row["kind"], {})[step] = row

    sorted_rows = {
        row_kind: [rows_of_kind[step] for step in sorted(rows_of_kind)]
        for row_kind, rows_of_kind in rows_by_kind.items()
    }
    return Log(stage, sorted_rows, torn)


def one_step_axis(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines, their steps counted on over all starts.

    Older runs numbered a step by epoch x steps an epoch: where a resumed run had others, its numbers began elsewhere.
    Newer ones count on, and their lines hold the number of samples.
    """
    offset = 0.0
    previous = None
    for start, segment in _segments(rows):
        steps_per_epoch = _steps_per_epoch(segment)
        is_older = not any("samples" in row for row in segment)
        if is_older and previous and steps_per_epoch and start:
            before = start["step"] * previous / steps_per_epoch
            offset += before - start["step"]
        previous = steps_per_epoch or previous
        for row in segment:
            moved = dict(row)
            if "step" in row:
                moved["step"] = round(row["step"] + offset)
            yield moved


def _segments(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]]:
    """(the line "start", it and the lines up to the next) of each start that resumed; None before the first."""
    start: Mapping[str, Any] | None = None
    segment: list[Mapping[str, Any]] = []
    for row in rows:
        if row["kind"] == "start" and row.get("resumed"):
            yield start, segment
            start, segment = row, []
        segment.append(row)
    yield start, segment


def _steps_per_epoch(segment: Sequence[Mapping[str, Any]]) -> float | None:
    """Of the lines of one start of an older run, by its last finished epoch; None where it finished none."""
    for row in reversed(segment):
        if row["kind"] == "epoch" and row.get("epoch"):
            return row["step"] / row["epoch"]
    return None


def _drop_after(
    rows_by_kind: Mapping[str, dict[Any, dict[str, Any]]], step: int
) -> None:
    """Drop what was logged after the step that a run resumes from: it is done again."""
    for kind, rows in rows_by_kind.items():
        if kind == "start":
            continue
        for key in [key for key, row in rows.items() if row.get("step", 0) > step]:
            del rows[key]


def read_evaluation(results_path: Path, run_folder: Path) -> Evaluation:
    """Reads results.json and, if it is there, the ranks.jsonl beside it."""
    results = read_json(results_path)
    if "rows" not in results or "schema" not in results:
        raise UserError(
            f"{results_path}: is no results.json of test.py; move it away, or run test.py again"
        )

    folder = results_path.parent
    name = ""
    if folder != run_folder:
        name = str(folder.relative_to(run_folder))

    evaluation = Evaluation(name, folder, results)
    ranks_path = folder / "ranks.jsonl"
    if ranks_path.is_file():
        evaluation.ranks = list(read_ranks(ranks_path))
    return evaluation


def read_ranks(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of ranks.jsonl. Raises UserError naming the first that is none."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield {
                    key: row[key]
                    for key in ("direction", "query", "right", "rank", "top")
                }
            except (json.JSONDecodeError, TypeError, KeyError):
                raise UserError(
                    f"{path}, line {number}: is no line of test.py --save-ranks; write it again"
                ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError if the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged ({error})") from None

    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return content


def read_json_if_present(path: Path) -> dict[str, Any]:
    """Reads a JSON object, {} if the file does not exist."""
    return read_json(path) if path.is_file() else {}


def read_measurement(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Reads what one of our commands measured, {} if the file does not exist; UserError if it lacks one of `keys`."""
    content = read_json_if_present(path)
    missing = [key for key in keys if key not in content]
    if content and missing:
        raise UserError(
            f"{path}: lacks {missing[0]!r}; write it with the command of docs/report.md, for one checkpoint"
        )
    return content


def find_checkpoint(folder: Path, evaluations: list[Evaluation]) -> Path | None:
    """The run's best checkpoint, else its latest, else the first one that was evaluated and still exists."""
    candidates = [folder / name for name in CHECKPOINT_NAMES]
    for evaluation in evaluations:
        checkpoint = evaluation.results.get("checkpoint") or {}
        candidates.append(Path(checkpoint.get("path") or ""))

    return next((path for path in candidates if path.is_file()), None)


def missing_files(run: Run, last_folder: Path) -> Iterator[tuple[str, str]]:
    """(what the report cannot show because of a missing file, the command that makes the file)."""
    config_option = "-c CONFIG"
    if (last_folder / "config.json").is_file():
        config_option = shlex.join(["-c", str(last_folder / "config.json")])
    checkpoint_option = shlex.join(["-r", str(run.checkpoint or "CHECKPOINT")])

    def test_command(name: str) -> str:
        output_option = shlex.join(["-o", str(run.folder / name)])
        return f"python test.py {config_option} {checkpoint_option} {output_option} {SAVE_OPTIONS}"

    if not run.logs:
        yield (
            "no log.jsonl, so no curves and no throughput; train.py writes one",
            "python train.py -c CONFIG",
        )

    if not run.evaluations:
        yield "no results.json, so no table and no gallery", test_command("test")

    for evaluation in run.evaluations:
        if evaluation.ranks is None:
            yield (
                f"no ranks.jsonl in {evaluation.folder}, so no gallery of it",
                test_command("test_with_ranks"),
            )

    if run.checkpoint is None:
        yield "no checkpoint, so no figures", f"python train.py {config_option}"


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/report.py --help")
