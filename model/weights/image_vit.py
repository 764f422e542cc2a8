"""An image ViT, as timm saves it, into the space-time transformer: what a network of frames starts from."""

import difflib
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from model import hub
from model.weights.load import clean, fit
from model.weights.read import find, read_checkpoint
from model.weights.report import Report
from model.weights.shapes import is_grid, resize_pos_embed
from parse_config import ConfigError

LEFT_OUT = ("head.", "head_dist.", "fc_norm.", "fc.", "pre_logits.")
REMEDY = (
    "It must hold a plain ViT, as timm saves it, of the size that arch.args.video_params describes"
)
WHERE = "arch.args.video_params.pretrained"


def init_from_image(
    encoder: nn.Module, pretrained: bool | str | Path, where: str = WHERE
) -> Report:
    """Load an image ViT into `encoder` (SpaceTimeTransformer) and log a table; `pretrained`: see `locate`.

    The temporal layers stay as `time_init` made them, or become the spatial ones ("copy"); norm3 becomes norm1. Raises
    ConfigError, FileNotFoundError.
    """
    path = locate(encoder, pretrained, where)
    report = Report(str(path), remedy=REMEDY)
    state = clean(read_checkpoint(path)["state_dict"])
    if any("timeattn." in key for key in state):
        raise ConfigError(
            f"{where}: {path} holds a video encoder, no image ViT; give it as arch.args.load_checkpoint"
        )
    if "norm_pre.weight" in state and not hasattr(encoder, "norm_pre"):
        raise ConfigError(
            f"{where}: {path} normalises before the blocks (CLIP); arch.args.video_params.arch_config "
            f"base_patch16_clip_224_temporal has that (pre_norm, act, norm_eps), this encoder has not"
        )
    for key in [key for key in state if key.startswith(LEFT_OUT)]:
        report.left_out[key] = "classifier, nothing uses it"
        del state[key]
    _fill(state, encoder, report)
    fit(encoder, state, report, strict=True)
    return report


def locate(encoder: nn.Module, pretrained: bool | str | Path, where: str = WHERE) -> Path:
    """True (the encoder's own choice, `image_weights`), a timm name, or a file or folder that timm saved -> the file.

    Names come from the hub or its cache. Raises ConfigError, FileNotFoundError.
    """
    name = (
        str(getattr(encoder, "image_weights", None) or "")
        if pretrained is True
        else str(pretrained)
    )
    if not name:
        raise ConfigError(
            f"{where}: true stands for no weights known to fit this encoder's size; give a timm name, a "
            f"path, or false"
        )
    if Path(name).exists():
        return find(name)
    if "/" in name or Path(name).suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise FileNotFoundError(
            f"{where}: {name}: no such file (looked for {Path(name).absolute()})"
        )
    import timm  # a second, and only here

    known = timm.models.get_pretrained_cfg(name)
    repository = known.hf_hub_id if known else None
    if not repository:
        near = difflib.get_close_matches(name, timm.list_pretrained("vit_*"), 1)
        raise ConfigError(
            f"{where}: {name!r} is neither a path nor a timm model with weights"
            f"{f' (nearest: {near[0]})' if near else ''}"
        )
    try:
        return Path(
            hf_hub_download(repository, "model.safetensors", local_files_only=not hub.reachable())
        )
    except OSError:
        raise hub.absent(
            where, name, repository, f"set {where} to its path, or to false for random weights"
        ) from None


def _fill(state: dict[str, Tensor], encoder: nn.Module, report: Report):
    """What an image ViT has not, and its places on another grid."""
    for name, own in encoder.state_dict().items():
        if name == "temporal_embed" or ".timeattn." in name:
            source = name.replace("timeattn", "attn")
            copied = encoder.time_init == "copy" and source in state
            state[name] = state[source].clone() if copied else own
            report.missing[name] = (
                f"temporal: copied from {source.split('.')[2]}"
                if copied
                else f"temporal: as initialised ({encoder.time_init})"
                if ".timeattn." in name
                else "temporal: zeros"
            )
        elif ".norm3." in name and name.replace("norm3", "norm1") in state:
            state[name], report.missing[name] = (
                state[name.replace("norm3", "norm1")].clone(),
                "copied from norm1",
            )
        elif name == "patch_embed.proj.bias" and name not in state:
            state[name], report.missing[name] = (
                torch.zeros_like(own),
                "zeros: the file's projection has no bias",
            )
    places, grid = state.get("pos_embed"), encoder.patch_grid
    if places is not None and places.shape[1] != encoder.pos_embed.shape[1] and is_grid(places):
        report.changed["pos_embed"] = (
            f"{places.shape[1] - 1} places -> {grid[0]} x {grid[1]} (bicubic)"
        )
        state["pos_embed"] = resize_pos_embed(places, grid)
