"""What a config says, checked before data are read, a model is built or a folder is made."""

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from model.restore import projection_settings
from model.text.hugging_face import DEFAULT
from model.video.build import clip_shape, full_arguments
from parse_config import SECTIONS, Config, ConfigError, Registry, check_args, merge
from trainer import precision
from trainer.distributed import WRAPPERS, world_size
from trainer.evaluator import evaluation_metrics, evaluation_settings
from trainer.monitor import Monitor
from trainer.optim import CONSTANT, OPTIMIZERS, SCHEDULES
from trainer.settings import TrainerSettings, has_captions, trainer_settings

log = logging.getLogger(__name__)

# arguments of a video encoder that the shapes of its weights follow from
ENCODER_SHAPE = (
    "model",
    "embed_dim",
    "depth",
    "patch_size",
    "in_chans",
    "mlp_ratio",
    "qkv_bias",
    "pre_norm",
)
# (section of the config, registry of its types, arguments that the program adds) of each
Sections = Sequence[tuple[str, Registry, Sequence[str]]]


def stage_configs(config: Config) -> list[Config]:
    """The resolved config of each stage; of a run without stages the config itself."""
    if not config.blocks("stages"):
        return [config]
    return [
        _stage_config(config, number) for number in range(len(config.blocks("stages")))
    ]


def check_config(config: Config, sections: Sections) -> None:
    """Raise ConfigError for the first mistake in any stage.

    Args:
        config: the whole config
        sections: those whose types are registered; if empty, only the other settings are checked
    """
    configs = stage_configs(config)
    registries = {name: registry for name, registry, _ in sections}
    if sections:
        check_stages_fit(configs)
    for stage_config in configs:
        settings = trainer_settings(stage_config)
        # null: no validation; absent: on the val split of the training data
        is_validated = stage_config.get("valid_loader", ...) is not None
        Monitor(settings.monitor, is_validated).require_for(settings.early_stop)
        evaluation_settings(stage_config)
        evaluation_metrics(stage_config)
        check_choices(settings)
        if sections:
            require_sections(stage_config)
        for name, registry, program_args in sections:
            for block in stage_config.blocks(name):
                _check_block(block, registry, program_args)
        if "optimizer" in stage_config:
            check_optimizer(stage_config["optimizer"])
        if "lr_scheduler" in stage_config:
            check_schedule(stage_config, settings)
        check_batch_sizes(stage_config, settings)
        if "data_loader" in registries:
            loaders = registries["data_loader"]
            check_clips(stage_config, clip_loaders(stage_config), loaders)


def check_stages_fit(configs: Sequence[Config]) -> None:
    """ConfigError for a stage whose model cannot take the weights of the stage before."""
    for number, (before, after) in enumerate(pairwise(configs), 1):
        old_shape = settings_of_shape(before)
        for name, value in settings_of_shape(after).items():
            if value != old_shape[name]:
                raise ConfigError(
                    f"stages.{number}.arch.args.{name}: {value!r} is given, and the stage before has "
                    f"{old_shape[name]!r}: its weights would not fit"
                )


def settings_of_shape(config: Config) -> dict[str, Any]:
    """{path in arch.args: value} of the settings that the shapes of the weights follow from, defaults included."""
    args = (config.get("arch") or {}).get("args") or {}
    video_args = full_arguments(args.get("video_params") or {})
    settings = {
        **projection_settings(args),
        "text_params.model": (args.get("text_params") or {}).get("model", DEFAULT),
    }
    for name in ENCODER_SHAPE:
        settings[f"video_params.{name}"] = video_args.get(name)
    return settings


def require_sections(config: Config) -> None:
    """ConfigError for a config that lacks a section that every training run has."""
    for name in ("name", "arch", "data_loader", "loss", "optimizer"):
        config.require(name)


def check_choices(settings: TrainerSettings) -> None:
    """ConfigError for a number format or a way to share the work that is not known."""
    for name, known in (("precision", precision.NAMES), ("parallel", WRAPPERS)):
        value = getattr(settings, name)
        if value not in known:
            raise ConfigError(
                f"trainer.{name}: {value!r} is given; known: {', '.join(known)}"
            )


