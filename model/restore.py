"""A checkpoint or an exported folder -> the model in it, without the config that trained it at hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from model import ARCHS, pretrained
from model.weights import load_weights, read_checkpoint
from parse_config import LEGACY_KEYS, ConfigError, to_plain

CLIP = (
    "center_crop",
    "norm_mean",
    "norm_std",
)  # of a data set's video_params: what clips look like beside their size
START = ("load_checkpoint", "strict", "pretrained")  # arguments about where the weights come from


def restore(
    path: str | Path, arch: Mapping[str, Any] | None = None, teacher: bool = False
) -> nn.Module:
    """The model, in eval mode on the CPU; its `preprocessing` is that of the data it was trained on.

    `path`: a folder that scripts/export.py or `save_pretrained` wrote, or a checkpoint of train.py, MILES, Frozen in
    Time or MCQ. `arch`: {"type", "args"} in place of what the file says of itself. `teacher`: the snapshot's video
    tower instead of the student's. Raises ConfigError, FileNotFoundError.
    """
    if not arch and (Path(path) / pretrained.CONFIG).is_file():
        if teacher:
            raise ConfigError(
                f"{path}: an exported folder holds one model; take the teacher from the checkpoint"
            )
        return ARCHS.get("MILES").from_pretrained(path)
    return from_checkpoint(read_checkpoint(path), str(path), arch, teacher)


def from_checkpoint(
    checkpoint: Mapping[str, Any],
    name: str,
    arch: Mapping[str, Any] | None = None,
    teacher: bool = False,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The same from a checkpoint that `read_checkpoint` has read; `name` is what messages call it.

    `config`: the JSON in place of the checkpoint's own (see `described`).
    """
    config = config or described(checkpoint)
    arch = arch or config.get("arch")
    if not arch:
        raise ConfigError(
            f"{name}: does not say what model it holds; give a config (-c) whose arch describes it"
        )
    args = to_plain(arch["args"])
    for key in LEGACY_KEYS:
        section, _, leaf = key.removeprefix("arch.args.").rpartition(".")
        if key.startswith("arch.args."):
            (args.get(section, {}) if section else args).pop(leaf, None)
    args = {key: value for key, value in args.items() if key not in START}
    kind = (
        "MILES" if arch["type"] == "MCQ" else arch["type"]
    )  # its towers without the BridgeFormer are ours
    model = ARCHS.build({"type": kind, "args": args}, pretrained=False)
    fix = args["video_params"].get("load_temporal_fix", args.get("load_temporal_fix", "zeros"))
    load_weights(model, checkpoint, temporal_fix=fix, teacher=teacher, name=name)
    loaders = config.get("data_loader") or [{}]
    params = ((loaders if isinstance(loaders, Mapping) else loaders[0]).get("args") or {}).get(
        "video_params"
    ) or {}
    model.preprocessing |= {
        key: to_plain(params[key]) for key in CLIP if params.get(key) is not None
    }
    return model.eval()


def described(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON that a checkpoint was trained with: as it is in ours, inside a ConfigParser in the family's, or {}."""
    config = checkpoint.get("config") or {}
    return config if "arch" in config else config.get("_config") or {}
