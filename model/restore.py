"""A checkpoint or an exported folder -> the model in it, without the config that trained it at hand."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from model import ARCHS, share
from model.weights import load_weights, read_checkpoint
from parse_config import FAMILY, ConfigError, plain

START = ("load_checkpoint", "strict", "pretrained")  # arguments about where the weights come from


def restore(path: str | Path, arch: Mapping[str, Any] | None = None, teacher: bool = False) -> nn.Module:
    """The model, in eval mode on the CPU.

    `path`: a folder that scripts/export.py or `save_pretrained` wrote, or a checkpoint of train.py, MILES, Frozen in
    Time or MCQ. `arch`: {"type", "args"} in place of what the file says of itself. `teacher`: the snapshot's video
    tower instead of the student's. Raises ConfigError, FileNotFoundError.
    """
    if not arch and (Path(path) / share.CONFIG).is_file():
        if teacher:
            raise ConfigError(f"{path}: an exported folder holds one model; take the teacher from the checkpoint")
        return ARCHS.get("MILES").from_pretrained(path)
    return from_checkpoint(read_checkpoint(path), str(path), arch, teacher)


def from_checkpoint(checkpoint: Mapping[str, Any], name: str, arch: Mapping[str, Any] | None = None,
                    teacher: bool = False) -> nn.Module:
    """The same from a checkpoint that `read_checkpoint` has read; `name` is what messages call it."""
    arch = arch or described(checkpoint)
    if not arch:
        raise ConfigError(f"{name}: does not say what model it holds; give a config (-c) whose arch describes it")
    args = plain(arch["args"])
    for key in FAMILY:
        section, _, leaf = key.removeprefix("arch.args.").rpartition(".")
        if key.startswith("arch.args."):
            (args.get(section, {}) if section else args).pop(leaf, None)
    args = {key: value for key, value in args.items() if key not in START}
    model = ARCHS.build({"type": arch["type"], "args": args}, pretrained=False)
    fix = args["video_params"].get("load_temporal_fix", args.get("load_temporal_fix", "zeros"))
    load_weights(model, checkpoint, temporal_fix=fix, teacher=teacher, name=name)
    return model.eval()


def described(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The "arch" section of the config in a checkpoint: ours, or inside a ConfigParser of the family."""
    config = checkpoint.get("config") or {}
    return config.get("arch") or (config.get("_config") or {}).get("arch")
