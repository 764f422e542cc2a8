"""What a load did with every name: nothing is silent."""

import re
from collections.abc import Mapping
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

    def check(self, strict: bool) -> None:
        """ConfigError in one line if a name is absent, misshapen or unknown; with `strict=False` nothing is."""
        if not strict:
            return
        verdicts = (
            ("missing", self.absent),
            ("of another shape", self.misshapen),
            ("unknown", self.unknown),
        )
        mistakes = [
            f"{len(names)} {verdict} ({_first_names(names)})"
            for verdict, names in verdicts
            if names
        ]
        if mistakes:
            raise ConfigError(
                f"{self.source} does not fit the model: {'; '.join(mistakes)}. {self.remedy}"
            )


def pattern(name: str) -> str:
    """blocks.11.norm1.weight -> blocks.*.norm1.*"""
    name = re.sub(r"(blocks|layer|layers)\.\d+\.", r"\1.*.", name)
    return re.sub(r"\.(weight|bias)$", ".*", name)


def _rows(verdict: str, names: Mapping[str, str], short: bool) -> list[str]:
    counts: dict[tuple[str, str], int] = {}
    for name, note in names.items():
        label = f"{name.split('.')[0]}.*" if short and "." in name else pattern(name)
        counts[label, note] = counts.get((label, note), 0) + 1
    if not counts:
        return [f"  {verdict:<9}    -"]
    rows: list[str] = []
    for (label, note), count in counts.items():
        first_column = "" if rows else verdict
        suffix = f": {note}" if note else ""
        rows.append(f"  {first_column:<9} {count:>4} {label}{suffix}")
    return rows


def _first_names(names: Mapping[str, str], limit: int = 4) -> str:
    """The first names with their notes, and how many more there are."""
    entries = [f"{name}: {note}" if note else name for name, note in names.items()]
    text = ", ".join(entries[:limit])
    if len(entries) > limit:
        text += f" and {len(entries) - limit} more"
    return text
