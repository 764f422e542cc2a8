"""What the ablation runs: variants of the method, worlds of data, budgets of training -> the config of every run."""

import functools
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parse_config import Config, ConfigError, blank_comments, merge

ROOT = Path(__file__).resolve().parent.parent.parent
METHODS = ROOT / "configs/method"

BASELINE = "contrastive"
WORLDS = ("sparse", "partial", "redundant")
BUDGETS = {
    "steps": "equal optimizer steps",
    "passes": "equal encoder passes",
    "captions": "few captions",
}
TUNING_SEED = 100  # none of those that are evaluated


class Variant(NamedTuple):
    """A variant: words for a reader, and changes of the config that are merged in turn."""

    title: str
    changes: Sequence[Mapping[str, Any]] = ()


class Sizes(NamedTuple):
    """Clips of each split of a world, and how many training clips have captions in the budget of few."""

    train: int = 6000
    val: int = 500
    test: int = 1000
    captioned: int = 1000


class Run(NamedTuple):
    """One training with its measurements.

    Attributes:
        world: name of the data
        budget: one of BUDGETS
        variant: name of the variant
        seed: of the weights at the start, the order, the frames and the masks
        folder: where it is saved; runs with the same config share it
        config: without the folder and its name
        passes: passes through the video encoder per step; None where steps differ, with and without captions
        settings: what --tune tries, {dotted key: value}; such a run is measured on val
    """

    world: str
    budget: str
    variant: str
    seed: int
    folder: Path
    config: Config
    passes: float | None
    settings: Mapping[str, Any] | None = None

    @property
    def split(self) -> str:
        """The split that it is measured on."""
        return "test" if self.settings is None else "val"


def objective_args(**args: Any) -> dict[str, Any]:
    return {"objective": {"args": args}}


# {name: (words for a reader, changes)}; each is the base config, or configs/method/miles.json where that is there, with
# one setting changed. A file configs/method/NAME.json of the same name takes its place, under the same title.
SINGLE_CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    BASELINE: ("contrastive only", {"objective": {"type": "Contrastive", "args": {}}}),
    "miles": ("MILES", {}),
    "frozen": ("MILES, frozen teacher", objective_args(teacher={"type": "Frozen"})),
    "scattered": (
        "MILES, scattered mask",
        objective_args(mask={"type": "Tube", "args": {"ratio": 0.5}}),
    ),
    "encoder": ("MILES, encoder space", objective_args(target_space="encoder")),
    "ratio30": ("MILES, ratio 0.3", objective_args(mask={"args": {"ratio": 0.3}})),
    "ratio75": ("MILES, ratio 0.75", objective_args(mask={"args": {"ratio": 0.75}})),
    "uncentred": ("MILES, target as it is", objective_args(target_norm="none")),
    "masked": (
        "contrastive on masked clips",
        objective_args(contrast_view="masked", mvm_weight=0.0),
    ),
    "weight4": ("MILES, weight 4", objective_args(mvm_weight=4.0)),
}


def known_variants(folder: Path = METHODS) -> dict[str, Variant]:
    """The variants that can be named: the baseline, MILES, the other files of `folder`, the single changes."""
    methods = {path.stem: read_method(path) for path in sorted(folder.glob("*.json"))}
    of_miles = methods["miles"].changes if "miles" in methods else ()
    known = dict(methods)
    for name, (title, changes) in SINGLE_CHANGES.items():
        if name in methods:
            known[name] = methods[name]._replace(title=title)
        elif name == BASELINE:
            known[name] = Variant(title, (changes,))
        else:
            known[name] = Variant(title, (*of_miles, changes))
    names = dict.fromkeys((*default_variants(folder), *known))
    return {name: known[name] for name in names}


def default_variants(folder: Path = METHODS) -> list[str]:
    """The baseline, MILES, and the other files of `folder`."""
    names = (path.stem for path in sorted(folder.glob("*.json")))
    return list(dict.fromkeys((BASELINE, "miles", *names)))


def read_method(path: Path) -> Variant:
    """The variant of a file, without the base that it has when it is trained by itself.

    Its title is the first words of "about", up to a colon or the like, or else its name.
    """
    changes = json.loads(blank_comments(path.read_text(encoding="utf-8")))
    description, name = changes.get("about", ""), changes.get("name", path.stem)
    words = description.split("  -- ")[-1]
    for mark in (":", ";", ". ", " ("):
        words = words.partition(mark)[0]
    for key in ("$schema", "base", "about", "name"):
        changes.pop(key, None)
    return Variant(words.strip().rstrip(".") or name, (changes,))


