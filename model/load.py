"""A run, a checkpoint, an exported folder or a hub id -> a model that reads files and captions.

This module lies above `model` and `data_loader`: here a model gets the reader of its clips.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch

from data_loader.decode.clip_reader import ClipReader
from model.hub import is_hub_id
from model.miles import MILES
from model.restore import restore
from parse_config import UserError


def load_model(
    path: str | os.PathLike,
    device: str | torch.device | None = None,
    video_params: Mapping[str, Any] | None = None,
) -> MILES:
    """Open a model in eval mode, ready for captions, files and frames, from any working directory.

    Clips are read as those of the model's test split. A relative path of the text model in a checkpoint is looked for
    in the working directory, then in the checkpoint's folder and those above it.

    Args:
        path: a run folder of train.py (its best checkpoint, else its latest; with stages that of the last stage that
            has one), a checkpoint of train.py, MILES, Frozen in Time or MCQ, a folder of scripts/export.py, or a hub id
        device: where the model is put; default: a GPU if there is one
        video_params: settings for reading clips that replace the model's, for instance {"deadline": 5}

    Raises:
        FileNotFoundError: no such file or folder, or a folder without a model
        ConfigError: a file that is no checkpoint, files of a folder that do not belong together, a model that the hub
            does not have, an unknown setting
        UserError: a device that is not there, an empty path
    """
    # Intel's library then gives the same bits with any number of threads, as in test.py. It reads this at its first
    # product. Not when this module is imported: training imports it too, to look for architectures.
    os.environ.setdefault(
        "MKL_CBWR", f"{torch.backends.cpu.get_cpu_capability()},STRICT"
    )
    device = _device(device)
    if not isinstance(path, str | os.PathLike) or not str(path).strip():
        raise UserError(
            f"load_model: {path!r} is given; a run folder, a checkpoint, an exported folder or a hub id is needed"
        )
    path = os.path.expanduser(path)
    if is_hub_id(path):
        model = MILES.from_pretrained(path)
    else:
        model = restore(path)
    model.set_clip_reader(ClipReader({**model.preprocessing, **(video_params or {})}))
    return model.to(device)


def _device(name: str | torch.device | None) -> torch.device:
    """The device that is called `name`; None: a GPU if there is one. Raises UserError for one that is not there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(
            f"load_model: device {name!r} is given; write cpu, cuda or cuda:N"
        ) from None
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise UserError(
            f"load_model: device {str(device)!r} is given, and torch sees {num_gpus} GPUs here; write cpu, or leave "
            "device out"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise UserError(
            f"load_model: device {str(device)!r} is given, and this torch has none here; write cpu, cuda or cuda:N"
        ) from None
    return device
