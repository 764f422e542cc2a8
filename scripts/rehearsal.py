"""Every program once, on miniatures: pre-train stage 1 -> stage 2 -> zero-shot -> fine-tune -> evaluate -> export.

    python scripts/rehearsal.py [--out exps/rehearsal]

Each program is started as a user starts it, by its recipe; the data are invented clips in the layouts of CC3M, WebVid
and MSR-VTT, the model is tiny, a run is two steps. So the numbers mean nothing, but every file does: each is opened,
and each model must begin where the one before ended. All that is made lies in OUT/<MMDD_HHMMSS>/, the programs'
output in its log/. Takes a minute or two on a CPU. Exit status: 0 if all held, 1 if something did not.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from parse_config import cli_entry
from scripts.benchmarks import rehearsal_checks as checks
from scripts.synthetic import tiny_models
from trainer.evaluation.results import new_folder

ROOT = Path(__file__).resolve().parent.parent

# Names of the runs that the recipes make.
STAGE1 = "MILES_cc3m_webvid_1f"
STAGE2 = "MILES_webvid_4f"
FINETUNED = "finetune_msrvtt"
FINETUNE_CONFIG = "configs/finetune_msrvtt.json"


class Rehearsal:
    """Runs the commands of a rehearsal in one folder, keeps their output, and checks what they leave."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.commands = 0
        self.begun = time.monotonic()
        self.python = os.environ.get("PYTHON") or sys.executable
        self.small_settings: list[str] = []  # what makes the model and the runs small
        (folder / "log").mkdir(parents=True)

    def step(
        self,
        name: str,
        command: list[str],
        check: Callable[[], str],
        settings: Sequence[str] = (),
        **variables: Path,
    ) -> None:
        """Run one command, with `variables` in its environment, then `check` what it left.

        `settings` are put at the command's end and not printed. Raises Failed with the end of the output if the command
        fails, and what `check` raises.
        """
        self.commands += 1
        begun = time.monotonic()
        log_name = f"{self.commands}_{'_'.join(re.findall('[A-Za-z0-9]+', name))}.txt"
        log_path = self.folder / "log" / log_name
        assignments = [f"{key}={value}" for key, value in variables.items()]
        command_line = " ".join(
            self.shortened(word) for word in [*assignments, *command]
        )
        print(f"{self.commands}  {name}\n   $ {command_line}", flush=True)
        with open(log_path, "w", encoding="utf-8") as log_file:
            status = subprocess.run(
                [*command, *settings],
                cwd=ROOT,
                env=self.environment(variables),
                stdout=log_file,
                stderr=subprocess.STDOUT,
            ).returncode
        if status:
            lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            end = "\n".join(lines[-15:])
            raise checks.Failed(
                f"{name} ended with status {status}; the end of {log_path}:\n{end}"
            )
        print(f"   {check()}  ({time.monotonic() - begun:.1f} s)", flush=True)

    def recipe(
        self, name: str, command: list[str], check: Callable[[], str], **variables: Path
    ) -> None:
        """`step` of a bash recipe, with the settings that make it small at its end."""
        self.step(name, ["bash", *command], check, self.small_settings, **variables)

    def environment(self, variables: Mapping[str, Path]) -> dict[str, str]:
        """This process's environment with where data and runs are, for one process on one machine."""
        data = {
            f"{name}_DIR": str(self.folder / "data" / name)
            for name in ("CC3M", "WEBVID", "MSRVTT")
        }
        return {
            **os.environ,
            **data,
            "GPUS": "1",
            "SAVE_DIR": str(self.folder / "exps"),
            "PYTHON": self.python,
            **{name: str(path) for name, path in variables.items()},
        }

    def shortened(self, word: str) -> str:
        """A word of a command without what all commands have in common."""
        return word.replace(f"{self.folder}/", "").replace(self.python, "python")

    def newest_run(self, name: str) -> Path:
        """The newest run folder of that name."""
        runs = (self.folder / "exps" / name).iterdir()
        return max(runs, key=lambda path: path.stat().st_mtime_ns)

    def weights(self, name: str) -> Path:
        """The last checkpoint of the newest run of that name."""
        return self.newest_run(name) / "checkpoint-latest.pth"

    def newest_results(self, name: str) -> Path:
        """The newest results.json of the newest run of that name."""
        return max(self.newest_run(name).glob("test/*/results.json"))


