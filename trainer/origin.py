"""The settings stored in the checkpoint that a config starts from: they complete it, and differences are listed."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model import pretrained
from model.restore import (
    arch_of,
    dataset_video_params,
    projection_settings,
    stored_config,
)
from model.text.hugging_face import build_text_model
from model.video.build import full_arguments
from model.weights.listed import WEIGHTS
from model.weights.read import find, read_skeleton
from parse_config import Config, ConfigError, Registry, merge, to_plain
from trainer.state import config_changes

# Keys of a loader's video_params that say what clips look like.
CLIP_KEYS = ("num_frames", "input_res", "center_crop", "norm_mean", "norm_std")
# Settings of the encoders that say where weights come from, or matter in training alone.
WITHOUT_MEANING_AT_TEST = (
    "pretrained",
    "load_temporal_fix",
    "time_init",
    "drop_rate",
    "drop_path_rate",
    "weight_std",
    "pos_embed_std",
    "frame_std",
)
# Settings under which the same weights compute something else.
MEANING_OF_WEIGHTS = (
    "arch.args.text_params.pooling",
    "arch.args.video_params.act",
    "arch.args.video_params.norm_eps",
    "arch.args.video_params.num_heads",
)


class Origin(NamedTuple):
    """The settings stored in a checkpoint.

    Attributes:
        path: the file
        config: the whole config that it was trained with, {} if it does not say
        arch: {"type", "args"} in this project's words, {} if it does not say
        clip: the `CLIP_KEYS` of its training data that were given
    """

    path: Path
    config: Mapping[str, Any]
    arch: dict[str, Any]
    clip: dict[str, Any]


def read_origin(path: str | Path) -> Origin:
    """The settings stored in the checkpoint at `path`: a file, a run folder or an exported folder.

    Raises FileNotFoundError, and ConfigError for what is no checkpoint.
    """
    file = find(path)
    config = stored_config(read_skeleton(file))
    if file.name == WEIGHTS:
        clip_params: Mapping[str, Any] = pretrained.read_preprocessing(file.parent)
    else:
        clip_params = dataset_video_params(config)
    clip = {key: clip_params[key] for key in CLIP_KEYS if key in clip_params}
    arch = arch_of(config["arch"]) if config.get("arch") else {}
    return Origin(file, config, arch, to_plain(clip))


def origin_of(config: Config) -> Origin | None:
    """The settings stored in the config's `load_checkpoint`; None if the config names none."""
    path = ((config.get("arch") or {}).get("args") or {}).get("load_checkpoint")
    return read_origin(path) if path else None


def complete(config: Config, origin: Origin) -> Config:
    """The config with what it leaves open taken from the checkpoint: the architecture, and what clips look like."""
    completed = config.to_dict()
    if origin.arch:
        completed["arch"] = _merge_under(completed["arch"], origin.arch)
    for section in ("data_loader", "valid_loader"):
        if completed.get(section):
            completed[section] = _with_clip_defaults(completed[section], origin.clip)
    evaluation = completed.get("evaluation") or {}
    if evaluation.get("data_loader"):
        evaluation["data_loader"] = _with_clip_defaults(
            evaluation["data_loader"], origin.clip
        )
    return Config(completed)


def contradictions(
    config: Config, origin: Origin, loaders: list[Config], registry: Registry
) -> list[str]:
    """Settings of a completed config that differ from the checkpoint's: ["arch.args...: 'cls' -> 'mean'", ...].

    Args:
        loaders: the blocks of the loaders whose clips the model gets
        registry: the registered loaders
    """
    changes: list[str] = []
    if origin.arch:
        checkpoint_arch = {"arch": {"args": _full_arch(origin.arch["args"])}}
        config_arch = {"arch": {"args": _full_arch(config["arch"]["args"])}}
        changes += config_changes(checkpoint_arch, config_arch)
    if not origin.clip:
        return changes
    for block in loaders:
        loader: Any = registry.get(block.require("type"), f"{block.json_path}.type")
        args = to_plain(block.get("args") or {})
        config_clip = loader.clip_settings(args)
        checkpoint_clip = loader.clip_settings({**args, "video_params": origin.clip})
        json_path = f"{block.json_path}.args.video_params"
        changes += config_changes(
            {key: checkpoint_clip[key] for key in CLIP_KEYS},
            {key: config_clip[key] for key in CLIP_KEYS},
            json_path,
        )
    return changes


def require_same_meaning(changes: list[str], origin: Origin) -> None:
    """ConfigError for a contradiction under which the checkpoint's weights cannot mean what they did."""
    for change in changes:
        setting = change.partition(":")[0]
        if setting in MEANING_OF_WEIGHTS:
            raise ConfigError(
                f"{change}: {origin.path} was trained with the first; its weights mean nothing with the second. Leave "
                "the setting out, or leave out -c to take the checkpoint's own config"
            )


def _merge_under(arch: Mapping[str, Any], own_arch: dict[str, Any]) -> dict[str, Any]:
    """`arch` merged over the checkpoint's own; an arch of another type is taken as it is."""
    return merge({**own_arch, "type": arch.get("type", own_arch["type"])}, arch)


def _with_clip_defaults(section: Any, clip: Mapping[str, Any]) -> Any:
    """A loader's block or a list of them, with the clip settings that they leave open."""
    if isinstance(section, list):
        return [_with_clip_defaults(block, clip) for block in section]
    args = section.get("args") or {}
    video_params = args.get("video_params") or {}
    clip_defaults = dict(clip)
    if video_params.get("input_res", clip.get("input_res")) != clip.get("input_res"):
        clip_defaults.pop("center_crop", None)  # it belongs to the other size
    return {
        **section,
        "args": {**args, "video_params": {**clip_defaults, **video_params}},
    }


def _full_arch(args: Mapping[str, Any]) -> dict[str, Any]:
    """An arch's arguments with all defaults, without those of `WITHOUT_MEANING_AT_TEST`."""
    text_params = dict(args.get("text_params") or {})
    text_defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(build_text_model).parameters.items()
    }
    full = {
        **projection_settings(args),
        "text_params": {**text_defaults, **text_params},
        "video_params": full_arguments(args.get("video_params") or {}),
    }
    for section in ("text_params", "video_params"):
        for name in WITHOUT_MEANING_AT_TEST:
            full[section].pop(name, None)
    return to_plain(full)
