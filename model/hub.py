"""The Hugging Face hub: whether it can be reached, and the error for a model that cannot be had."""

import functools
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import HFValidationError, validate_repo_id

from parse_config import ConfigError

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@functools.lru_cache(maxsize=1)
def reachable(seconds: float = 5.0) -> bool:
    """Whether the Hugging Face hub answers; asked once, and within seconds, because the libraries retry for a minute.

    Where it is False, only what was downloaded before (the cache) or lies in a folder can be used.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def is_path(name: str) -> bool:
    """Whether `name` can only be a path: no repository of the hub is written so."""
    if name.startswith((".", "~")) or os.path.exists(name):
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return False


def is_hub_id(path: str | os.PathLike) -> bool:
    """Whether `path` is written owner/name, and neither exists here nor is named like a checkpoint."""
    return (
        re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is not None
        and Path(path).suffix not in CHECKPOINT_SUFFIXES
        and not Path(path).exists()
    )


def absent(json_path: str, name: str, repository: str, remedy: str) -> ConfigError:
    """The error for a model that can be had neither from the hub, nor from its cache, nor from a path.

    `json_path`: the setting's; `repository`: on the hub; `remedy`: what to do with the folder once it is copied here.
    """
    owner, slash, _ = name.partition("/")
    if is_path(name) or (slash and Path(owner).is_dir()):
        return _no_folder(json_path, name)
    if reachable():
        reason = f"the hub ({constants.ENDPOINT}) does not have it"
    else:
        reason = f"the hub ({constants.ENDPOINT}) cannot be reached and {constants.HF_HUB_CACHE} does not hold it"
    return ConfigError(
        f"{json_path}: {name!r} is no local path and {reason}; where there is a network, run "
        f"'hf download {repository} --local-dir {repository.split('/')[-1]}', copy that folder here "
        f"and {remedy}"
    )


def _no_folder(json_path: str, name: str) -> ConfigError:
    path = Path(os.path.expanduser(name)).absolute()
    if path.is_file():
        return ConfigError(
            f"{json_path}: {name!r} is a file, a folder is needed; give the folder that holds the model's config.json"
        )
    return ConfigError(
        f"{json_path}: {name!r}: no such folder (looked for {path}); give the path of a folder that is there, or the "
        "name of a model on the hub"
    )
