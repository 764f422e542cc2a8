"""The "trainer" section of a config: names, defaults, checks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from parse_config import ConfigError, check_args


@dataclass(frozen=True)
class TrainerSettings:
    """How a run is trained, kept and told.

    epochs; max_samples_per_epoch: samples of all loaders and processes together, at most (None: all there are).
    accumulate: micro-batches a step, whose negatives all meet. precision: fp32, tf32, bf16, fp16.
    parallel: ddp or fsdp2. compile: the encoders through torch.compile. gradient_checkpointing: memory for time.
    clip_grad_norm: largest norm of the whole gradient (None: as it is).
    monitor: "min val_loss", "max t2v.R1", ... or "off"; None: "max t2v.R1" where there is validation. early_stop:
    epochs without a better value after which training ends (0: never). init_val: validate before the first step too.
    save_dir: runs lie in save_dir/name/. save_period: every so many epochs a checkpoint is kept, of which the newest
    keep_last (0: all); save_every: also save every so many steps. log_every: steps between log lines.
    seed: of everything that is drawn. wandb: true, or an object of arguments for wandb.init.
    """

    epochs: int = 10
    max_samples_per_epoch: int | float | None = None
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
    seed: int = 0
    wandb: Any = False

    def __post_init__(self):
        for name, least in {
            "epochs": 1,
            "accumulate": 1,
            "save_period": 1,
            "log_every": 1,
            "keep_last": 0,
            "save_every": 0,
            "early_stop": 0,
            "max_samples_per_epoch": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"trainer.{name}: {value} is given, {least} or more is needed")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise ConfigError(
                f"trainer.clip_grad_norm: {self.clip_grad_norm} is given, a number above 0 is needed; "
                "null is no clipping"
            )


def trainer_settings(config: Mapping[str, Any]) -> TrainerSettings:
    """The settings of a whole config; `seed` may stand at its top or in "trainer"."""
    section = config.get("trainer") or {}
    check_args(TrainerSettings, section, "trainer")
    whole = {"seed": config.get("seed", 0), **section}
    return TrainerSettings(
        **{
            field.name: whole[field.name]
            for field in fields(TrainerSettings)
            if field.name in whole
        }
    )
