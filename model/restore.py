"""A checkpoint or an exported folder -> the model in it, without the config that trained it at hand."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import ARCHS, pretrained
from model.miles import MILES
from model.weights import load_weights, read_checkpoint
from model.weights.read import find
from parse_config import LEGACY_KEYS, ConfigError, to_plain

# Keys of a data set's video_params that say what clips look like, beside their size.
CLIP_KEYS = ("center_crop", "norm_mean", "norm_std")
# Arguments of an arch that say where its weights come from.
WEIGHT_KEYS = ("load_checkpoint", "strict", "pretrained")


def restore(
    path: str | os.PathLike,
    arch: Mapping[str, Any] | None = None,
    teacher: bool = False,
) -> MILES:
    """The model, in eval mode on the CPU; its `preprocessing` is that of the data it was trained on.

    A relative path of the text model is looked for in the working directory, then in the checkpoint's folder and those
    above it. Raises ConfigError, FileNotFoundError.

    Args:
        path: a folder that scripts/export.py or `save_pretrained` wrote, a run folder, or a checkpoint of train.py,
            MILES, Frozen in Time or MCQ
        arch: {"type", "args"} in place of what the file says of itself
        teacher: take the snapshot's video encoder instead of the student's
    """
    weights = find(path)
    is_exported = weights != Path(path) and weights.name == pretrained.WEIGHTS
    if not arch and is_exported:
        if teacher:
            raise ConfigError(
                f"{path}: an exported folder holds one model; take the teacher from the checkpoint"
            )
        return MILES.from_pretrained(path)
    checkpoint = read_checkpoint(weights)
    return from_checkpoint(
        checkpoint, str(weights), arch, teacher, text_root=weights.parent
    )


def from_checkpoint(
    checkpoint: Mapping[str, Any],
    name: str,
    arch: Mapping[str, Any] | None = None,
    teacher: bool = False,
    config: Mapping[str, Any] | None = None,
    text_root: Path | None = None,
) -> MILES:
    """The model of a checkpoint that `read_checkpoint` has read, as `restore` returns it.

    Args:
        checkpoint: state_dict, config and perhaps the teacher
        name: what messages call the checkpoint
        arch: {"type", "args"} in place of what the checkpoint says of itself
        teacher: take the snapshot's video encoder instead of the student's
        config: the JSON in place of the checkpoint's own, see `described`
        text_root: the lowest folder to look in for the text model, beside the working directory
    """
    config = config or described(checkpoint)
    arch = arch or config.get("arch")
    if not arch:
        raise ConfigError(
            f"{name}: does not say what model it holds; give a config (-c) whose arch describes it"
        )
    args = _arch_args(arch)
    text_params = args.get("text_params", {})
    if text_root is not None and "model" in text_params:
        text_params["model"] = find_text_model(text_params["model"], text_root)
    # MCQ's encoders without its BridgeFormer are those of MILES.
    arch_type = "MILES" if arch["type"] == "MCQ" else arch["type"]
    model = ARCHS.build({"type": arch_type, "args": args}, pretrained=False)
    temporal_fix = args.get("load_temporal_fix", "zeros")
    temporal_fix = args["video_params"].get("load_temporal_fix", temporal_fix)
    load_weights(
        model, checkpoint, temporal_fix=temporal_fix, teacher=teacher, name=name
    )
    video_params = _dataset_video_params(config)
    model.update_preprocessing(
        {
            key: video_params[key]
            for key in CLIP_KEYS
            if video_params.get(key) is not None
        }
    )
    return model.eval()


def described(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON that a checkpoint was trained with: as it is in ours, inside a ConfigParser in those of Frozen in Time
    and its forks, or {}."""
    config = checkpoint.get("config") or {}
    return config if "arch" in config else config.get("_config") or {}


def find_text_model(name: str, text_root: Path) -> str:
    """A relative folder -> its absolute path, in the working directory or else in `text_root` or a folder above it.

    A name that is no folder in any of them (a hub id, a path of another machine) comes back as it is.
    """
    if Path(name).is_dir():
        return str(Path(name).absolute())
    root = text_root.absolute()
    for folder in (root, *root.parents):
        if (folder / name / "config.json").is_file():
            return str(folder / name)
    return name


def _arch_args(arch: Mapping[str, Any]) -> dict[str, Any]:
    """The arch's arguments without those of other codebases and those that say where weights come from."""
    args = to_plain(arch["args"])
    for key in LEGACY_KEYS:
        if not key.startswith("arch.args."):
            continue
        section, _, legacy_name = key.removeprefix("arch.args.").rpartition(".")
        section_args = args.get(section, {}) if section else args
        section_args.pop(legacy_name, None)
    return {key: value for key, value in args.items() if key not in WEIGHT_KEYS}


def _dataset_video_params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`video_params` of the config's (first) data set, or {}."""
    loaders = config.get("data_loader") or [{}]
    loader = loaders if isinstance(loaders, Mapping) else loaders[0]
    return (loader.get("args") or {}).get("video_params") or {}