def choose(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError for a name that is not known."""
    for name in names:
        if name not in known:
            raise ConfigError(f"--{what}: {name!r} is given; known: {', '.join(known)}")


class Plan(NamedTuple):
    """How the configs of runs are made.

    Attributes:
        base: the config that variants change
        data: folder of the worlds
        out: folder of the results
        sizes: of the data
        tuned: what was chosen on validation, {budget: {variant: {"settings": ...}}}
        variants: the variants that can be named
    """

    base: Mapping[str, Any]
    data: Path
    out: Path
    sizes: Sizes
    tuned: Mapping[str, Any]
    variants: Mapping[str, Variant]

    def run(self, world: str, budget: str, variant: str, seed: int) -> Run:
        """One run that is evaluated, with the settings that were tuned."""
        settings = self.tuned_settings(budget, variant)
        config = self.config(world, budget, variant, seed, settings)
        shared_budget = budget
        if budget == "passes":
            of_steps = self.tuned_settings("steps", variant)
            if config == self.config(world, "steps", variant, seed, of_steps):
                shared_budget = "steps"
        folder = self.out / "runs" / world / shared_budget / variant / f"seed{seed}"
        passes = None if budget == "captions" else passes_per_step(config)
        return Run(world, budget, variant, seed, folder, Config(config), passes)

    def tuning_run(
        self, world: str, budget: str, variant: str, settings: Mapping[str, Any]
    ) -> Run:
        """One run with settings to try, measured on val."""
        config = self.config(world, budget, variant, TUNING_SEED, settings)
        label = "_".join(
            f"{key.rpartition('.')[2]}{value}" for key, value in settings.items()
        )
        folder = self.out / "tune" / world / budget / variant / (label or "as_it_is")
        passes = None if budget == "captions" else passes_per_step(config)
        return Run(
            world,
            budget,
            variant,
            TUNING_SEED,
            folder,
            Config(config),
            passes,
            settings,
        )

    def tuned_settings(self, budget: str, variant: str) -> Mapping[str, Any]:
        """What was chosen for this budget, or else for equal steps."""
        for tuned_budget in (budget, "steps"):
            choice = self.tuned.get(tuned_budget, {}).get(variant)
            if choice:
                return choice["settings"]
        return {}

    def config(
        self,
        world: str,
        budget: str,
        variant: str,
        seed: int,
        settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The whole config of a run, but for the place where it is saved."""
        folder = str(self.data / world)
        world_paths = {
            "arch": {"args": {"text_params": {"model": f"{folder}/text_model"}}},
            "data_loader": {"args": {"data_dir": folder}},
        }
        seeded = {"trainer": {"seed": seed}}
        config = dict(self.base)
        for changes in (*self.variants[variant].changes, world_paths, seeded):
            config = merge(config, changes)
        for key, value in settings.items():
            config = merge(config, nested(key.split("."), value))
        if budget == "passes":
            return with_equal_passes(config, self.sizes)
        if budget == "captions":
            return with_few_captions(config, self.sizes)
        return config


def nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """{k0: {k1: ... value}}."""
    if len(keys) == 1:
        return {keys[0]: value}
    return {keys[0]: nested(keys[1:], value)}


def with_equal_passes(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The config with as many passes through the video encoder as contrastive learning has in the config's steps.

    Who needs c passes a step gets 1 / c of the steps.
    """
    passes = passes_per_step(config)
    if passes == 1:
        return dict(config)
    most_rounds = rounds_per_epoch(config, sizes.train)
    steps = config["trainer"]["epochs"] * most_rounds
    return with_rounds(config, steps, round(steps / passes), most_rounds, loaders=1)


def with_few_captions(config: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The config with the budget's captioned clips in as many steps, and with as many steps on clips without captions.

    The two kinds of steps alternate. An objective that needs captions, contrastive learning, takes the first kind
    alone.
    """
    loader = config["data_loader"]
    captioned = merge(loader, {"args": {"cut": f"captioned{sizes.captioned}"}})
    without = {"cut": f"uncaptioned{sizes.captioned}", "with_captions": False}
    loaders = [captioned]
    if not needs_captions(config):
        loaders.append(merge(loader, {"args": without}))
    steps = config["trainer"]["epochs"] * rounds_per_epoch(config, sizes.train)
    most_rounds = rounds_per_epoch(config, sizes.captioned)
    if len(loaders) > 1:
        unlabelled = rounds_per_epoch(config, sizes.train - sizes.captioned)
        most_rounds = min(most_rounds, unlabelled)
    changed = {
        **with_rounds(config, steps, steps, most_rounds, len(loaders)),
        "data_loader": loaders,
    }
    return merge(changed, {"evaluation": {"data_loader": loader}})


def needs_captions(config: Mapping[str, Any]) -> bool:
    """Whether the objective has no use for clips without captions."""
    from trainer.objectives import OBJECTIVES

    objective: Any = OBJECTIVES.get(config["objective"]["type"])
    args = config["objective"].get("args", {})
    return objective.needs_captions or args.get("mvm_from", 0) == 1


def rounds_per_epoch(config: Mapping[str, Any], clips: int) -> int:
    """Steps that one loader has in an epoch of so many clips, on one process."""
    trainer = config["trainer"]
    per_step = samples_per_step(config)
    most = trainer.get("max_samples_per_epoch") or math.inf
    rounds = int(min(clips, most) // per_step)
    if rounds < 1:
        raise ConfigError(
            f"data_loader.args.batch_size: {clips} clips do not make a step of {per_step}"
        )
    return rounds


def samples_per_step(config: Mapping[str, Any]) -> int:
    return config["data_loader"]["args"]["batch_size"] * config["trainer"].get(
        "accumulate", 1
    )


def with_rounds(
    config: Mapping[str, Any],
    base_steps: int,
    rounds: int,
    most_rounds: int,
    loaders: int,
) -> dict[str, Any]:
    """The config with so many rounds of steps in all, in epochs of equal length; the warm-up keeps its share.

    The length of an epoch is a whole number: the rounds are met up to half an epoch's count of epochs.

    Args:
        base_steps: steps that the config has, of which warmup_steps are a share
        rounds: rounds to take, a step of every loader each
        most_rounds: rounds that an epoch can have
        loaders: number of loaders
    """
    rounds = max(1, rounds)
    epochs = math.ceil(rounds / most_rounds)
    rounds_of_epoch = round(rounds / epochs)
    trainer = {
        "epochs": epochs,
        "max_samples_per_epoch": rounds_of_epoch * loaders * samples_per_step(config),
    }
    changed = merge(config, {"trainer": trainer})
    warmup = (config.get("lr_scheduler") or {}).get("args", {}).get("warmup_steps")
    if not warmup:
        return changed
    steps = epochs * rounds_of_epoch * loaders
    scaled = {"warmup_steps": round(warmup * steps / base_steps)}
    return merge(changed, {"lr_scheduler": {"args": scaled}})


def passes_per_step(config: Mapping[str, Any]) -> float:
    """Passes through the video encoder per step on clips with captions, as the objective says; forward alone is 1/3."""
    sections = {key: config[key] for key in ("arch", "objective", "loss")}
    return _passes_of_objective(json.dumps(sections, sort_keys=True))


@functools.cache
def _passes_of_objective(sections: str) -> float:
    """Build the objective, with a tiny text model, as the real one lies with data that may not be made yet."""
    from transformers.utils import logging

    from model import ARCHS
    from model.loss import LOSSES
    from scripts.synthetic import tiny_models
    from trainer.objectives import OBJECTIVES

    logging.disable_progress_bar()
    config = json.loads(sections)
    with tempfile.TemporaryDirectory() as folder:
        text_model = tiny_models.save_text_model(Path(folder))
        text = {"args": {"text_params": {"model": text_model}}}
        model = ARCHS.build(merge(config["arch"], text))
    loss = LOSSES.build(config["loss"])
    objective = OBJECTIVES.build(config["objective"], model=model, loss=loss)
    return float(objective.passes_per_clip())


def settings_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config as JSON with sorted keys, without its name and the folder where it is saved."""
    settings = {key: value for key, value in config.items() if key != "name"}
    trainer = {**config["trainer"], "save_dir": None}
    text = json.dumps({**settings, "trainer": trainer}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/ablation.py --help")
