"""Train: JSON -> data, model, objective -> loop -> checkpoints, log.jsonl, TensorBoard.

    python train.py -c configs/pretrain_webvid_4f.json [-r auto|CHECKPOINT] [key.path=value ...]
    torchrun --nproc_per_node=8 train.py -c ...

Exit status: 0 done, 2 a mistake in what was given (one line says which), 75 ended by SIGTERM or SIGUSR1 after saving.
"""

import logging
from typing import Any

import torch
from torch import nn

from data_loader import LOADERS
from model import ARCHS
from model.loss import LOSSES
from parse_config import Config, UserError, cli_entry, command_line, merge
from trainer import checkpoint, distributed, lock, seeds
from trainer.log import console
from trainer.objectives import OBJECTIVES
from trainer.optim import OPTIMIZERS, SCHEDULES
from trainer.settings import trainer_settings
from trainer.stages import Stage, stages
from trainer.trainer import Trainer

log = logging.getLogger("train")

GIVEN = ("tokenize", "rank", "world_size", "seed")
SECTIONS = (
    ("arch", ARCHS, ()),
    ("data_loader", LOADERS, GIVEN),
    ("valid_loader", LOADERS, GIVEN),
    ("loss", LOSSES, ()),
    ("objective", OBJECTIVES, ("model", "loss")),
    ("lr_scheduler", SCHEDULES, ()),
    ("optimizer", OPTIMIZERS, ("module",)),
)
CONTRASTIVE = {"type": "Contrastive", "args": {}}


def main(config: Config, resume: str | None = None, device: str | None = None):
    """Run every stage that remains. `resume`: a checkpoint, or "auto" for the newest of this name."""
    place = distributed.start(device)
    try:
        console()
        for stage in stages(config, resume, SECTIONS):
            build(stage, place).run()
    finally:
        lock.release()
        distributed.stop()


def build(stage: Stage, place: torch.device) -> Trainer:
    """data -> model -> objective -> loop."""
    config, seed = stage.config, trainer_settings(stage.config).seed
    seeds.seed(seed, stage.number)
    model = build_model(stage)
    given = dict(
        zip(
            GIVEN,
            (
                model.tokenize,
                distributed.rank(),
                distributed.world_size(),
                seeds.derive_seed(seed, stage.number),
            ),
        )
    )
    loaders = [LOADERS.build(block, **given) for block in config.blocks("data_loader")]
    valid_loader = build_valid_loader(config, given)
    loss = LOSSES.build(config.require("loss"))
    objective = OBJECTIVES.build(config.get("objective") or CONTRASTIVE, model=model, loss=loss)
    if stage.before and not stage.resume:
        checkpoint.carry(checkpoint.read(stage.before), objective)
    return Trainer(objective, loaders, stage, place, valid_loader)


def build_model(stage: Stage) -> nn.Module:
    """The architecture with the weights it starts from, or bare where a checkpoint comes next."""
    arch = stage.config.require("arch")
    if not stage.resume:
        return ARCHS.build(arch)
    bare = {"args": {"load_checkpoint": ""}} if "load_checkpoint" in arch.get("args", {}) else {}
    return ARCHS.build(Config(merge(arch.to_dict(), bare), arch.json_path), pretrained=False)


def build_valid_loader(config: Config, given: dict[str, Any]) -> Any:
    """`valid_loader`, or the first training data set's "val" split where there is one; None if it is set to null."""
    if "valid_loader" in config:
        block = config["valid_loader"]
        if block and block["args"].get("split") == "test":
            log.warning(
                "validation is on the test split: what is chosen by it is chosen on the test set"
            )
        return LOADERS.build(block, **given) if block else None
    block = merge(
        config.blocks("data_loader")[0].to_dict(), {"args": {"split": "val", "shuffle": False}}
    )
    try:
        return LOADERS.build(block, **given)
    except (UserError, FileNotFoundError) as error:
        log.warning("no validation: %s (give a valid_loader, or null)", error)
        return None


@cli_entry
def cli(argv: list[str] | None = None):
    """The command line."""
    arguments, config = command_line(__doc__, argv)
    main(config, arguments.resume, arguments.device)


if __name__ == "__main__":
    cli()