def check_optimizer(block: Config) -> None:
    """ConfigError for values that the optimizer does not take, found by making one for a single number."""
    try:
        OPTIMIZERS.build(block, module=nn.Linear(1, 1))
    except (ValueError, TypeError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{block.json_path}.args: {error}") from None
    if (block.get("args") or {}).get("lr") == 0:
        log.warning("%s.args.lr: 0 is given, nothing is trained", block.json_path)


def check_schedule(config: Config, settings: TrainerSettings) -> None:
    """ConfigError for values that the schedule does not take; a warning for milestones that are never reached."""
    schedule = SCHEDULES.build(config.get("lr_scheduler") or CONSTANT)
    unreached = [
        milestone
        for milestone in getattr(schedule, "milestones", ())
        if milestone >= settings.epochs
    ]
    if unreached:
        log.warning(
            "lr_scheduler.args.milestones: %s never comes, trainer.epochs is %d",
            ", ".join(f"{milestone:g}" for milestone in unreached),
            settings.epochs,
        )


def check_batch_sizes(config: Config, settings: TrainerSettings) -> None:
    """ConfigError for batches of none, and for steps of a single pair, whose contrastive loss is always 0."""
    for block in config.blocks("data_loader"):
        batch_size = (block.get("args") or {}).get("batch_size")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(
                f"{block.json_path}.args.batch_size: {batch_size} is given, 1 or more is needed"
            )
        if not has_captions(block) or batch_size is None:
            continue
        if batch_size * settings.accumulate * world_size() == 1:
            raise ConfigError(
                f"{block.json_path}.args.batch_size: 1 is given, on one process: a single pair has nothing to be told "
                "from, its loss is 0; give 2 or more, or trainer.accumulate"
            )


def check_clips(config: Config, blocks: Sequence[Config], loaders: Registry) -> None:
    """ConfigError for a loader whose clips the model does not take.

    Args:
        config: the whole config
        blocks: the blocks of the loaders
        loaders: the registered loaders; those that do not say what their clips are like are not looked at
    """
    arch = config.get("arch") or {}
    video_params = (arch.get("args") or {}).get("video_params")
    shape = clip_shape(video_params) if video_params else None
    if shape is None:
        return
    model_frames, model_size = shape
    for block in blocks:
        loader = loaders.get(block.require("type"), f"{block.json_path}.type")
        if not hasattr(loader, "clip_settings"):
            continue
        clip = loader.clip_settings(block.get("args") or {})
        num_frames = clip["num_frames"]
        size = (clip["input_res"], clip["input_res"])
        json_path = f"{block.json_path}.args.video_params"
        if num_frames > model_frames:
            raise ConfigError(
                f"{json_path}.num_frames: {num_frames} frames are read, and the model takes {model_frames} at "
                "most; set arch.args.video_params.num_frames too"
            )
        if size != model_size:
            raise ConfigError(
                f"{json_path}.input_res: clips of {size[0]} x {size[1]} pixels are read, and the model takes "
                f"{model_size[0]} x {model_size[1]}; set arch.args.video_params.img_size too"
            )


def clip_loaders(config: Config) -> list[Config]:
    """The blocks of all loaders in a config: training, validation, evaluation."""
    evaluation = config.get("evaluation") or Config({})
    return [
        *config.blocks("data_loader"),
        *config.blocks("valid_loader"),
        *evaluation.blocks("data_loader"),
    ]


def _stage_config(config: Config, number: int) -> Config:
    """The config with the sections of stage `number` merged into it."""
    overrides = config["stages"][number]
    known = set(SECTIONS) - {"stages", "base"}
    unknown = set(overrides) - known
    if unknown:
        raise ConfigError(
            f"stages.{number}.{min(unknown)}: unknown key; known: {', '.join(sorted(known))}"
        )
    save_dir = trainer_settings(config).save_dir
    own_save_dir = (overrides.get("trainer") or {}).get("save_dir", save_dir)
    if own_save_dir != save_dir:
        raise ConfigError(
            f"stages.{number}.trainer.save_dir: {own_save_dir!r} is given, and the stages of a run share a folder, in "
            f"{save_dir!r}; set trainer.save_dir for the whole run"
        )
    common = {key: value for key, value in config.to_dict().items() if key != "stages"}
    return Config(merge(common, overrides.to_dict()))


def _check_block(block: Any, registry: Registry, program_args: Sequence[str]) -> None:
    """Type and arguments of {"type", "args"}, as far as they can be checked without building it."""
    constructor = registry.get(block.require("type"), f"{block.json_path}.type")
    args: Mapping[str, Any] = block.get("args") or {}
    check_args(constructor, args, f"{block.json_path}.args", program_args)
