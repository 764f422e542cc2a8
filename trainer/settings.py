"""The "trainer" section of a config: names, defaults, checks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from parse_config import ConfigError, check_args

MINIMUM = {
    "epochs": 1,
    "accumulate": 1,
    "save_period": 1,
    "log_every": 1,
    "health_every": 0,
    "min_rank": 0,
    "keep_last": 0,
    "save_every": 0,
    "early_stop": 0,
    "max_samples_per_epoch": 1,
    "max_samples_per_process": 1,
}


@dataclass(frozen=True)
class TrainerSettings:
    """How a run is trained, saved and logged.

    Args:
        epochs: number of epochs
        max_samples_per_epoch: most samples per epoch, of all loaders and processes together, as Frozen in Time counts;
            null: all there are
        max_samples_per_process: most samples per epoch, of all loaders on each process, as MCQ counts; null: all
        accumulate: micro-batches per optimizer step, contrasted with each other as one batch
        precision: fp32, tf32, bf16 or fp16
        parallel: how several processes share the work, ddp or fsdp2
        compile: run the encoders through torch.compile
        gradient_checkpointing: recompute activations in the backward pass, which saves memory and takes time
        clip_grad_norm: largest norm of the whole gradient; null: no clipping
        monitor: what the best checkpoint is, "min val_loss", "max t2v.R1", ... or "off"; null: "max t2v.R1" or "off"
        early_stop: epochs without a better monitored value after which training ends; 0: never
        init_val: validate before the first step too
        save_dir: folder of all runs; a run lies in save_dir/name/
        save_period: epochs between the checkpoints that are kept
        keep_last: how many of the newest of these checkpoints are kept; 0: all
        save_every: steps between further saves of checkpoint-latest.pth; 0: none
        log_every: steps between log lines
        health_every: steps between measurements of rank, agreement and gradient shares (docs/health.md); 0: none
        min_rank: training stops where the effective rank of the clip embeddings falls below it; 0: never
        seed: seed of everything that is drawn at random
        wandb: log to wandb: true, or an object of arguments for wandb.init
    """

    epochs: int = 10
    max_samples_per_epoch: int | float | None = None
    max_samples_per_process: int | float | None = None
    accumulate: int = 1
    precision: str = "fp32"
    parallel: str = "ddp"
    compile: bool = False
    gradient_checkpointing: bool = False
    clip_grad_norm: float | None = None
    monitor: str | None = None
    early_stop: int | None = 0
    init_val: bool = False
    save_dir: str = "exps"
    save_period: int = 1
    keep_last: int = 0
    save_every: int = 0
    log_every: int = 20
    health_every: int = 200
    min_rank: float = 0.0
    seed: int = 0
    wandb: Any = False

    def __post_init__(self) -> None:
        for name, minimum in MINIMUM.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(
                    f"trainer.{name}: {value} is given, {minimum} or more is needed"
                )
        if self.min_rank > 0 and self.health_every == 0:
            raise ConfigError(
                f"trainer.min_rank: {self.min_rank:g} is given, and trainer.health_every is 0: nothing is measured"
            )
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise ConfigError(
                f"trainer.clip_grad_norm: {self.clip_grad_norm} is given, a number above 0 is needed; "
                "null is no clipping"
            )

    def max_samples(self, num_processes: int) -> float | None:
        """Most samples per epoch of all loaders and processes together; None: all there are."""
        ceilings = []
        if self.max_samples_per_epoch is not None:
            ceilings.append(self.max_samples_per_epoch)
        if self.max_samples_per_process is not None:
            ceilings.append(self.max_samples_per_process * num_processes)
        return min(ceilings, default=None)


def trainer_settings(config: Mapping[str, Any]) -> TrainerSettings:
    """The settings of a whole config; `seed` may stand at its top or in "trainer"."""
    section = config.get("trainer")
    if section is None:
        section = {}
    check_args(TrainerSettings, section, "trainer")
    values = {"seed": config.get("seed", 0), **section}
    names = [field.name for field in fields(TrainerSettings)]
    return TrainerSettings(**{name: values[name] for name in names if name in values})


def has_captions(block: Mapping[str, Any]) -> bool:
    """Whether the loader that a block {"type", "args"} describes yields captions."""
    args = block.get("args") or {}
    return {**args, **(args.get("dataset_params") or {})}.get("with_captions", True)