def main(folder: Path) -> None:
    """Run all parts, one after the other; raises Failed at the first that does not hold."""
    rehearsal = Rehearsal(folder)
    print(
        f"rehearsal in {folder}: invented clips, a tiny model, two steps per run; "
        "the numbers mean nothing, the files do"
    )
    print(f"0  data\n   {checks.make_data(folder)}")
    rehearsal.small_settings = [
        *tiny_models.command_line_overrides(folder / "text"),
        "trainer.precision=fp32",
    ]
    rehearse_training(rehearsal)
    rehearse_export(rehearsal)
    seconds = time.monotonic() - rehearsal.begun
    print(
        f"\nall of it held: {rehearsal.commands} commands in {seconds:.0f} s; everything lies in {folder}"
    )


def rehearse_training(rehearsal: Rehearsal) -> None:
    """Both stages of pre-training, zero-shot evaluation, fine-tuning, evaluation."""
    weights = rehearsal.weights
    rehearsal.recipe(
        "pre-training, stage 1",
        ["scripts/pretrain_cc3m_webvid_1f.sh"],
        lambda: checks.trained(weights(STAGE1), frames=1),
    )
    rehearsal.recipe(
        "pre-training, stage 2",
        ["scripts/pretrain_webvid_4f.sh"],
        lambda: checks.trained(weights(STAGE2), frames=4, start=weights(STAGE1)),
        STAGE1=weights(STAGE1),
    )
    rehearsal.recipe(
        "zero-shot MSR-VTT",
        ["scripts/test_retrieval_MILES.sh"],
        lambda: checks.evaluated(rehearsal.newest_results(STAGE2), weights(STAGE2)),
        CHECKPOINT=weights(STAGE2),
    )
    rehearsal.recipe(
        "fine-tuning on MSR-VTT",
        ["scripts/finetune.sh", FINETUNE_CONFIG],
        lambda: checks.trained(weights(FINETUNED), frames=4, start=weights(STAGE2)),
        CHECKPOINT=weights(STAGE2),
    )
    finetuned = weights(FINETUNED)
    rehearsal.recipe(
        "evaluation",
        ["scripts/test_retrieval.sh", FINETUNE_CONFIG, "--save-embeddings"],
        lambda: checks.evaluated(rehearsal.newest_results(FINETUNED), finetuned),
        CHECKPOINT=finetuned,
    )


def rehearse_export(rehearsal: Rehearsal) -> None:
    """The fine-tuned model as a folder, in the authors' layout and as ONNX."""
    runs = rehearsal.folder / "exps" / FINETUNED
    (finetuned,) = runs.glob("*/checkpoint-latest.pth")
    embeddings = rehearsal.newest_results(FINETUNED).with_name("embeddings")
    folder = rehearsal.folder / "exports/folder"
    authors_file = rehearsal.folder / "exports/MILES.pth"
    onnx_folder = rehearsal.folder / "exports/onnx"
    export = [rehearsal.python, "scripts/export.py", str(finetuned)]
    rehearsal.step(
        "export, a folder",
        [*export, str(folder)],
        lambda: checks.same_model(finetuned, folder, embeddings),
    )
    rehearsal.step(
        "export, the authors' layout",
        [*export, str(authors_file), "--layout", "authors"],
        lambda: checks.same_model(finetuned, authors_file, embeddings),
    )
    rehearsal.step(
        "export, ONNX",
        [rehearsal.python, "scripts/export_onnx.py", str(folder), str(onnx_folder)],
        lambda: checks.same_onnx(folder, onnx_folder),
    )


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "exps" / "rehearsal",
        help="default: exps/rehearsal",
    )
    arguments = parser.parse_args(argv)
    try:
        main(new_folder(arguments.out.resolve()))
    except checks.Failed as failed:
        sys.exit(f"failed: {failed}")


if __name__ == "__main__":
    cli()
