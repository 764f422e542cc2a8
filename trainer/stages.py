"""The folder of a run, the checkpoint it resumes from, and its stages.

A run is save_dir/name/<MMDD_HHMMSS>/; with stages each has its own folder in it, stage1_NAME/ and so on.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parse_config import Config, ConfigError, merge
from trainer import checkpoint
from trainer.config_check import Sections, check_config, stage_configs
from trainer.distributed import run_on_main
from trainer.evaluation.results import new_folder
from trainer.lock import acquire
from trainer.log import check_wandb
from trainer.settings import TrainerSettings, trainer_settings

log = logging.getLogger(__name__)


class Stage(NamedTuple):
    """One stage of a run; a run without stages is one.

    Attributes:
        number: counts from 0
        config: the stage's resolved config
        folder: where it is saved
        resume: the checkpoint that it resumes from, if any
        before: the last checkpoint of the stage before, if any
    """

    number: int
    config: Config
    folder: Path
    resume: Path | None = None
    before: Path | None = None


class RunLocation(NamedTuple):
    """Where a run starts or resumes.

    Attributes:
        folder: the run's folder
        source: the folder of the run that it resumes
        stage: number of the first stage to run
        start: that stage's checkpoint to resume from, if any
        is_finished: whether nothing is left to train
    """

    folder: Path
    source: Path
    stage: int
    start: Path | None
    is_finished: bool = False


def stages(
    config: Config, resume: str | None = None, sections: Sections = ()
) -> list[Stage]:
    """The stages of a run that remain to be trained.

    Args:
        config: the whole config
        resume: None for a new run, a checkpoint to resume from, or "auto": the newest run of this name that has a
            complete checkpoint, a new run if there is none. Process 0 decides.
        sections: sections of all stages that are checked first, so that a mistake in the last does not show after days

    Raises FileNotFoundError, UserError.
    """
    check_config(config, sections)
    has_stages = bool(config.blocks("stages"))
    configs = stage_configs(config)
    run_on_main(lambda: _check_logging(config, configs))

    def locate() -> RunLocation:
        return _locate_run(config, configs, resume)

    location = run_on_main(locate)
    if location.is_finished:
        return []
    if not has_stages:
        return [Stage(location.stage, config, location.folder, location.start)]
    names = [_stage_name(stage_config, i) for i, stage_config in enumerate(configs)]
    remaining = []
    for number in range(location.stage, len(configs)):
        is_first = number == location.stage
        stage_config = configs[number]
        before = None
        if number:
            run_folder = location.source if is_first else location.folder
            before = run_folder / names[number - 1] / checkpoint.LATEST
            stage_config = _with_weights(stage_config, before)
        start = location.start if is_first else None
        remaining.append(
            Stage(number, stage_config, location.folder / names[number], start, before)
        )
    return remaining


def find_resumed(config: Config, resume: str | None) -> Path | None:
    """The checkpoint that `resume` means, None for a new run; every process must call it. Raises FileNotFoundError."""

    def find() -> Path | None:
        save_dir = Path(trainer_settings(config).save_dir)
        return _checkpoint_to_resume(save_dir / config.require("name"), resume)

    return run_on_main(find)


def is_finished(settings: TrainerSettings, epoch: int, stale: int) -> bool:
    """Whether a stage has nothing left to train.

    Args:
        epoch: finished epochs
        stale: epochs since the last better monitored value, which stop the stage early
    """
    stopped_early = bool(settings.early_stop) and stale >= (settings.early_stop or 0)
    return epoch >= settings.epochs or stopped_early


def _with_weights(config: Config, path: Path) -> Config:
    """The config, its model starting from the weights of a checkpoint."""
    return Config(
        merge(config.to_dict(), {"arch": {"args": {"load_checkpoint": str(path)}}})
    )


def _check_logging(config: Config, configs: Sequence[Config]) -> None:
    """ConfigError where wandb cannot log one of the stages."""
    has_stages = bool(config.blocks("stages"))
    for number, stage_config in enumerate(configs):
        name = config.require("name").rpartition("/")[2]
        if has_stages:
            name = _stage_name(stage_config, number)
        check_wandb(trainer_settings(stage_config).wandb, name)


def _stage_name(config: Config, number: int) -> str:
    """Name of the stage's folder: stage1_NAME for number 0."""
    return f"stage{number + 1}_{config.get('name', '')}".rstrip("_")


