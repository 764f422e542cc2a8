"""Which value decides what "best" is: "min val_loss", "max t2v.R1", "off"."""

from collections.abc import Mapping

from parse_config import ConfigError

RANKS = ("R1", "R5", "R10", "R50", "MedR", "MeanR", "gmean")
VALIDATED = ("val_loss", *(f"{way}.{rank}" for way in ("t2v", "v2t") for rank in RANKS))
TRAINED = ("loss",)


class Monitor:
    """`text`: "min NAME", "max NAME", "off", or None for what suits. `name` is "" when nothing decides."""

    def __init__(self, text: str | None, validation: bool):
        if text is None:
            text = "max t2v.R1" if validation else "off"
        words = text.split()
        self.name = ""
        if words in ([], ["off"]):
            return
        known = [*TRAINED, *(VALIDATED if validation else ())]
        if len(words) != 2 or words[0] not in ("min", "max"):
            raise ConfigError(
                f"trainer.monitor: {text!r} is given; write min NAME, max NAME or off, NAME one of "
                f"{', '.join(known)}"
            )
        self.sign = 1 if words[0] == "max" else -1
        self.name = words[1].removesuffix("_0")  # the family numbers loaders
        if self.name not in known:
            why = "" if validation or self.name not in VALIDATED else " without validation"
            raise ConfigError(
                f"trainer.monitor: {self.name!r} is not measured{why}; known: {', '.join(known)}"
            )

    def better(self, values: Mapping[str, float], best: float | None) -> bool:
        """Whether the value is better than `best` (any finite one is better than none)."""
        if self.name not in values:
            raise ConfigError(
                f"trainer.monitor: {self.name!r} was not measured; there are {', '.join(values)}"
            )
        value = values[self.name]
        return value == value and (best is None or self.sign * value > self.sign * best)
