"""The folder of a run, the checkpoint it resumes from, and its stages.

A run is save_dir/name/<MMDD_HHMMSS>/; with stages each has its own folder in it, stage1_NAME/ and so on.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parse_config import SECTIONS, Config, ConfigError, Registry, check_args, merge
from trainer import checkpoint
from trainer.distributed import run_on_main
from trainer.evaluation.results import new_folder
from trainer.evaluator import evaluation_metrics, evaluation_settings
from trainer.lock import acquire
from trainer.monitor import Monitor
from trainer.settings import TrainerSettings, trainer_settings

log = logging.getLogger(__name__)


# section of the config, the registry of its types, arguments that the program adds
Sections = Sequence[tuple[str, Registry, Sequence[str]]]


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
    """

    folder: Path
    source: Path
    stage: int
    start: Path | None


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
    has_stages = bool(config.blocks("stages"))
    stage_configs = [config]
    if has_stages:
        stage_configs = [
            _stage_config(config, i) for i in range(len(config.blocks("stages")))
        ]
    for stage_config in stage_configs:
        _check_sections(stage_config, sections)

    def locate() -> RunLocation:
        return _locate_run(config, stage_configs, resume)

    location = run_on_main(locate)
    if not has_stages:
        return [Stage(location.stage, config, location.folder, location.start)]
    names = [
        _stage_name(stage_config, i) for i, stage_config in enumerate(stage_configs)
    ]
    remaining = []
    for number in range(location.stage, len(stage_configs)):
        is_first = number == location.stage
        stage_config = stage_configs[number]
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


def is_finished(settings: TrainerSettings, epoch: int, stale: int) -> bool:
    """Whether a stage has nothing left to train.

    Args:
        epoch: finished epochs
        stale: epochs since the last better monitored value, which stop the stage early
    """
    stopped_early = bool(settings.early_stop) and stale >= (settings.early_stop or 0)
    return epoch >= settings.epochs or stopped_early


def _stage_config(config: Config, number: int) -> Config:
    """The config with the sections of stage `number` merged into it."""
    overrides = config["stages"][number]
    unknown = set(overrides) - (set(SECTIONS) - {"stages", "base"})
    if unknown:
        raise ConfigError(
            f"stages.{number}.{min(unknown)}: unknown key; known: {', '.join(sorted(SECTIONS))}"
        )
    common = {key: value for key, value in config.to_dict().items() if key != "stages"}
    return Config(merge(common, overrides.to_dict()))


def _check_sections(config: Config, sections: Sections) -> None:
    """Check types and arguments, as far as they can be without building anything."""
    Monitor(trainer_settings(config).monitor, True)
    evaluation_settings(config)
    evaluation_metrics(config)
    for name, registry, program_args in sections:
        for block in config.blocks(name):
            constructor = registry.get(block.require("type"), f"{block.json_path}.type")
            check_args(
                constructor,
                block.get("args") or {},
                f"{block.json_path}.args",
                program_args,
            )


def _with_weights(config: Config, path: Path) -> Config:
    """The config, its model starting from the weights of a checkpoint."""
    return Config(
        merge(config.to_dict(), {"arch": {"args": {"load_checkpoint": str(path)}}})
    )


def _stage_name(config: Config, number: int) -> str:
    return f"stage{number + 1}_{config.get('name', '')}".rstrip("_")


def _locate_run(
    config: Config, stage_configs: Sequence[Config], resume: str | None
) -> RunLocation:
    """Find or create the run's folder, and lock it for process 0."""
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
        modified = _modified(path) if path.is_file() else None
        state = checkpoint.read(path)
        run_folder = path.parent.parent if has_stages else path.parent
        acquire(run_folder)
        # whoever held the lock until now may have saved once more
        is_newest = (
            resume != "auto" or _checkpoint_to_resume(name_folder, resume) == path
        )
        if is_newest and _modified(path) == modified:
            break

    stage, start = _next_stage(path, state, stage_configs if has_stages else ())
    if start is None:
        following = (
            run_folder / _stage_name(stage_configs[stage], stage) / checkpoint.LATEST
        )
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
    if resume == "auto":
        return _newest_checkpoint(name_folder)
    return Path(resume) if resume else None


def _next_stage(
    path: Path, state: dict[str, Any], stage_configs: Sequence[Config]
) -> tuple[int, Path | None]:
    """The stage to go on with and the checkpoint it resumes from: None where the stage before has just finished."""
    stage = state["trainer"]["stage"]
    if not stage_configs:
        return stage, path
    if stage >= len(stage_configs):
        raise ConfigError(
            f"{path}: is of stage {stage + 1}, and the config has {len(stage_configs)}"
        )
    settings = trainer_settings(stage_configs[stage])
    is_last = stage + 1 == len(stage_configs)
    if not is_last and is_finished(settings, state["epoch"], state["trainer"]["stale"]):
        return stage + 1, None
    return stage, path


def _create_folder(name_folder: Path) -> Path:
    folder = new_folder(name_folder)
    acquire(folder)
    return folder


def _newest_checkpoint(name_folder: Path) -> Path | None:
    """The newest complete checkpoint of the newest run that has one."""
    for run_folder in sorted(name_folder.glob("*/"), key=_last_saved, reverse=True):
        for path in sorted(
            run_folder.rglob("checkpoint-*.pth"), key=_modified, reverse=True
        ):
            if checkpoint.is_complete(path):
                return path
            log.warning("%s is not whole, the one before is taken", path)
    return None


def _last_saved(run_folder: Path) -> tuple[int, bool]:
    return max(map(_modified, run_folder.rglob("checkpoint-*.pth")), default=(0, False))


def _modified(path: Path) -> tuple[int, bool]:
    """Sort key: the time of writing; of two names of one file checkpoint-latest.pth comes last."""
    return path.stat().st_mtime_ns, path.name == checkpoint.LATEST


def _saved_step(path: Path) -> int:
    """The step of a checkpoint, -1 if it is incomplete."""
    return checkpoint.read(path)["step"] if checkpoint.is_complete(path) else -1
