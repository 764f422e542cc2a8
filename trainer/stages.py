"""Where a run lies, where it goes on from, and its stages.

A run is save_dir/name/<MMDD_HHMMSS>/; with stages each lies in a folder of its own therein, as stage1_NAME/.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parse_config import SECTIONS, Config, ConfigError, Registry, check_args, merge
from trainer import checkpoint
from trainer.distributed import run_on_main
from trainer.evaluation.results import new_folder
from trainer.lock import acquire
from trainer.monitor import Monitor
from trainer.settings import trainer_settings

log = logging.getLogger(__name__)


Sections = Sequence[
    tuple[str, Registry, Sequence[str]]
]  # name in the config, what it names, what the program gives


class Stage(NamedTuple):
    """One stage of a run (a run without stages is one): its resolved config, its folder, the checkpoint to go on from
    and the one of the stage before, each None if there is none. `number` counts from 0."""

    number: int
    config: Config
    folder: Path
    resume: Path | None = None
    before: Path | None = None


class RunLocation(NamedTuple):
    """The run's folder, the folder of the run that it goes on from, the first stage to run, its checkpoint or None."""

    folder: Path
    source: Path
    stage: int
    start: Path | None


def stages(config: Config, resume: str | None = None, sections: Sections = ()) -> list[Stage]:
    """The stages that remain of a run, in a new folder or in that of `resume` (a checkpoint, "auto" or None).

    "auto" is the newest run of this name that has a whole checkpoint; a new run if there is none. Process 0 decides.
    `sections` of all stages are checked first, so that none fails by a slip after the others' days. Raises
    FileNotFoundError, UserError.
    """
    blocks = [_resolve(config, number) for number in range(len(config.blocks("stages")))] or [
        config
    ]
    for block in blocks:
        _check(block, sections)
    place = run_on_main(lambda: _place(config, blocks, resume))
    if not config.blocks("stages"):
        return [Stage(place.stage, config, place.folder, place.start)]
    names = [_name(block, number) for number, block in enumerate(blocks)]
    found = []
    for number in range(place.stage, len(blocks)):
        first = number == place.stage
        before = (
            (place.source if first else place.folder) / names[number - 1] / checkpoint.LATEST
            if number
            else None
        )
        found.append(
            Stage(
                number,
                _after(blocks[number], before),
                place.folder / names[number],
                place.start if first else None,
                before,
            )
        )
    return found


def finished(progress: Mapping[str, Any], epoch: int, config: Config) -> bool:
    """Whether a stage of which `epoch` epochs are done has nothing left to do (or was stopped early)."""
    chosen = trainer_settings(config)
    return epoch >= chosen.epochs or bool(
        chosen.early_stop and progress["stale"] >= chosen.early_stop
    )


def _resolve(config: Config, number: int) -> Config:
    """Stage `number` laid over the top."""
    over = config["stages"][number]
    unknown = set(over) - (set(SECTIONS) - {"stages", "base"})
    if unknown:
        raise ConfigError(
            f"stages.{number}.{min(unknown)}: unknown key; known: {', '.join(sorted(SECTIONS))}"
        )
    return Config(
        merge(
            {key: value for key, value in config.to_dict().items() if key != "stages"},
            over.to_dict(),
        )
    )


def _check(config: Config, sections: Sections):
    """Types and arguments, as far as they are known without building."""
    chosen = trainer_settings(config)
    Monitor(chosen.monitor, True)
    for name, registry, given in sections:
        for block in config.blocks(name):
            entry = registry.get(block.require("type"), f"{block.json_path}.type")
            check_args(entry, block.get("args") or {}, f"{block.json_path}.args", given)


def _after(config: Config, before: Path | None) -> Config:
    """`config`, its model starting from the weights of the stage before."""
    if before is None:
        return config
    return Config(merge(config.to_dict(), {"arch": {"args": {"load_checkpoint": str(before)}}}))


def _name(config: Config, number: int) -> str:
    return f"stage{number + 1}_{config.get('name', '')}".rstrip("_")


def _place(config: Config, blocks: list[Config], resume: str | None) -> RunLocation:
    """Where to run; process 0 holds the folder from here on."""
    home, many = (
        Path(trainer_settings(config).save_dir) / config.require("name"),
        bool(config.blocks("stages")),
    )
    found = _newest(home) if resume == "auto" else Path(resume) if resume else None
    if found is None:
        if resume:
            log.info("-r auto: no checkpoint under %s, a new run begins", home)
        folder = _new(home)
        return RunLocation(folder, folder, 0, None)
    written = _age(found) if found.is_file() else None
    state, run = checkpoint.read(found), found.parent.parent if many else found.parent
    acquire(run)
    if (resume == "auto" and _newest(home) != found) or _age(found) != written:
        return _place(config, blocks, resume)  # whoever held it has saved once more
    stage, progress = state["trainer"]["stage"], state["trainer"]
    if many and stage >= len(blocks):
        raise ConfigError(f"{found}: is of stage {stage + 1}, and the config has {len(blocks)}")
    start = found
    if many and finished(progress, state["epoch"], blocks[stage]) and stage + 1 < len(blocks):
        stage, start = stage + 1, None
    if start is None:
        later = checkpoint.complete(run / _name(blocks[stage], stage) / checkpoint.LATEST)
    else:
        later = (
            found.name != checkpoint.LATEST
            and _step(found.with_name(checkpoint.LATEST)) > state["step"]
        )
    folder = _new(home) if later else run
    if later:
        log.warning("%s is not the newest of its run: going on in a new folder, %s", found, folder)
    return RunLocation(folder, run, stage, start)


def _new(home: Path) -> Path:
    folder = new_folder(home)
    acquire(folder)
    return folder


def _newest(home: Path) -> Path | None:
    """The newest run's newest whole checkpoint."""
    for run in sorted(home.glob("*/"), key=_written, reverse=True):
        for path in sorted(run.rglob("checkpoint-*.pth"), key=_age, reverse=True):
            if checkpoint.complete(path):
                return path
            log.warning("%s is not whole, the one before is taken", path)
    return None


def _written(run: Path) -> tuple[int, bool]:
    return max(map(_age, run.rglob("checkpoint-*.pth")), default=(0, False))


def _age(path: Path) -> tuple[int, bool]:
    """For sorting: when it was written, the latest after what is the same file."""
    return path.stat().st_mtime_ns, path.name == checkpoint.LATEST


def _step(path: Path) -> int:
    return checkpoint.read(path)["step"] if checkpoint.complete(path) else -1
