"""What a run was made with: git revision and versions of the packages, written into its folder."""

import contextlib
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from parse_config import Config
from trainer.distributed import main_only
from trainer.files import atomic_write

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
    "torchcodec",
    "tqdm",
    "safetensors",
    "tensorboard",
)
# what a run writes before its first checkpoint
FILES_OF_A_START = (
    "config.json",
    "versions.json",
    "log.jsonl",
    "events.out.tfevents.*",
)


@main_only
def write_run_description(folder: Path, config: Config) -> None:
    """Write config.json and versions.json into the run's folder; those of an earlier start are kept, numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", config.to_dict()),
        ("versions.json", versions()),
    ):
        text = json.dumps(content, indent=4) + "\n"
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            path.rename(_first_free_number(path))
        with atomic_write(path) as file:
            file.write(text)


def remove_start(folder: Path) -> None:
    """Remove what a run that was stopped before its first step has written; a folder with a checkpoint stays."""
    if any(folder.glob("*.pth")):
        return
    for pattern in FILES_OF_A_START:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: a lock, a stage
        folder.rmdir()


def _first_free_number(path: Path) -> Path:
    """config_1.json for config.json, or the first number that is not in use."""
    number = 1
    while path.with_stem(f"{path.stem}_{number}").exists():
        number += 1
    return path.with_stem(f"{path.stem}_{number}")


def versions() -> dict[str, Any]:
    """Git revision, versions of Python and the packages (None: not installed), command."""
    package_versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            package_versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            package_versions[name] = None
    return {
        "git": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions,
        "command": sys.argv,
    }


def _git_revision() -> str | None:
    """The commit, "... and changes" where tracked files differ from it; None without git."""
    try:
        revision = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if revision.returncode:
        return None
    suffix = " and changes" if changes.stdout.strip() else ""
    return revision.stdout.strip() + suffix


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parent.parent)
    command = ["git", "-C", root, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=20, check=False
    )
