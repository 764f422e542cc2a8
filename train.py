"""Train: JSON -> data, model, objective -> loop -> checkpoints, log.jsonl, TensorBoard.

    python train.py -c configs/pretrain_webvid_4f.json [-r auto|CHECKPOINT] [key.path=value ...]
    torchrun --nproc_per_node=8 train.py -c ...
    python train.py -c CONFIG --print-config      the config as it is resolved, without training
    python train.py --list                        every name that a config can use

Exit status: 0 done, 2 a mistake in what was given or a disk that refuses (one line says which), 130 ended by Ctrl-C
after saving, 75 by SIGTERM, SIGUSR1 or SIGHUP.
"""

from parse_config import end_at_ctrl_c, let_threads_sleep

if __name__ == "__main__":
    end_at_ctrl_c()  # importing the rest takes seconds
    let_threads_sleep()


import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_loader import LOADERS
from data_loader.cpus import cpus_of_this_process
from data_loader.split_overlap import warn_of_shared_clips
from model import ARCHS
from model.loss import LOSSES
from model.restore import build_from_checkpoint, build_with_text_of
from model.weights.read import read_skeleton
from parse_config import (
    Config,
    ConfigError,
    UserError,
    cli_entry,
    command_line,
    merge,
    write_config,
)
from trainer import checkpoint, distributed, lock, seeds
from trainer.config_check import check_config
from trainer.evaluator import require_any_caption, require_gallery_captions
from trainer.log import console
from trainer.objectives import OBJECTIVES
from trainer.optim import OPTIMIZERS, SCHEDULES
from trainer.origin import complete, contradictions, origin_of, read_origin
from trainer.settings import has_captions, trainer_settings
from trainer.signals import (
    NOTHING_TO_SAVE,
    StopSignal,
    exit_status,
    ignore_signals,
    signal_name,
)
from trainer.stages import Stage, find_resumed, newest_in, stages
from trainer.threads import count_workers, limit_threads
from trainer.trainer import Trainer

log = logging.getLogger("train")

# Sections that name something registered, and the constructor arguments that the program supplies, not the JSON.
SUPPLIED_TO_LOADERS = ("tokenize", "rank", "world_size", "seed")
SECTIONS = (
    ("arch", ARCHS, ()),
    ("data_loader", LOADERS, SUPPLIED_TO_LOADERS),
    ("valid_loader", LOADERS, SUPPLIED_TO_LOADERS),
    ("loss", LOSSES, ()),
    ("objective", OBJECTIVES, ("model", "loss")),
    ("lr_scheduler", SCHEDULES, ()),
    ("optimizer", OPTIMIZERS, ("module",)),
)
# training videos among which those of the gallery are looked for
MAX_COMPARED = 200_000
CONTRASTIVE = {"type": "Contrastive", "args": {}}


def main(config: Config, resume: str | None = None, device: str | None = None) -> None:
    """Run every stage that remains.

    resume: a checkpoint, a run's folder, or "auto" for the newest of this name
    """
    torch_device = distributed.start(device)
    stop_signal = StopSignal()
    try:
        with stop_signal:
            try:
                with stop_signal.interruptible():
                    console()
                    run_stages(config, resume, torch_device)
            finally:
                lock.release()
                distributed.stop()
    except (KeyboardInterrupt, RuntimeError):
        # another process that has stopped before makes torch raise here
        if not stop_signal.number:
            raise
        log.warning(NOTHING_TO_SAVE, signal_name(stop_signal.number))
        raise SystemExit(exit_status(stop_signal.number)) from None


def run_stages(config: Config, resume: str | None, device: torch.device) -> None:
    """Run every stage that remains, one after the other."""
    config = completed_by_checkpoint(config, resume)
    for stage in stages(config, resume, SECTIONS):
        build(stage, device).run()


def completed_by_checkpoint(config: Config, resume: str | None) -> Config:
    """The config, with what it leaves open taken from the checkpoint that it resumes or starts from.

    What is said otherwise than in the checkpoint that it starts from is logged; of a resumed one the trainer says it.
    """
    if config.blocks("stages"):
        return config
    resumed = find_resumed(config, resume)
    if resumed is not None:
        return complete(config, read_origin(resumed))
    origin = origin_of(config)
    if origin is None:
        return config
    completed = complete(config, origin)
    loaders = [*completed.blocks("data_loader"), *completed.blocks("valid_loader")]
    for change in contradictions(completed, origin, loaders, LOADERS):
        log.warning("other than in %s: %s", origin.path, change)
    return completed


def build(stage: Stage, device: torch.device) -> Trainer:
    """Data, model, objective and loop of one stage."""
    config = stage.config
    seed = trainer_settings(config).seed
    seeds.seed(seed, stage.number)
    model = build_model(stage)
    supplied = {
        "tokenize": model.tokenize,
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
        "seed": seeds.derive_seed(seed, stage.number),
    }
    loaders = [
        LOADERS.build(block, **supplied) for block in config.blocks("data_loader")
    ]
    limit_threads(cpus_of_this_process(), count_workers(loaders))
    valid_loader = build_valid_loader(config, supplied)
    check_gallery(loaders, valid_loader)
    if distributed.rank() == 0:
        warn_of_shared_clips(loaders, valid_loader)
    loss = LOSSES.build(config.require("loss"))
    objective = OBJECTIVES.build(objective_block(stage), model=model, loss=loss)
    require_captions(objective, config)
    if stage.before and not stage.resume:
        checkpoint.load_from_previous_stage(checkpoint.read(stage.before), objective)
    return Trainer(objective, loaders, stage, device, valid_loader)


