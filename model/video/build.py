"""`video_params` of a config -> the video encoder."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from model.video import VIDEO_ENCODERS
from model.weights.image_vit import init_from_image, locate
from parse_config import ConfigError, check_args

OTHERS = (
    "model",
    "arch_config",
    "pretrained",
    "load_temporal_fix",
)  # of video_params, not of the encoder


def build_video_model(video_params: Mapping[str, Any], pretrained: bool = True) -> nn.Module:
    """{"model", "arch_config", "pretrained", any argument of the encoder} -> encoder.

    `arch_config` names one of the encoder's `sizes`; arguments beside it lie over it. `pretrained` (true, a timm name
    or a path) is followed unless the argument `pretrained` is False. Raises ConfigError.
    """
    where = getattr(video_params, "json_path", "") or "arch.args.video_params"
    encoder = VIDEO_ENCODERS.get(
        video_params.get("model", "SpaceTimeTransformer"), f"{where}.model"
    )
    sizes = getattr(encoder, "sizes", {})
    name = video_params.get("arch_config", next(iter(sizes), ""))
    if name and name not in sizes:
        raise ConfigError(
            f"{where}.arch_config: {name!r} is no size of {encoder.__name__}; known: {', '.join(sizes)}"
        )
    args = {key: value for key, value in video_params.items() if key not in OTHERS}
    check_args(encoder, args, where)
    args = {**sizes.get(name, {}), **args}
    if not (pretrained and video_params.get("pretrained", False)):
        return encoder(**args)
    with torch.device("meta"):  # weights that are absent are missed before a large network is made
        path = locate(encoder(**args), video_params["pretrained"], f"{where}.pretrained")
    network = encoder(**args)
    init_from_image(network, path, f"{where}.pretrained")
    return network
