"""What a run was made by: git revision, versions; written beside it."""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from parse_config import Config
from trainer.distributed import main_only

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "tokenizers",
    "numpy",
    "pandas",
    "av",
    "decord",
    "tqdm",
    "safetensors",
    "tensorboard",
)


@main_only
def describe(folder: Path, config: Config):
    """config.json and versions.json beside the run; those of an earlier start stay, under a number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("config.json", config.to_dict()), ("versions.json", versions())):
        text = json.dumps(content, indent=4) + "\n"
        path, count = folder / name, 1
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            while (older := path.with_stem(f"{path.stem}_{count}")).exists():
                count += 1
            path.rename(older)
        path.write_text(text, encoding="utf-8")


def versions() -> dict[str, Any]:
    """Git revision, Python, packages, command."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        "command": sys.argv,
    }


def _git() -> str | None:
    root = str(Path(__file__).resolve().parent.parent)
    said = {"capture_output": True, "text": True, "timeout": 20}
    try:
        revision = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], **said)
        changed = subprocess.run(["git", "-C", root, "status", "--porcelain", "-uno"], **said)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if revision.returncode:
        return None
    return revision.stdout.strip() + (" and changes" if changed.stdout.strip() else "")
