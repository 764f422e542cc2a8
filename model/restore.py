"""A checkpoint or an exported folder -> the model in it, without the config that trained it at hand."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import ARCHS
from model.miles import MILES
from model.text import own_files
from model.text.hugging_face import DEFAULT
from model.weights import load_weights, read_checkpoint
from model.weights.listed import PREPROCESSING, WEIGHTS, is_exported
from model.weights.read import find
from parse_config import (
    LEGACY_KEYS,
    Config,
    ConfigError,
    check_args,
    merge,
    to_plain,
)

# Keys of a data set's video_params that the model's preprocessing takes over; its size follows from the architecture.
PREPROCESSING_KEYS = ("center_crop", "norm_mean", "norm_std")
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
    folder = _exported_folder(path)
    if not arch and folder is not None:
        if teacher:
            raise ConfigError(
                f"{path}: an exported folder holds one model; take the teacher from the checkpoint"
            )
        return MILES.from_pretrained(folder)
    weights = find(path)
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
        config: the JSON in place of the checkpoint's own, as `stored_config` returns it
        text_root: the lowest folder to look in for the text model, beside the working directory
    """
    is_trusted = arch is not None
    config = config or stored_config(checkpoint)
    arch = arch or config.get("arch")
    if not arch:
        raise ConfigError(
            f"{name}: does not say what model it holds; give a config (-c) whose arch describes it"
        )
    own_arch = arch_of(arch, is_trusted)
    args = own_arch["args"]
    text_params = args.get("text_params", {})
    if text_root is not None and "model" in text_params:
        text_params["model"] = find_text_model(text_params["model"], text_root)
    model = build_with_text_of(checkpoint, own_arch)
    load_weights(
        model, checkpoint, temporal_fix=temporal_fix(args), teacher=teacher, name=name
    )
    video_params = dataset_video_params(config)
    model.update_preprocessing(
        {
            key: video_params[key]
            for key in PREPROCESSING_KEYS
            if video_params.get(key) is not None
        }
    )
    return model.eval()


def build_with_text_of(checkpoint: Mapping[str, Any], arch: Mapping[str, Any]) -> MILES:
    """The model of {"type", "args"} without weights, its text model and tokenizer from the checkpoint's own files.

    The files are used where the checkpoint has them and `arch` names the text model that it was trained with; else the
    text model is looked for where `arch` says.
    """
    text_params = arch["args"].get("text_params") or {}
    own_args = (stored_config(checkpoint).get("arch") or {}).get("args") or {}
    own_text_params = own_args.get("text_params") or {}
    name = text_params.get("model", DEFAULT)
    own_name = own_text_params.get("model", DEFAULT)
    files = checkpoint.get("text_files")
    if not files or Path(name).name != Path(own_name).name:
        return ARCHS.build(arch, pretrained=False)
    with own_files.unpacked(files) as folder:
        spec = merge(arch, {"args": {"text_params": {"model": folder}}})
        model = ARCHS.build(
            Config(spec, getattr(arch, "json_path", "")), pretrained=False
        )
        _ = model.tokenizer  # read while its files are there
    model.settings["text_params"] = {**model.settings["text_params"], "model": name}
    return model


def build_from_checkpoint(arch: Config) -> MILES:
    """The model of a config's arch with the weights of its `load_checkpoint`. Raises ConfigError, FileNotFoundError."""
    args = arch["args"].to_dict()
    checkpoint = read_checkpoint(args["load_checkpoint"])
    without_weights = {
        key: value for key, value in args.items() if key not in WEIGHT_KEYS
    }
    constructor = ARCHS.get(arch.require("type"), f"{arch.json_path}.type")
    check_args(constructor, args, f"{arch.json_path}.args", ("pretrained",))
    bare_arch = Config({**arch, "args": without_weights}, arch.json_path)
    model = build_with_text_of(checkpoint, bare_arch)
    load_weights(
        model,
        checkpoint,
        strict=args.get("strict", True),
        temporal_fix=temporal_fix(args),
        name=str(args["load_checkpoint"]),
    )
    return model


def temporal_fix(args: Mapping[str, Any]) -> str:
    """`load_temporal_fix` of an arch's arguments, which may stand in `video_params` too."""
    in_args = args.get("load_temporal_fix", "zeros")
    return (args.get("video_params") or {}).get("load_temporal_fix", in_args)


def arch_of(arch: Mapping[str, Any], is_trusted: bool = False) -> dict[str, Any]:
    """{"type", "args"} of a checkpoint's config in this project's words, without what says where weights come from.

    MCQ's encoders without its BridgeFormer are those of MILES. `trust_remote_code` is dropped unless the arch
    `is_trusted`: written by the user.
    """
    args = _arch_args(arch)
    if not is_trusted and args.get("text_params"):
        args["text_params"].pop("trust_remote_code", None)
    video_params = args.get("video_params") or {}
    if video_params.get("model") == "Video_Bridge_Former":
        video_params["model"] = "SpaceTimeTransformer"
    arch_type = arch.get("type", "MILES")
    return {"type": "MILES" if arch_type == "MCQ" else arch_type, "args": args}


def projection_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """{"projection", "projection_dim"} of an arch's arguments, defaults included."""
    defaults = inspect.signature(MILES).parameters
    return {
        name: args.get(name, defaults[name].default)
        for name in ("projection", "projection_dim")
    }


def stored_config(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config that a checkpoint was trained with, {} if it holds none.

    Checkpoints of Frozen in Time and its forks hold it inside a ConfigParser.
    """
    config = checkpoint.get("config") or {}
    return config if "arch" in config else config.get("_config") or {}


def find_text_model(name: str, text_root: Path) -> str:
    """A relative folder -> its absolute path, in the working directory or else in `text_root` or a folder above it.

    A name that is no folder in any of them (a hub id, a path of another machine) comes back as it is.
    """
    name = os.path.expanduser(name)
    if Path(name).is_dir():
        return str(Path(name).absolute())
    root = text_root.absolute()
    for folder in (root, *root.parents):
        if (folder / name / "config.json").is_file():
            return str(folder / name)
    return name


def _exported_folder(path: str | os.PathLike) -> Path | None:
    """The exported folder that `path`, a folder or the weights in one, stands for; None if it is none."""
    if not str(path):
        return None
    folder = Path(os.path.expanduser(path))
    if folder.name == WEIGHTS and (folder.parent / PREPROCESSING).is_file():
        folder = folder.parent
    return folder if is_exported(folder) else None


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


def dataset_video_params(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`video_params` of the config's (first) data set, or {}."""
    loaders = config.get("data_loader") or [{}]
    loader = loaders if isinstance(loaders, Mapping) else loaders[0]
    return (loader.get("args") or {}).get("video_params") or {}
