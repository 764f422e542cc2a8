"""What every benchmark records: the device's name, and a JSON file with date, settings and versions."""

import argparse
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trainer.versions import versions

RESULTS = Path(__file__).resolve().parents[2] / "results/bench"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """The processor as Linux calls it, or the machine's type."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def write_record(
    bench: str,
    device: str,
    arguments: argparse.Namespace,
    measurements: Mapping[str, Any],
    folder: Path = RESULTS,
) -> Path:
    """Write folder/<bench>_<date>.json and print where it is; returns its path."""
    now = datetime.now(UTC)
    path = folder / f"{bench}_{now:%Y%m%d_%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    record = {
        "bench": bench,
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "device": device,
        "settings": settings,
        **measurements,
        "versions": versions(),
    }
    path.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


if __name__ == "__main__":
    raise SystemExit("a library module: run python scripts/bench.py --help")