def require_captions(objective: nn.Module, config: Config) -> None:
    """ConfigError for footage without captions where the objective cannot train on it."""
    for block in config.blocks("data_loader"):
        if objective.needs_captions and not has_captions(block):
            if getattr(objective, "mvm_from", 0) == 1:
                raise ConfigError(
                    "objective.args.mvm_from: 1 never trains masked visual modeling, and "
                    f"{block.json_path}.args.with_captions is false; give less than 1"
                )
            raise ConfigError(
                f"{block.json_path}.args.with_captions: false is given, and {type(objective).__name__} needs captions; "
                "objective.type MILESPretraining trains on footage alone"
            )


def objective_block(stage: Stage) -> Config:
    """The config's objective; contrastive learning without the section.

    A run that was begun before targets could be centred regressed hidden patches on them as they are, and goes on so.
    """
    block = stage.config.get("objective") or Config(CONTRASTIVE)
    unsaid = not {"target_norm", "regress"} & set(block.get("args") or {})
    if not stage.resume or block["type"] != "MILESPretraining" or not unsaid:
        return block
    if "target_norm.mean_X" in checkpoint.read(stage.resume)["objective"]:
        return block
    log.info(
        "%s: an older run, it goes on with target_norm none and regress masked",
        stage.resume,
    )
    older = {"args": {"target_norm": "none", "regress": "masked"}}
    return Config(merge(block.to_dict(), older), block.json_path)


def build_model(stage: Stage) -> nn.Module:
    """The architecture with the weights it starts from; without any where a checkpoint is loaded next."""
    arch = stage.config.require("arch")
    starts_from = (arch.get("args") or {}).get("load_checkpoint")
    if stage.resume:
        without_weights = merge(arch, {"args": {"load_checkpoint": ""}})
        own = read_skeleton(stage.resume)
        return build_with_text_of(own, Config(without_weights, arch.json_path))
    if starts_from:
        return build_from_checkpoint(arch)
    return ARCHS.build(arch)


def build_valid_loader(config: Config, supplied: dict[str, Any]) -> Any:
    """The loader of `valid_loader`; None if that is null.

    Without the section it is the "val" split of the first training data set with captions, or None where that has none.
    """
    if "valid_loader" in config:
        return build_configured_valid_loader(config.blocks("valid_loader"), supplied)
    captioned = [block for block in config.blocks("data_loader") if has_captions(block)]
    if not captioned:
        log.warning("no validation: no training data set has captions")
        return None
    block = merge(captioned[0].to_dict(), {"args": {"split": "val", "shuffle": False}})
    try:
        loader = LOADERS.build(block, **supplied)
        require_any_caption(loader.dataset)
        return loader
    except (UserError, FileNotFoundError) as error:
        log.warning("no validation: %s (give a valid_loader, or null)", error)
        return None


def check_gallery(loaders: list[Any], valid_loader: Any) -> None:
    """ConfigError for held-out videos that are trained on. Other galleries that are: `warn_of_shared_clips`."""
    if valid_loader is None or not valid_loader.dataset.reads_holdout:
        return
    gallery = valid_loader.dataset
    gallery_ids = set(gallery.ids)
    for dataset in (loader.dataset for loader in loaders):
        if type(dataset) is not type(gallery) or len(dataset) > MAX_COMPARED:
            continue
        common = len(gallery_ids.intersection(dataset.ids))
        if common:
            raise ConfigError(
                f"valid_loader.args.holdout: {common} of the {len(gallery)} held-out videos of {gallery.name} are "
                "trained on; give data_loader and valid_loader the same holdout and holdout_seed"
            )


def build_configured_valid_loader(
    blocks: tuple[Config, ...], supplied: dict[str, Any]
) -> Any:
    """The loader that the section describes, or None for null."""
    if not blocks:
        return None
    if len(blocks) > 1:
        raise ConfigError(
            f"valid_loader: {len(blocks)} loaders are given, validation reads one"
        )
    (block,) = blocks
    require_gallery_captions(block)
    split = (block.get("args") or {}).get("split", "train")
    if split == "train":
        raise ConfigError(
            "valid_loader.args.split: is 'train' (its default too), which is read at random frames, cropped at random; "
            "give val"
        )
    if split == "test":
        log.warning(
            "validation is on the test split: what is chosen by it is chosen on the test set"
        )
    loader = LOADERS.build(block, **supplied)
    require_any_caption(loader.dataset)
    return loader


def config_of_checkpoint(path: str) -> Mapping[str, Any]:
    """The config that a checkpoint, or the newest one of a run's folder, was trained with."""
    if Path(path).is_dir():
        path = str(newest_in(Path(path)))
    return read_origin(path).config


@cli_entry
def cli(argv: list[str] | None = None) -> None:
    """The command line."""
    arguments, config = command_line(__doc__, argv, read_config=config_of_checkpoint)
    if arguments.print_config:
        check_config(config, SECTIONS)
        write_config(config)
        return
    main(config, arguments.resume, arguments.device)


if __name__ == "__main__":
    try:
        cli()
    finally:
        ignore_signals()  # Python ends with the data workers
