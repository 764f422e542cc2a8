"""The whole way once, on miniatures: pre-train stage 1 -> stage 2 -> zero-shot -> fine-tune -> evaluate -> export.

    python scripts/rehearsal.py [--out exps/rehearsal]

Each program is started as a user starts it, by its recipe; the data are invented clips in the layouts of CC3M, WebVid
and MSR-VTT, the model is tiny, a run is two steps. So the numbers mean nothing, but every file does: each is opened,
and each model must begin where the one before ended. All that is made lies in OUT/<MMDD_HHMMSS>/, what the programs
said in its log/. Takes a minute or two on a CPU. Exit status: 0 if all held, 1 if something did not.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parse_config import cli_entry
from scripts.benchmarks import rehearsal_checks as checks
from trainer.evaluation.results import new_folder

RELEASED = ["bash", "scripts/test_retrieval_MILES.sh"]  # the authors' released settings
FINETUNE = ["bash", "scripts/finetune.sh", "configs/finetune_msrvtt.json"]
EVALUATE = [
    "bash",
    "scripts/test_retrieval.sh",
    "configs/finetune_msrvtt.json",
    "--save-embeddings",
]


class Rehearsal:
    """Its folder, the settings that make things small, and how a part is run and told."""

    def __init__(self, home: Path):
        self.home, self.number, self.begun = home, 0, time.monotonic()
        self.python = os.environ.get("PYTHON") or sys.executable
        self.settings: list[str] = []
        (home / "log").mkdir(parents=True)

    def part(
        self,
        name: str,
        words: list[str],
        check: Callable[[], str],
        small: bool = True,
        **variables: Path,
    ):
        """Run one command with its variables, keep what it says, check what it left."""
        self.number += 1
        begun = time.monotonic()
        said = self.home / "log" / f"{self.number}_{'_'.join(re.findall('[A-Za-z0-9]+', name))}.txt"
        shown = [f"{key}={value}" for key, value in variables.items()] + words
        print(f"{self.number}  {name}\n   $ {' '.join(map(self.short, shown))}", flush=True)
        data = {f"{key}_DIR": str(self.home / "data" / key) for key in ("CC3M", "WEBVID", "MSRVTT")}
        environment = {
            **os.environ,
            "GPUS": "1",
            **data,
            "SAVE_DIR": str(self.home / "exps"),
            "PYTHON": self.python,
            **{key: str(value) for key, value in variables.items()},
        }
        with open(said, "w", encoding="utf-8") as file:
            status = subprocess.run(
                [*words, *(self.settings if small else [])],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            ).returncode
        if status:
            tail = "\n".join(said.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise checks.Failed(f"{name} ended with status {status}; the end of {said}:\n{tail}")
        print(f"   {check()}  ({time.monotonic() - begun:.1f} s)", flush=True)

    def short(self, word: str) -> str:
        """A word of a command without what all have in common."""
        return word.replace(str(self.home) + "/", "").replace(self.python, "python")

    def run(self, kind: str, file: str = "") -> Path:
        """The one folder of runs called `kind`, or a file in the newest."""
        return (
            max((self.home / "exps" / kind).iterdir(), key=lambda path: path.stat().st_mtime_ns)
            / file
        )


def main(home: Path):
    """All parts, one after the other; Failed at the first that does not hold."""
    now = Rehearsal(home)
    print(
        f"rehearsal in {home}: invented clips, a tiny model, two steps a run; the numbers mean nothing, the files do"
    )
    from scripts.synthetic import tiny_models

    print(f"0  data\n   {checks.make_data(home)}")
    now.settings = [*tiny_models.command_line_overrides(home / "text"), "trainer.precision=fp32"]
    runs = {
        "first": "MILES_cc3m_webvid_1f",
        "second": "MILES_webvid_4f",
        "tuned": "finetune_msrvtt",
    }

    def weights(which: str) -> Path:
        return now.run(runs[which], "checkpoint-latest.pth")

    now.part(
        "pre-training, stage 1",
        ["bash", "scripts/pretrain_cc3m_webvid_1f.sh"],
        lambda: checks.trained(weights("first"), frames=1),
    )
    now.part(
        "pre-training, stage 2",
        ["bash", "scripts/pretrain_webvid_4f.sh"],
        lambda: checks.trained(weights("second"), frames=4, start=weights("first")),
        STAGE1=weights("first"),
    )
    now.part(
        "zero-shot MSR-VTT",
        RELEASED,
        lambda: checks.examined(now.run("MSRVTT", "results.json"), weights("second")),
        CHECKPOINT=weights("second"),
    )
    now.part(
        "fine-tuning on MSR-VTT",
        FINETUNE,
        lambda: checks.trained(weights("tuned"), frames=4, start=weights("second")),
        CHECKPOINT=weights("second"),
    )
    tuned = weights("tuned")
    now.part(
        "evaluation",
        EVALUATE,
        lambda: checks.examined(now.run(runs["tuned"], "results.json"), tuned),
        CHECKPOINT=tuned,
    )
    embeddings, out = now.run(runs["tuned"], "embeddings"), home / "exports"
    now.part(
        "export, a folder",
        [now.python, "scripts/export.py", str(tuned), str(out / "folder")],
        lambda: checks.same_model(tuned, out / "folder", embeddings),
        small=False,
    )
    now.part(
        "export, the authors' layout",
        [
            now.python,
            "scripts/export.py",
            str(tuned),
            str(out / "MILES.pth"),
            "--layout",
            "authors",
        ],
        lambda: checks.same_model(tuned, out / "MILES.pth", embeddings),
        small=False,
    )
    now.part(
        "export, ONNX",
        [now.python, "scripts/export_onnx.py", str(out / "folder"), str(out / "onnx")],
        lambda: checks.same_onnx(out / "folder", out / "onnx"),
        small=False,
    )
    print(
        f"\nall of it held: {now.number} commands in {time.monotonic() - now.begun:.0f} s; everything lies in {home}"
    )


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "exps" / "rehearsal", help="default: exps/rehearsal"
    )
    given = parser.parse_args(argv)
    try:
        main(new_folder(given.out.resolve()))
    except checks.Failed as failed:
        sys.exit(f"failed: {failed}")


if __name__ == "__main__":
    cli()