def _locate_run(
    config: Config, configs: Sequence[Config], resume: str | None
) -> RunLocation:
    """Find or create the run's folder, and lock it for process 0.

    A checkpoint that is not the newest of its run is resumed in a new folder: what was trained after it stays.
    """
    name_folder = Path(trainer_settings(config).save_dir) / config.require("name")
    has_stages = bool(config.blocks("stages"))
    while True:
        path = _checkpoint_to_resume(name_folder, resume)
        if path is None:
            if resume:
                log.info(
                    "-r auto: no checkpoint under %s, a new run begins", name_folder
                )
            folder = _create_folder(name_folder)
            return RunLocation(folder, folder, 0, None)
        checkpoint.progress(path)  # before a foreign folder is locked
        run_folder = path.parent.parent if has_stages else path.parent
        acquire(run_folder)
        # whoever held the lock until now may have saved once more
        if _checkpoint_to_resume(name_folder, resume) == path:
            break

    state = checkpoint.read(path)
    if _is_finished_run(path, state, configs):
        return RunLocation(run_folder, run_folder, 0, None, is_finished=True)
    stage, start = _next_stage(path, state, configs if has_stages else ())
    if start is None:
        following = run_folder / _stage_name(configs[stage], stage) / checkpoint.LATEST
        is_superseded = checkpoint.is_complete(following)
    else:
        latest = path.with_name(checkpoint.LATEST)
        is_superseded = path != latest and _saved_step(latest) > state["step"]
    if not is_superseded:
        return RunLocation(run_folder, run_folder, stage, start)
    folder = _create_folder(name_folder)
    log.warning(
        "%s is not the newest of its run: going on in a new folder, %s", path, folder
    )
    return RunLocation(folder, run_folder, stage, start)


def _checkpoint_to_resume(name_folder: Path, resume: str | None) -> Path | None:
    """The checkpoint that -r means: a file, the newest of a run folder, or with "auto" the newest of this name."""
    if resume is None:
        return None
    if resume == "auto":
        paths: list[Path] = []
        for run_folder in name_folder.glob("*/"):
            paths += _checkpoints_in(run_folder)
        return checkpoint.newest(paths)
    path = Path(resume)
    return newest_in(path) if path.is_dir() else path


def newest_in(folder: Path) -> Path:
    """The newest checkpoint of a run's folder. Raises FileNotFoundError if it has none that is whole."""
    path = checkpoint.newest(_checkpoints_in(folder))
    if path is None:
        raise FileNotFoundError(
            f"{folder}: is a folder without a checkpoint-*.pth that is whole; give a run's folder or a checkpoint"
        )
    return path


def _checkpoints_in(run_folder: Path) -> list[Path]:
    """Those of a run, of all of its stages; not those of runs in folders below, which have names of their own."""
    return [
        *run_folder.glob("checkpoint-*.pth"),
        *run_folder.glob("stage*/checkpoint-*.pth"),
    ]


def _is_finished_run(
    path: Path, state: dict[str, Any], configs: Sequence[Config]
) -> bool:
    """Whether the checkpoint is the end of the last stage; then how to go on from it is logged."""
    stage = state["trainer"]["stage"] if len(configs) > 1 else 0
    if stage + 1 != len(configs):
        return False
    settings = trainer_settings(configs[stage])
    if not is_finished(settings, state["epoch"], state["trainer"]["stale"]):
        return False
    log.info("%s", describe_end(path, settings, state["epoch"]))
    return True


def describe_end(path: Path, settings: TrainerSettings, epoch: int) -> str:
    """One line for a run that has nothing left to train: why, and how to train on."""
    if epoch >= settings.epochs:
        reason = f"all {settings.epochs} epochs are done; to train on, give trainer.epochs more"
    else:
        reason = (
            f"stopped early after epoch {epoch} of {settings.epochs}, trainer.early_stop is {settings.early_stop}; to "
            "train on, give trainer.early_stop=0"
        )
    return f"{path}: {reason}, or begin a new run from its weights: arch.args.load_checkpoint={path} without -r"


def _next_stage(
    path: Path, state: dict[str, Any], configs: Sequence[Config]
) -> tuple[int, Path | None]:
    """The stage to go on with and the checkpoint it resumes from: None where the stage before has just finished.

    configs: of the stages, empty for a run without. Raises ConfigError if the checkpoint is of a stage beyond them.
    """
    stage = state["trainer"]["stage"]
    if not configs:
        return stage, path
    if stage >= len(configs):
        raise ConfigError(
            f"{path}: is of stage {stage + 1}, and the config has {len(configs)}"
        )
    settings = trainer_settings(configs[stage])
    is_last = stage + 1 == len(configs)
    if not is_last and is_finished(settings, state["epoch"], state["trainer"]["stale"]):
        return stage + 1, None
    return stage, path


def _create_folder(name_folder: Path) -> Path:
    """A new folder <MMDD_HHMMSS> of the run, locked."""
    parents = (name_folder, *name_folder.parents)
    new_parents = [parent for parent in parents if not parent.exists()]
    folder = new_folder(name_folder)
    acquire(folder, new_parents)
    return folder


def _saved_step(path: Path) -> int:
    """The step of a checkpoint, -1 if it is incomplete."""
    return checkpoint.read(path)["step"] if checkpoint.is_complete(path) else -1
