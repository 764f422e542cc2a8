"""`video_params` of a config -> the video encoder."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from model.video import VIDEO_ENCODERS, VideoEncoder
from model.weights.image_vit import init_from_image, locate
from parse_config import ConfigError, check_args, parameters

# Keys of video_params that are not the encoder's own arguments.
BUILD_KEYS = ("model", "arch_config", "pretrained", "load_temporal_fix")
JSON_PATH = "arch.args.video_params"
OLDER_NAMES = {"place_std": "pos_embed_std"}  # still accepted in JSON


def build_video_model(
    video_params: Mapping[str, Any], pretrained: bool = True
) -> VideoEncoder:
    """The video encoder that `video_params` describe; any argument of the encoder may stand beside these.

    Weights are loaded only if the argument `pretrained` is true too. Raises ConfigError.

    Args:
        model: registered video encoder
        arch_config: one of the encoder's sizes; arguments beside it are merged over it; "" for none
        pretrained: start from an image ViT: true, a timm name or a path; false for random weights
        load_temporal_fix: the same as arch.args.load_temporal_fix
    """
    encoder, args = _encoder_and_args(video_params)
    json_path = getattr(video_params, "json_path", "") or JSON_PATH
    if not (pretrained and video_params.get("pretrained", False)):
        return encoder(**args)
    weights_json_path = f"{json_path}.pretrained"
    with torch.device(
        "meta"
    ):  # weights that are absent are missed before a large network is made
        weights_path = locate(
            encoder(**args), video_params["pretrained"], weights_json_path
        )
    video_model = encoder(**args)
    init_from_image(video_model, weights_path, weights_json_path)
    return video_model


def clip_shape(video_params: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
    """(largest number of frames, (height, width) in pixels) of the clips that the encoder of `video_params` takes.

    Nothing is allocated. Raises ConfigError.
    """
    encoder, args = _encoder_and_args(video_params)
    with torch.device("meta"):
        video_model = encoder(**args)
    return video_model.num_frames, video_model.img_size


def full_arguments(video_params: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of the encoder that `video_params` describe, with its defaults, and "model", its name."""
    encoder, args = _encoder_and_args(video_params)
    by_name, _ = parameters(encoder)
    defaults = {name: parameter.default for name, parameter in by_name.items()}
    name = video_params.get("model", "SpaceTimeTransformer")
    return {"model": name, **defaults, **args}


def _encoder_and_args(
    video_params: Mapping[str, Any],
) -> tuple[Callable[..., VideoEncoder], dict[str, Any]]:
    """The registered encoder and its constructor arguments, checked."""
    json_path = getattr(video_params, "json_path", "") or JSON_PATH
    encoder_name = video_params.get("model", "SpaceTimeTransformer")
    encoder = VIDEO_ENCODERS.get(encoder_name, f"{json_path}.model")
    sizes = getattr(encoder, "sizes", {})
    size = video_params.get("arch_config", next(iter(sizes), ""))
    if size and size not in sizes:
        raise ConfigError(
            f"{json_path}.arch_config: {size!r} is no size of {encoder.__name__}; known: {', '.join(sizes)}"
        )
    args = {
        OLDER_NAMES.get(key, key): value
        for key, value in video_params.items()
        if key not in BUILD_KEYS
    }
    check_args(encoder, args, json_path)
    return encoder, {**sizes.get(size, {}), **args}
