"""Runs of the ablation: the data, one process for the training and the measurements of a run, the record it leaves.

A run's process executes train.py, test.py and so on one after the other, each as if it were started alone, because
half of what a measurement takes is the import of the libraries.
"""

import contextlib
import functools
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parse_config import UserError, merge
from scripts.benchmarks.ablation_plan import ROOT, Run, Sizes, settings_hash
from trainer.files import atomic_write
from trainer.versions import versions

PROCESS = "import sys; from scripts.benchmarks.ablation_runs import execute; execute(sys.argv[1])"
TRAINED = "trained.json"
RECORD = "record.json"
RETRIEVAL_METRICS = ("R1", "R5", "R10", "MedR", "MeanR")


class Measure(NamedTuple):
    """A measurement of a trained model.

    Attributes:
        program: the command's file
        arguments: "{config}", "{checkpoint}", "{data}", "{split}", "{out}" stand for those of the run
        result: file or folder that it writes, in the run's folder
        needs: words in the program's file without which it cannot do this yet
    """

    program: str
    arguments: str
    result: str
    needs: str = ""

    @property
    def exists(self) -> bool:
        """Whether this code has the command."""
        path = ROOT / self.program
        return path.is_file() and self.needs in path.read_text(encoding="utf-8")


MEASURES = {
    "retrieval": Measure(
        "test.py", "-c {config} -r {checkpoint} --split {split} -o {out}", "test"
    ),
    "grounding": Measure(
        "scripts/visualize.py",
        "alignment --score -r {checkpoint} --data {data} --split {split} --patch-features last -o {out}",
        "grounding.json",
    ),
    "values": Measure(
        "scripts/visualize.py",
        "alignment --score -r {checkpoint} --data {data} --split {split} --patch-features value -o {out}",
        "values.json",
    ),
    "probe": Measure(
        "scripts/probe.py", "-r {checkpoint} --data {data} -o {out}", "probe.json"
    ),
}


def existing_measures() -> list[str]:
    """The measurements whose commands this code has."""
    return [name for name, measure in MEASURES.items() if measure.exists]


def make_data(folder: Path, world: str, sizes: Sizes) -> None:
    """Make a world's clips where they are not there yet, and the lists of the budget of few captions.

    Raises UserError for a folder that was made with other sizes.
    """
    counts = {"train": sizes.train, "val": sizes.val, "test": sizes.test}
    if not folder.exists():
        options = [f"--{split}={count}" for split, count in counts.items()]
        script = str(ROOT / "scripts/make_demo_data.py")
        command = [sys.executable, script, "--world", world, "--out", str(folder)]
        subprocess.run([*command, *options], check=True, env=environment())
    data_settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    if {split: data_settings[split] for split in counts} != counts:
        raise UserError(
            f"{folder}: was made with other sizes (see settings.json); give --train, --val and --test of these, or "
            "another --data"
        )
    write_caption_lists(folder, sizes.captioned)


def write_caption_lists(folder: Path, captioned: int) -> None:
    """Write the first `captioned` training clips into a list of their own, the others into another."""
    with open(folder / "captions.jsonl", encoding="utf-8") as file:
        rows = [line for line in file if json.loads(line)["split"] == "train"]
    lists = {"captioned": rows[:captioned], "uncaptioned": rows[captioned:]}
    for name, lines in lists.items():
        path = folder / f"{name}{captioned}_train.jsonl"
        if lines and not path.is_file():
            with atomic_write(path) as file:
                file.writelines(lines)


def is_done(run: Run, measures: Sequence[str]) -> bool:
    """Whether all these measurements of the run are there. Raises UserError if it was made with other settings."""
    path = run.folder / "config.json"
    if path.is_file() and stored_hash(path) != settings_hash(run.config.to_dict()):
        raise UserError(
            f"{run.folder}: is a run with other settings (see its config.json); choose another --out, or remove it"
        )
    return all((run.folder / MEASURES[name].result).exists() for name in measures)


def stored_hash(path: Path) -> str:
    """The `settings_hash` of a config.json that `perform` wrote."""
    return settings_hash(json.loads(path.read_text(encoding="utf-8")))


def perform(run: Run, measures: Sequence[str], device: str = "") -> bool:
    """Train and measure, in a process, with the output in the run's .log; returns whether all ended well."""
    run.folder.mkdir(parents=True, exist_ok=True)
    saved = {
        "name": run.folder.name,
        "trainer": {"save_dir": str(run.folder.parent)},
    }
    write_json(run.folder / "config.json", merge(run.config.to_dict(), saved))
    write_json(run.folder / "job.json", job(run, measures, device))
    command = [sys.executable, "-c", PROCESS, str(run.folder)]
    with open(f"{run.folder}.log", "a", encoding="utf-8") as log:
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment()
        )
    return done.returncode == 0


