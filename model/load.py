"""A run, a checkpoint, an exported folder or a hub id -> a model that reads files and captions.

This module lies above `model` and `data_loader`: here a model gets the reader of its clips.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data_loader.decode.clip_reader import ClipReader
from model.miles import MILES
from model.restore import restore

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


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
        ConfigError: a file that is no checkpoint, a model that the hub does not have, an unknown setting
    """
    # Intel's library then gives the same bits with any number of threads, as in test.py. It reads this at its first
    # product. Not when this module is imported: training imports it too, to look for architectures.
    os.environ.setdefault(
        "MKL_CBWR", f"{torch.backends.cpu.get_cpu_capability()},STRICT"
    )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_hub_id(path):
        model = MILES.from_pretrained(path)
    else:
        model = restore(path)
    model.set_clip_reader(ClipReader({**model.preprocessing, **(video_params or {})}))
    return model.to(device)


def is_hub_id(path: str | os.PathLike) -> bool:
    """Whether `path` is written owner/name, and neither exists here nor is named like a checkpoint."""
    return (
        re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is not None
        and Path(path).suffix not in CHECKPOINT_SUFFIXES
        and not Path(path).exists()
    )
