"""Results as a table that fits a console, and the identity of what was examined."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.weights.read import find
from parse_config import Config
from trainer.distributed import world_size
from trainer.evaluation.published import published
from trainer.versions import versions

COLUMNS = ("R1", "R5", "R10", "R50", "MedR", "MeanR", "gmean", "mAP")
HEADS = ("R@1", "R@5", "R@10", "R@50", "MedR", "MeanR", "gmean", "mAP")


def identity(config: Config, checkpoint: str | Path | None, device: Any) -> dict[str, Any]:
    """What results.json says of the run: checkpoint and its hash, config, versions, device, date."""
    file = find(checkpoint) if checkpoint else None
    made = versions()
    return {
        "name": config.get("name"),
        "config": config.to_dict(),
        "git_revision": made.pop("git"),
        "versions": made,
        "checkpoint": {"path": str(file), "sha256": sha256(file)} if file else None,
        "device": str(device),
        "processes": world_size(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def sha256(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def table(
    results: Mapping[str, Any],
    metrics: tuple[str, ...] = ("t2v_metrics", "v2t_metrics"),
    compare: bool = False,
) -> str:
    """The console's table: the rows, the headline's intervals, and with `compare` what was published."""
    ways = [way for way in ("t2v", "v2t") if f"{way}_metrics" in metrics and way in results]
    lines = [_title(results), _line("", "", HEADS)]
    for name, row in results["rows"].items():
        for way in ways:
            if way in row:
                lines.append(
                    _line(name, way, [_number(row[way].get(column)) for column in COLUMNS])
                )
                spread = results["intervals"].get(way) if name == "raw" else None
                if spread:
                    lines += [
                        _line(
                            "  95 % from" if end == 0 else "       to",
                            "",
                            [
                                _number(spread[column][end]) if column in spread else ""
                                for column in COLUMNS
                            ],
                        )
                        for end in (0, 1)
                    ]
    if "recognition" in results:
        lines.append(
            "top-1 {top1:.2f}, top-5 {top5:.2f} of {classes} classes".format(
                **results["recognition"]
            )
        )
    lines += [f"{name}: {row['about']}" for name, row in results["rows"].items() if name != "raw"]
    return "\n".join(lines + (_published(results.get("protocol")) if compare else []))


def _title(results: Mapping[str, Any]) -> str:
    kind = "classes" if "recognition" in results else "captions"
    protocol = (
        results.get("protocol")
        or f"{results.get('dataset')} {results.get('split')} (no published protocol)"
    )
    return f"{protocol}: {results['num_captions']} {kind} x {results['num_videos']} videos, {results['stamp']}"


def _published(protocol: str | None) -> list[str]:
    rows, note = published(protocol)
    if not rows:
        return [
            f"published: the paper has no row for {protocol or 'a data set without a protocol'}"
        ]
    lines = ["published by the authors (arXiv 2204.12408), not measured here:"]
    lines += [
        _line(name, "t2v", [_number(numbers.get(column)) for column in COLUMNS])
        for name, numbers in rows
    ]
    return lines + ([f"note: {note}"] if note else [])


def _line(name: str, way: str, cells: Any) -> str:
    return f"{name:<18}{way:<5}" + "".join(f"{cell:>9}" for cell in cells)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