def job(run: Run, measures: Sequence[str], device: str) -> list[dict[str, Any]]:
    """The commands of a run: {"name", "program", "arguments", "result"}."""
    on_device = ["-d", device] if device else []
    block = run.config.blocks("data_loader")[0]
    words = {
        "{config}": str(run.folder / "config.json"),
        "{data}": block["args"]["data_dir"],
        "{split}": run.split,
    }
    train = Measure("train.py", "-c {config} -r auto", TRAINED)
    commands = {"train": train, **{name: MEASURES[name] for name in measures}}
    return [
        {
            "name": name,
            "program": str(ROOT / command.program),
            "arguments": [
                *(words.get(word, word) for word in command.arguments.split()),
                *on_device,
            ],
            "result": command.result,
        }
        for name, command in commands.items()
    ]


def environment() -> dict[str, str]:
    """That of a run's process: one thread unless the caller says otherwise, and this code before any installed one."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def execute(folder: str) -> None:
    """In a run's process: execute the commands whose results are not there; each result appears when it is whole."""
    run_folder = Path(folder)
    for command in json.loads((run_folder / "job.json").read_text(encoding="utf-8")):
        result = run_folder / command["result"]
        if result.exists():
            continue
        unfinished = result.with_name(f"part_{result.name}")
        remove(unfinished)
        words = {
            "{out}": str(unfinished),
            "{checkpoint}": str(newest_checkpoint(run_folder)),
        }
        started = time.perf_counter()
        run_program(command["program"], [words.get(w, w) for w in command["arguments"]])
        seconds = time.perf_counter() - started
        if command["name"] == "train":
            write_json(unfinished, steps_and_time(run_folder))
        add_to_record(run_folder, command["name"], seconds)
        unfinished.rename(result)


def run_program(program: str, arguments: Sequence[str]) -> None:
    """Execute a command's file in this process. Raises SystemExit if it ends with another status than 0."""
    with replaced_arguments([program, *arguments]):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


@contextlib.contextmanager
def replaced_arguments(arguments: list[str]) -> Iterator[None]:
    """`sys.argv` for the time of the block."""
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before


def newest_checkpoint(folder: Path) -> Path | None:
    """The last weights of the run; None before it is trained."""
    paths = folder.glob("*/checkpoint-latest.pth")
    return max(paths, key=modified, default=None)


def modified(path: Path) -> int:
    return path.stat().st_mtime_ns


def steps_and_time(folder: Path) -> dict[str, float]:
    """{"steps", "seconds"} of the training, all its starts together, from the epochs in its log."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise UserError(f"{folder}: train.py has left no checkpoint")
    text = checkpoint.with_name("log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    epochs = {line["epoch"]: line for line in lines if line["kind"] == "epoch"}
    return {
        "steps": max(line["step"] for line in epochs.values()),
        "seconds": sum(line["seconds"] for line in epochs.values()),
    }


def add_to_record(folder: Path, name: str, seconds: float) -> None:
    """Add to record.json how long a command took, and in what surroundings."""
    path = folder / RECORD
    record: dict[str, Any] = {"seconds": {}}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
    record["seconds"][name] = round(seconds, 2)
    write_json(path, {**record, **surroundings()})


@functools.cache
def surroundings() -> dict[str, Any]:
    """Code revision, torch's version and threads."""
    import torch

    return {
        "code_revision": versions()["git"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def read_record(run: Run) -> dict[str, Any] | None:
    """What the report says of a run, its metrics among it; None if it is not trained, or nothing of it is measured."""
    metrics: dict[str, float] = {}
    for name, measure in MEASURES.items():
        path = run.folder / measure.result
        if name == "retrieval":
            path = path / "results.json"
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            metrics |= retrieval(result) if name == "retrieval" else flat(result, name)
    if not metrics:
        return None
    trained = json.loads((run.folder / TRAINED).read_text(encoding="utf-8"))
    record = json.loads((run.folder / RECORD).read_text(encoding="utf-8"))
    passes = None if run.passes is None else run.passes * trained["steps"]
    return {
        "seed": run.seed,
        "world": run.world,
        "budget": run.budget,
        "variant": run.variant,
        **({} if run.settings is None else {"settings": dict(run.settings)}),
        "settings_sha256": stored_hash(run.folder / "config.json"),
        **record,
        "seconds": {**record["seconds"], "epochs": round(trained["seconds"], 2)},
        "steps": trained["steps"],
        "passes": passes,
        "metrics": metrics,
    }


def retrieval(result: Mapping[str, Any]) -> dict[str, float]:
    """{"t2v.R1": ..., ...} of a results.json."""
    return {
        f"{direction}.{metric}": result[direction][metric]
        for direction in ("t2v", "v2t")
        for metric in RETRIEVAL_METRICS
        if direction in result
    }


def flat(value: Any, prefix: str) -> dict[str, float]:
    """The numbers in any nesting of objects, named by their dotted path under `prefix`."""
    if isinstance(value, Mapping):
        numbers: dict[str, float] = {}
        for key, item in value.items():
            numbers |= flat(item, f"{prefix}.{key}")
        return numbers
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {prefix: value}
    return {}


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")


def remove(path: Path) -> None:
    """Remove a file or folder that may not be there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/ablation.py --help")
