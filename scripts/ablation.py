"""The ablation: variants of the method on worlds of data with equal budgets and several seeds -> a table and a figure.

    python scripts/ablation.py                                    all methods, three worlds, five seeds; makes the data
    python scripts/ablation.py --variants contrastive,miles,miles_as_drawn --worlds sparse --jobs 2
    python scripts/ablation.py --budgets steps,passes,captions    equal steps, equal passes, few captions
    python scripts/ablation.py --tune lr=0.0005,0.001,0.002       choose settings on validation, for later runs
    python scripts/ablation.py trainer.epochs=2 --out exps/quick  settings for train.py, of every run alike
    python scripts/ablation.py --report                           table and figure of what is there

Runs that are done are not done again, a run that was killed goes on where it was: call it once more. Each run is a
process of its own, with one thread on a CPU unless OMP_NUM_THREADS says otherwise. The last weights are evaluated on
the test split, not the best epoch; what --tune chooses it chooses on the val split with another seed.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from parse_config import ConfigError, UserError, cli_entry, load_config
from scripts.benchmarks import ablation_plan, ablation_report, ablation_runs
from scripts.benchmarks.ablation_plan import BUDGETS, ROOT, WORLDS, Plan, Run, Sizes
from scripts.benchmarks.ablation_runs import MEASURES

TUNED = "tuned.json"


# settings that a run takes from elsewhere, and from where
SET_BY_RUNS = {
    "objective": "the variant",
    "trainer.seed": "--seeds",
    "data_loader.args.data_dir": "the world",
    "arch.args.text_params.model": "the world",
}


def main(arguments: argparse.Namespace) -> None:
    """Run what is missing, then report. Raises UserError when a run fails, after the others have ended."""
    check_names(arguments)
    plan = make_plan(arguments)
    if not arguments.report:
        for world in arguments.worlds:
            ablation_runs.make_data(arguments.data / world, world, plan.sizes)
    if arguments.tune:
        tune(plan, arguments)
        return
    runs = [
        plan.run(world, budget, variant, seed)
        for seed, budget, world, variant in itertools.product(
            arguments.seeds, arguments.budgets, arguments.worlds, arguments.variants
        )
    ]
    if not arguments.report:
        perform_missing(runs, arguments.measure, arguments)
    titles = {name: variant.title for name, variant in plan.variants.items()}
    print(ablation_report.write(arguments.out, runs, titles, plan.tuned))


def check_names(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for a name that is not known."""
    choose = ablation_plan.choose
    choose("variants", arguments.variants, ablation_plan.known_variants())
    choose("worlds", arguments.worlds, WORLDS)
    choose("budgets", arguments.budgets, BUDGETS)
    choose("measure", arguments.measure, MEASURES)
    for name in arguments.measure:
        if not MEASURES[name].exists:
            raise ConfigError(
                f"--measure {name}: {MEASURES[name].program} cannot do this"
            )
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs: {arguments.jobs} is given, 1 or more is needed")


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The base config, the sizes of the data, what was tuned before."""
    for override in arguments.overrides:
        refuse_what_runs_set(override)
    base = load_config(arguments.config, arguments.overrides).to_dict()
    sizes = Sizes(*(getattr(arguments, name) for name in Sizes._fields))
    path = arguments.out / TUNED
    tuned = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    variants = ablation_plan.known_variants()
    return Plan(base, arguments.data, arguments.out, sizes, tuned, variants)


def perform_missing(
    runs: Sequence[Run], measures: Sequence[str], arguments: argparse.Namespace
) -> None:
    """Perform the runs that are not done, seed by seed, so that an unfinished ablation is already a comparison."""
    unique = list({run.folder: run for run in runs}.values())
    missing = [run for run in unique if not ablation_runs.is_done(run, measures)]
    print(f"{len(unique)} runs, {len(unique) - len(missing)} of them done", flush=True)
    progress = Progress(len(missing), arguments.jobs)

    def perform(run: Run) -> bool:
        started = time.monotonic()
        succeeded = ablation_runs.perform(run, measures, arguments.device)
        progress.report(run, time.monotonic() - started, succeeded)
        return succeeded

    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = list(pool.map(perform, missing))
    failed = [
        f"{run.folder}.log"
        for run, succeeded in zip(missing, outcomes, strict=True)
        if not succeeded
    ]
    if failed:
        raise UserError(
            f"{len(failed)} runs failed: see {', '.join(failed)}; the same command runs them again"
        )


class Progress:
    """Prints a line for each run that ends, with the time that the others will take if they take as long."""

    def __init__(self, count: int, jobs: int) -> None:
        self.count = count
        self.jobs = jobs
        self.seconds: list[float] = []

    def report(self, run: Run, seconds: float, succeeded: bool) -> None:
        self.seconds.append(seconds)
        ended = len(self.seconds)
        left = statistics.fmean(self.seconds) * (self.count - ended) / self.jobs
        outcome = "done" if succeeded else "FAILED"
        print(
            f"{ended}/{self.count} {run.world}, {run.budget}: {run.variant}, seed {run.seed}: {outcome} in "
            f"{seconds:.0f} s; about {left / 60:.0f} min left",
            flush=True,
        )


def tune(plan: Plan, arguments: argparse.Namespace) -> None:
    """Try every combination of settings for every variant; keep the best ones in tuned.json, and say which."""
    grids = {
        name: grid(arguments.tune, is_baseline=name == ablation_plan.BASELINE)
        for name in arguments.variants
    }
    runs = [
        plan.tuning_run(world, budget, variant, settings)
        for budget, world in itertools.product(arguments.budgets, arguments.worlds)
        for variant in arguments.variants
        for settings in grids[variant]
    ]
    perform_missing(runs, ["retrieval"], arguments)
    tuned = {budget: dict(choices) for budget, choices in plan.tuned.items()}
    for budget, variant in itertools.product(arguments.budgets, arguments.variants):
        tried = [run for run in runs if (run.budget, run.variant) == (budget, variant)]
        choice = best_settings(tried)
        tuned.setdefault(budget, {})[variant] = choice
        print(
            f"{budget}, {variant}: {choice['settings']}, validation R@1 {choice['val_R1']:.1f} %"
        )
    ablation_runs.write_json(arguments.out / TUNED, tuned)
    print(f"written: {arguments.out / TUNED}")


def grid(tried: Mapping[str, Sequence[Any]], is_baseline: bool) -> list[dict[str, Any]]:
    """Every combination of the values; those of the objective's arguments only where there are such arguments.

    Args:
        tried: {setting: values}; "lr" is optimizer.args.lr, another plain word an argument of the objective
        is_baseline: whether it is for contrastive learning alone
    """
    dotted = {}
    for name, values in tried.items():
        key = name if "." in name else f"objective.args.{name}"
        if name == "lr":
            key = "optimizer.args.lr"
        if not (is_baseline and key.startswith("objective.")):
            dotted[key] = values
    return [
        dict(zip(dotted, values, strict=True))
        for values in itertools.product(*dotted.values())
    ]


def best_settings(runs: Sequence[Run]) -> dict[str, Any]:
    """The settings of the highest validation R@1, averaged over the worlds; the first of equals. All numbers are kept.

    Args:
        runs: tuning runs of one variant and one budget, all done
    """
    records = [ablation_runs.read_record(run) for run in runs]
    found: dict[str, list[float]] = {}
    for run, record in zip(runs, records, strict=True):
        assert record is not None
        found.setdefault(json.dumps(run.settings), []).append(
            record["metrics"]["t2v.R1"]
        )
    means = {settings: statistics.fmean(values) for settings, values in found.items()}
    best = max(means, key=means.__getitem__)
    return {"settings": json.loads(best), "val_R1": means[best], "tried": records}


def comma_separated(text: str) -> list[str]:
    return text.split(",")


def comma_separated_numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def tried_values(text: str) -> tuple[str, list[Any]]:
    """(setting, values) of "lr=0.001,0.002"."""
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise argparse.ArgumentTypeError(f"{text!r}: write lr=0.001,0.002")
    return name, [json.loads(value) for value in values.split(",")]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--config", default=str(ROOT / "configs/ablation.json"))
    add_choices(parser)
    parser.add_argument(
        "--tune",
        type=tried_values,
        nargs="+",
        default=[],
        metavar="lr=A,B",
        help="run nothing else; tuned.json in --out keeps what is best, and later runs take it",
    )
    parser.add_argument("--out", type=Path, default=Path("exps/ablation"))
    parser.add_argument("--data", type=Path, default=Path("data/ablation"))
    for name, count in Sizes()._asdict().items():
        parser.add_argument(
            f"--{name}", type=int, default=count, help=f"clips of each world ({count})"
        )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("-d", "--device", default="", help="as for train.py")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, report what is there"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    return parser


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Options that say which runs there are."""
    names = ablation_plan.default_variants()
    others = [name for name in ablation_plan.known_variants() if name not in names]
    parser.add_argument(
        "--variants",
        type=comma_separated,
        default=names,
        metavar="A,B,...",
        help=f"default: {', '.join(names)}; also {', '.join(others)}",
    )
    for option, known, default in (
        ("--worlds", WORLDS, list(WORLDS)),
        ("--budgets", BUDGETS, ["steps"]),
        ("--measure", MEASURES, ablation_runs.existing_measures()),
    ):
        parser.add_argument(
            option,
            type=comma_separated,
            default=default,
            metavar="A,B,...",
            help=f"of {', '.join(known)} (default: {', '.join(default)})",
        )
    parser.add_argument(
        "--seeds",
        type=comma_separated_numbers,
        default=[0, 1, 2, 3, 4],
        metavar="0,1,...",
        help="default: 0,1,2,3,4",
    )


def refuse_what_runs_set(override: str) -> None:
    """ConfigError for a setting that every run sets itself, so that it would be dropped."""
    for key, who in SET_BY_RUNS.items():
        if override.startswith(key):
            raise ConfigError(
                f"{override.partition('=')[0]}: is set by {who}; for another one write configs/method/NAME.json, or "
                "use --tune, --seeds, --data"
            )


@cli_entry
def cli(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    arguments = build_parser().parse_intermixed_args(argv)
    arguments.tune = dict(arguments.tune)
    main(arguments)


if __name__ == "__main__":
    cli()
