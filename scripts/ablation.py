"""The ablation in small: every variant with the same budget and several seeds -> a table and a figure.

    python scripts/ablation.py                                    all variants, seeds 0, 1, 2; makes data/demo2
    python scripts/ablation.py --variants contrastive,miles --seeds 0,1,2,3,4 --jobs 2
    python scripts/ablation.py trainer.epochs=2 --out exps/quick  settings for train.py, of every run alike
    python scripts/ablation.py --report                           table and figure of what is there

Runs that are done are not done again, a run that was killed goes on where it was (train.py -r auto): call it once more.
Each run is a process of its own, with one thread on a CPU unless OMP_NUM_THREADS says otherwise. The last weights are
evaluated on the test split, not the best epoch, so that nothing is chosen.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from parse_config import Config, ConfigError, UserError, cli_entry, load_config, merge
from scripts.benchmarks import ablation_report
from trainer.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent

# Of make_demo_data.py.
DATA = ["--world", "sparse", "--train", "6000", "--test", "1000"]
CONTRASTIVE = {"type": "Contrastive", "args": {}}


def objective_args(**args: Any) -> dict[str, Any]:
    return {"objective": {"args": args}}


Variants = dict[
    str, tuple[str, dict[str, Any]]
]  # {name: (words for a reader, changes of the config)}
VARIANTS: Variants = {
    "contrastive": ("contrastive only", {"objective": CONTRASTIVE}),
    "miles": ("MILES", {}),
    "frozen": (
        "MILES, frozen teacher",
        objective_args(teacher={"type": "Frozen", "args": {}}),
    ),
    "scattered": (
        "MILES, scattered mask",
        objective_args(mask={"type": "Tube", "args": {"ratio": 0.5}}),
    ),
    "encoder": ("MILES, encoder space", objective_args(target_space="encoder")),
    "ratio30": ("MILES, ratio 0.3", objective_args(mask={"args": {"ratio": 0.3}})),
    "ratio75": ("MILES, ratio 0.75", objective_args(mask={"args": {"ratio": 0.75}})),
    "clean": ("MILES, clean view", objective_args(contrast_view="full")),
}
MORE_VARIANTS: Variants = {  # only when named: what else was tried
    "masked": ("contrastive on masked clips", objective_args(mvm_weight=0.0)),
    "weight4": ("MILES, weight 4", objective_args(mvm_weight=4.0)),
    "clean_masked": (
        "clean view, no MVM",
        objective_args(contrast_view="full", mvm_weight=0.0),
    ),
}


class Run(NamedTuple):
    """One variant with one seed: its folder, its config, the device ("" lets train.py choose)."""

    variant: str
    seed: int
    folder: Path
    config: Config
    device: str

    @property
    def results(self) -> Path:
        return self.folder / "test/results.json"


def main(arguments: argparse.Namespace) -> None:
    """Run what is missing, then report. Raises UserError when a run fails, after the others have ended."""
    runs = plan(arguments)
    if not arguments.report:
        make_data(runs[0].config)
        missing = [run for run in runs if not run.results.is_file()]
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            succeeded = list(pool.map(perform, missing))
        failed = [
            f"{run.folder}.log"
            for run, success in zip(missing, succeeded, strict=True)
            if not success
        ]
        if failed:
            raise UserError(
                f"{len(failed)} runs failed: see {', '.join(failed)}; the same command runs them again"
            )
    titles = {name: title for name, (title, _) in {**VARIANTS, **MORE_VARIANTS}.items()}
    results = {(run.variant, run.seed): run.results for run in runs}
    print(ablation_report.write(arguments.out, results, titles))


def plan(arguments: argparse.Namespace) -> list[Run]:
    """Every run, seed by seed, so that an unfinished ablation is already a comparison."""
    known = {**VARIANTS, **MORE_VARIANTS}
    unknown = [name for name in arguments.variants if name not in known]
    if unknown:
        raise ConfigError(
            f"--variants: {unknown[0]!r} is given; known: {', '.join(known)}"
        )
    base = load_config(arguments.config, arguments.overrides).to_dict()
    refuse_other_settings(arguments.out, base)
    runs = []
    for seed in arguments.seeds:
        for name in arguments.variants:
            folder = arguments.out / "runs" / name / f"seed{seed}"
            config = run_config(base, known[name][1], seed)
            runs.append(Run(name, seed, folder, config, arguments.device))
    return runs


def run_config(
    base: Mapping[str, Any], changes: Mapping[str, Any], seed: int
) -> Config:
    """The config of one run; the seed decides the weights at the start, the order, the frames and the masks."""
    seeded = {"name": f"seed{seed}", "trainer": {"seed": seed}}
    return Config(merge(merge(base, changes), seeded))


def refuse_other_settings(out: Path, base: Mapping[str, Any]) -> None:
    """Keep the settings in out/settings.json; UserError if runs with others are there: they may not share a table."""
    path = out / "settings.json"
    text = json.dumps(base, indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{out}: holds runs with other settings ({path}); choose another --out, or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)


def make_data(config: Config) -> None:
    """The two-object clips, where the config expects them."""
    folder = config.blocks("data_loader")[0]["args"]["data_dir"]
    if not Path(folder).exists():
        subprocess.run(
            [
                sys.executable,
                str(ROOT / "scripts/make_demo_data.py"),
                "--out",
                folder,
                *DATA,
            ],
            check=True,
        )


def perform(run: Run) -> bool:
    """Train and evaluate, with the output in the run's .log; returns whether both ended well."""
    run.folder.mkdir(parents=True, exist_ok=True)
    config_path = run.folder / "config.json"
    config = merge(
        run.config.to_dict(), {"trainer": {"save_dir": str(run.folder.parent)}}
    )
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    options = ["-c", str(config_path)]
    if run.device:
        options += ["-d", run.device]
    with open(f"{run.folder}.log", "a", encoding="utf-8") as log:
        if not succeeds(log, "train.py", *options, "-r", "auto"):
            return False
        checkpoint = max(
            run.folder.glob("*/checkpoint-latest.pth"),
            key=lambda path: path.stat().st_mtime,
        )
        unfinished = run.folder / "test.part"
        if not succeeds(
            log, "test.py", *options, "-r", str(checkpoint), "-o", str(unfinished)
        ):
            return False
    unfinished.rename(run.folder / "test")
    print(f"{run.variant}, seed {run.seed}: done", flush=True)
    return True


def succeeds(log: Any, program: str, *arguments: str) -> bool:
    """Run one of our programs, with one thread unless the caller says otherwise; whether it ended well."""
    command = [sys.executable, str(ROOT / program), *arguments]
    environment = {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
    }
    done = subprocess.run(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment
    )
    return done.returncode == 0


def comma_separated(text: str) -> list[str]:
    return text.split(",")


def comma_separated_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


@cli_entry
def cli(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--config", default=str(ROOT / "configs/ablation.json"))
    parser.add_argument(
        "--variants",
        type=comma_separated,
        default=list(VARIANTS),
        metavar="A,B,...",
        help=f"of {', '.join(VARIANTS)} (default: these); also {', '.join(MORE_VARIANTS)}",
    )
    parser.add_argument(
        "--seeds",
        type=comma_separated_numbers,
        default=[0, 1, 2],
        metavar="0,1,...",
        help="default: 0,1,2",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("exps/ablation"), help="default: exps/ablation"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("-d", "--device", default="", help="as for train.py")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, report what is there"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    main(parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    cli()
