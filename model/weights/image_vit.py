"""Initialise the space-time transformer from an image ViT, as timm saves it."""

import difflib
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from model import hub
from model.weights.load import clean, fit
from model.weights.read import find, read_checkpoint
from model.weights.report import Report
from model.weights.shapes import is_grid, resize_pos_embed
from parse_config import ConfigError

# Starts of names that nothing here uses.
CLASSIFIER = ("head.", "head_dist.", "fc_norm.", "fc.", "pre_logits.")
FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
REMEDY = "It must hold a plain ViT, as timm saves it, of the size that arch.args.video_params describes"
JSON_PATH = "arch.args.video_params.pretrained"


def init_from_image(
    encoder: nn.Module, pretrained: bool | str | Path, json_path: str = JSON_PATH
) -> Report:
    """Load an image ViT into `encoder` (SpaceTimeTransformer) and log a table of what was done.

    The temporal layers stay as `time_init` made them, or become the spatial ones ("copy"); norm3 is copied from norm1.

    Args:
        encoder: the encoder to initialise
        pretrained: which weights, see `locate`
        json_path: name of the setting in error messages

    Raises:
        FileNotFoundError: no such file
        ConfigError: no image ViT, or one of another size
    """
    path = locate(encoder, pretrained, json_path)
    report = Report(str(path), remedy=REMEDY)
    state = clean(read_checkpoint(path)["state_dict"])
    if any("timeattn." in name for name in state):
        raise ConfigError(
            f"{json_path}: {path} holds a video encoder, no image ViT; give it as arch.args.load_checkpoint"
        )
    if "norm_pre.weight" in state and not hasattr(encoder, "norm_pre"):
        raise ConfigError(
            f"{json_path}: {path} normalises before the blocks (CLIP); arch.args.video_params.arch_config "
            f"base_patch16_clip_224_temporal has that (pre_norm, act, norm_eps), this encoder has not"
        )
    for name in [name for name in state if name.startswith(CLASSIFIER)]:
        report.left_out[name] = "classifier, nothing uses it"
        del state[name]
    _add_missing(state, encoder, report)
    _resize_positions(state, encoder, report)
    fit(encoder, state, report, strict=True)
    return report


def locate(
    encoder: nn.Module, pretrained: bool | str | Path, json_path: str = JSON_PATH
) -> Path:
    """The file of an image ViT's weights. Names come from the hub or its cache.

    Args:
        encoder: whose `image_weights` are taken for True
        pretrained: True, a timm name, or a file or folder that timm saved
        json_path: name of the setting in error messages

    Raises:
        FileNotFoundError: no such file
        ConfigError: no such timm model, or one that cannot be had
    """
    if pretrained is True:
        name = str(getattr(encoder, "image_weights", None) or "")
    else:
        name = os.path.expanduser(str(pretrained))
    if not name:
        raise ConfigError(
            f"{json_path}: true stands for no weights known to fit this encoder's size; give a timm name, a "
            f"path, or false"
        )
    if Path(name).exists():
        return find(name)
    if "/" in name or Path(name).suffix in FILE_SUFFIXES:
        raise FileNotFoundError(
            f"{json_path}: {name}: no such file (looked for {Path(name).absolute()})"
        )
    repository = _timm_repository(name, json_path)
    try:
        path = hf_hub_download(
            repository, "model.safetensors", local_files_only=not hub.reachable()
        )
    except OSError:
        remedy = f"set {json_path} to its path, or to false for random weights"
        raise hub.absent(json_path, name, repository, remedy) from None
    return Path(path)


def _timm_repository(name: str, json_path: str) -> str:
    """The hub's repository of a timm model; ConfigError naming the nearest one if timm knows no weights for it."""
    import timm  # takes a second, and is needed only here

    config = timm.models.get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if not repository:
        nearest = difflib.get_close_matches(name, timm.list_pretrained("vit_*"), 1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        raise ConfigError(
            f"{json_path}: {name!r} is neither a path nor a timm model with weights{hint}"
        )
    return repository


def _add_missing(state: dict[str, Tensor], encoder: nn.Module, report: Report) -> None:
    """Add to `state` what an image ViT does not have: the temporal layers, norm3 and perhaps a bias."""
    for name, own_tensor in encoder.state_dict().items():
        spatial_name = name.replace("timeattn", "attn")
        norm1_name = name.replace("norm3", "norm1")
        if name == "temporal_embed":
            state[name] = own_tensor
            report.missing[name] = "temporal: zeros"
        elif (
            ".timeattn." in name
            and encoder.time_init == "copy"
            and spatial_name in state
        ):
            state[name] = state[spatial_name].clone()
            report.missing[name] = f"temporal: copied from {spatial_name.split('.')[2]}"
        elif ".timeattn." in name:
            state[name] = own_tensor
            report.missing[name] = f"temporal: as initialised ({encoder.time_init})"
        elif ".norm3." in name and norm1_name in state:
            state[name] = state[norm1_name].clone()
            report.missing[name] = "copied from norm1"
        elif name == "patch_embed.proj.bias" and name not in state:
            state[name] = torch.zeros_like(own_tensor)
            report.missing[name] = "zeros: the file's projection has no bias"


def _resize_positions(state: dict[str, Tensor], encoder: Any, report: Report) -> None:
    """Bring the position embeddings of another grid of patches to the encoder's."""
    pos_embed = state.get("pos_embed")
    if pos_embed is None or pos_embed.shape[1] == encoder.pos_embed.shape[1]:
        return
    if is_grid(pos_embed):
        rows, columns = encoder.patch_grid
        report.changed["pos_embed"] = (
            f"{pos_embed.shape[1] - 1} places -> {rows} x {columns} (bicubic)"
        )
        state["pos_embed"] = resize_pos_embed(pos_embed, encoder.patch_grid)
