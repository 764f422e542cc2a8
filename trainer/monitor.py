"""The value that decides which checkpoint is the best: "min val_loss", "max t2v.R1", "off"."""

import math
from collections.abc import Mapping

from parse_config import ConfigError

METRICS = ("R1", "R5", "R10", "R50", "MedR", "MeanR", "gmean")
VALIDATION_VALUES = (
    "val_loss",
    *(f"t2v.{metric}" for metric in METRICS),
    *(f"v2t.{metric}" for metric in METRICS),
)
TRAINING_VALUES = ("loss",)


class Monitor:
    """Compares the monitored value of an epoch with the best so far.

    Args:
        text: "min NAME", "max NAME", "off", or None: "max t2v.R1" with validation, else "off"
        validation: whether the run is validated

    Attributes:
        name: the monitored value, "" when it is off
    """

    def __init__(self, text: str | None, validation: bool) -> None:
        if text is None:
            text = "max t2v.R1" if validation else "off"
        words = text.split()
        self.name = ""
        if words in ([], ["off"]):
            return
        known = [*TRAINING_VALUES]
        if validation:
            known += VALIDATION_VALUES
        if len(words) != 2 or words[0] not in ("min", "max"):
            raise ConfigError(
                f"trainer.monitor: {text!r} is given; write min NAME, max NAME or off, NAME one of "
                f"{', '.join(known)}"
            )
        self.sign = 1 if words[0] == "max" else -1
        self.name = words[1].removesuffix(
            "_0"
        )  # Frozen-in-Time codebases number the loaders
        if self.name not in known:
            unvalidated = self.name in VALIDATION_VALUES and not validation
            reason = " without validation" if unvalidated else ""
            raise ConfigError(
                f"trainer.monitor: {self.name!r} is not measured{reason}; known: {', '.join(known)}"
            )

    def require_for(self, early_stop: int | None) -> None:
        """ConfigError for an early stop without a value that it could go by."""
        if early_stop and not self.name:
            raise ConfigError(
                f"trainer.early_stop: {early_stop} is given, and nothing is monitored; give trainer.monitor a value, "
                "or a valid_loader"
            )

    def is_better(self, values: Mapping[str, float], best: float | None) -> bool:
        """Whether the monitored value is better than `best`; any number but NaN is better than None."""
        if self.name not in values:
            raise ConfigError(
                f"trainer.monitor: {self.name!r} was not measured; there are {', '.join(values)}"
            )
        value = values[self.name]
        if math.isnan(value):
            return False
        return best is None or self.sign * value > self.sign * best
