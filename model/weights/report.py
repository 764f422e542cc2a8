"""What a load did with every name: nothing is silent."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from parse_config import ConfigError


@dataclass
class Report:
    """Names of the file and of the model, each with what was done: {name: how or why} ("" where nothing is to say).

    `unknown`: in the file and neither in the model nor on the known list; `misshapen`: of another shape.
    """

    source: str
    remedy: str = (
        "Let arch.args describe the model in the file, or set arch.args.strict to false to load only what "
        "fits"
    )
    loaded: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    misshapen: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """Rows of verdict, count, names (numbers of blocks as *) and how or why."""
        rows = [
            ("loaded", self.loaded),
            ("changed", self.changed),
            ("left out", {**self.left_out, **self.unknown}),
            ("missing", {**self.missing, **self.absent}),
            ("misshapen", self.misshapen),
        ]
        lines = [f"weights from {self.source}"]
        for verdict, names in rows:
            if names or verdict in ("loaded", "changed", "left out", "missing"):
                lines += _rows(verdict, names, short=verdict == "loaded")
        return "\n".join(lines)

    def check(self, strict: bool):
        """ConfigError in one line if a name is absent, misshapen or unknown; with `strict=False` nothing is."""
        if not strict:
            return
        wrong = [
            f"{len(names)} {what} ({_few(names)})"
            for what, names in (
                ("missing", self.absent),
                ("of another shape", self.misshapen),
                ("unknown", self.unknown),
            )
            if names
        ]
        if wrong:
            raise ConfigError(
                f"{self.source} does not fit the model: {'; '.join(wrong)}. {self.remedy}"
            )


def pattern(name: str) -> str:
    """blocks.11.norm1.weight -> blocks.*.norm1.*"""
    return re.sub(
        r"\.(weight|bias)$", ".*", re.sub(r"(blocks|layer|layers)\.\d+\.", r"\1.*.", name)
    )


def _rows(verdict: str, names: Mapping[str, str], short: bool) -> list[str]:
    groups: dict[tuple[str, str], int] = {}
    for name, how in names.items():
        shown = f"{name.split('.')[0]}.*" if short and "." in name else pattern(name)
        groups[shown, how] = groups.get((shown, how), 0) + 1
    if not groups:
        return [f"  {verdict:<9}    -"]
    return [
        f"  {verdict if i == 0 else '':<9} {count:>4} {shown}{f': {how}' if how else ''}"
        for i, ((shown, how), count) in enumerate(groups.items())
    ]


def _few(names: Iterable[str], most: int = 4) -> str:
    lines = [f"{name}: {how}" if how else name for name, how in dict(names).items()]
    return ", ".join(lines[:most]) + (f" and {len(lines) - most} more" if len(lines) > most else "")
