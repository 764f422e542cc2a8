"""The ablation in small: every variant with the same budget and several seeds -> a table and a figure.

    python scripts/ablation.py                                    all variants, seeds 0, 1, 2; makes data/demo2
    python scripts/ablation.py --variants contrastive,miles --seeds 0,1,2,3,4 --jobs 2
    python scripts/ablation.py trainer.epochs=2 --out exps/quick  settings for train.py, of every run alike
    python scripts/ablation.py --report                           table and figure of what is there

Runs that are done are not done again, a run that was killed goes on where it was (train.py -r auto): call it once more.
Each run is a process of its own, with one thread on a CPU unless OMP_NUM_THREADS says otherwise. The last weights are
examined on the test split, not the best epoch, so that nothing is chosen.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parse_config import Config, ConfigError, UserError, cli_entry, load_config, merge
from scripts.benchmarks import ablation_report

DATA = ["--objects", "2", "--train", "6000", "--test", "1000"]  # of make_demo_data.py
CLEAN = {"type": "Contrastive", "args": {}}


def method(**args: Any) -> dict[str, Any]:
    return {"objective": {"args": args}}


VARIANTS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # name -> (what a reader calls it, what it lays over the config)
    "contrastive": ("contrastive only", {"objective": CLEAN}),
    "miles": ("MILES", {}),
    "frozen": ("MILES, frozen teacher", method(teacher={"type": "Frozen", "args": {}})),
    "scattered": ("MILES, scattered mask", method(mask={"type": "Tube", "args": {"ratio": 0.5}})),
    "encoder": ("MILES, encoder space", method(target_space="encoder")),
    "ratio30": ("MILES, ratio 0.3", method(mask={"args": {"ratio": 0.3}})),
    "ratio75": ("MILES, ratio 0.75", method(mask={"args": {"ratio": 0.75}})),
    "clean": ("MILES, clean view", method(contrast_view="full")),
}
MORE: dict[str, tuple[str, dict[str, Any]]] = {  # only when named: what else was tried
    "masked": ("contrastive on masked clips", method(mvm_weight=0.0)),
    "weight4": ("MILES, weight 4", method(mvm_weight=4.0)),
    "clean_masked": ("clean view, no MVM", method(contrast_view="full", mvm_weight=0.0)),
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


def main(given: argparse.Namespace):
    """Run what is missing, then report. Raises UserError when a run fails, after the others have ended."""
    runs = plan(given)
    if not given.report:
        make_data(runs[0].config)
        missing = [run for run in runs if not run.results.is_file()]
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
        with ThreadPoolExecutor(given.jobs) as pool:
            failed = [
                run.folder
                for run, good in zip(missing, pool.map(perform, missing), strict=True)
                if not good
            ]
        if failed:
            raise UserError(
                f"{len(failed)} runs failed: see {', '.join(f'{folder}.log' for folder in failed)}; the "
                "same command runs them again"
            )
    titles = {name: title for name, (title, _) in {**VARIANTS, **MORE}.items()}
    print(
        ablation_report.write(
            given.out, {(run.variant, run.seed): run.results for run in runs}, titles
        )
    )


def plan(given: argparse.Namespace) -> list[Run]:
    """Seed by seed, so that an unfinished ablation is already a comparison."""
    known = {**VARIANTS, **MORE}
    unknown = [name for name in given.variants if name not in known]
    if unknown:
        raise ConfigError(f"--variants: {unknown[0]!r} is given; known: {', '.join(known)}")
    base = load_config(given.config, given.overrides).to_dict()
    stamp(given.out, base)
    return [
        Run(
            name,
            seed,
            given.out / "runs" / name / f"seed{seed}",
            laid(base, known[name][1], seed),
            given.device,
        )
        for seed in given.seeds
        for name in given.variants
    ]


def laid(base: Mapping[str, Any], over: Mapping[str, Any], seed: int) -> Config:
    """The config of one run; the seed decides the weights at the start, the order, the frames and the masks."""
    return Config(merge(merge(base, over), {"name": f"seed{seed}", "trainer": {"seed": seed}}))


def stamp(out: Path, base: Mapping[str, Any]):
    """Runs with other settings may not meet in one table."""
    path, text = out / "settings.json", json.dumps(base, indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{out}: holds runs with other settings ({path}); choose another --out, or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_data(config: Config):
    """The two-object clips, where the config expects them."""
    folder = config.blocks("data_loader")[0]["args"]["data_dir"]
    if not Path(folder).exists():
        subprocess.run(
            [sys.executable, str(ROOT / "scripts/make_demo_data.py"), "--out", folder, *DATA],
            check=True,
        )


def perform(run: Run) -> bool:
    """Train and examine; what they say goes to the run's .log. -> whether both ended well."""
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "config.json"
    config = merge(run.config.to_dict(), {"trainer": {"save_dir": str(run.folder.parent)}})
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    device = ["-d", run.device] if run.device else []
    with open(f"{run.folder}.log", "a", encoding="utf-8") as log:
        if not call(log, "train.py", "-c", str(path), "-r", "auto", *device):
            return False
        last = max(
            run.folder.glob("*/checkpoint-latest.pth"), key=lambda found: found.stat().st_mtime
        )
        part = run.folder / "test.part"
        good = call(log, "test.py", "-c", str(path), "-r", str(last), "-o", str(part), *device)
    if good:
        part.rename(run.folder / "test")
        print(f"{run.variant}, seed {run.seed}: done", flush=True)
    return good


def call(log: Any, *arguments: str) -> bool:
    """One of our programs, with one thread unless the caller says otherwise."""
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    return (
        subprocess.run(
            [sys.executable, str(ROOT / arguments[0]), *arguments[1:]],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        ).returncode
        == 0
    )


@cli_entry
def cli(argv: Sequence[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--config", default=str(ROOT / "configs/ablation.json"))
    parser.add_argument(
        "--variants",
        type=lambda words: words.split(","),
        default=list(VARIANTS),
        metavar="A,B,...",
        help=f"of {', '.join(VARIANTS)} (default: these); also {', '.join(MORE)}",
    )
    parser.add_argument(
        "--seeds",
        type=lambda words: [int(word) for word in words.split(",")],
        default=[0, 1, 2],
        metavar="0,1,...",
        help="default: 0,1,2",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("exps/ablation"), help="default: exps/ablation"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("-d", "--device", default="", help="as for train.py")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is there")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    main(parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    cli()
