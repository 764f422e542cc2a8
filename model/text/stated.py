"""What the folder of a text model states beside its weights: how its outputs are pooled, where texts are cut.

Read from sentence-transformers' files (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`), and from
`text_settings.json`, which folders and checkpoints of this project hold.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
)

from model import hub
from model.text.pooling import POOLINGS
from parse_config import ConfigError

OWN_FILE = "text_settings.json"
LENGTH_FILE = "sentence_bert_config.json"
MODULES_FILE = "modules.json"
POOLING_FOLDER = "1_Pooling"
# sentence-transformers' names of poolings, as keys of older files and as values of newer ones.
KNOWN_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
}


class Stated(NamedTuple):
    """Pooling and largest number of tokens; None where the folder does not say."""

    pooling: str | None = None
    max_length: int | None = None


def read_stated(model: str) -> Stated:
    """What a folder or hub name states. Raises ConfigError for a file that cannot be understood."""
    own = _read(model, OWN_FILE)
    if own:
        return _checked(model, OWN_FILE, own.get("pooling"), own.get("max_length"))
    length = _read(model, LENGTH_FILE).get("max_seq_length")
    pooling_file = f"{_pooling_folder(model)}/config.json"
    settings = _read(model, pooling_file)
    if not settings:
        return _checked(model, LENGTH_FILE, None, length)
    return _checked(model, pooling_file, _pooling_of(settings), length)


def write_stated(folder: Path, stated: Stated) -> None:
    """Write `text_settings.json` into `folder`."""
    text = json.dumps(stated._asdict(), indent=2) + "\n"
    (folder / OWN_FILE).write_text(text, encoding="utf-8")


def _checked(model: str, name: str, pooling: Any, max_length: Any) -> Stated:
    """Raises ConfigError for a pooling that is not known, or a length that is no number above 0."""
    if pooling is not None and pooling not in POOLINGS:
        raise ConfigError(
            f"{model}/{name}: its pooling ({pooling}) is not known here; set arch.args.text_params.pooling to one of "
            f"{', '.join(POOLINGS[:-1])}"
        )
    is_length = isinstance(max_length, int) and max_length > 0
    if max_length is not None and not is_length:
        raise ConfigError(
            f"{model}: {max_length!r} is given as its largest number of tokens, a whole number above 0 is needed"
        )
    return Stated(pooling, max_length)


def _pooling_of(settings: Mapping[str, Any]) -> str:
    """The pooling of a config.json of sentence-transformers, in this project's word where there is one."""
    pooling_names = [
        key
        for key, value in settings.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    modes = settings.get("pooling_mode")
    if isinstance(modes, str):
        pooling_names = [modes]
    elif isinstance(modes, list):
        pooling_names = [str(name) for name in modes]
    if len(pooling_names) != 1:
        return " and ".join(pooling_names) or "none"
    return KNOWN_POOLINGS.get(pooling_names[0], pooling_names[0])


def _pooling_folder(model: str) -> str:
    """Name of the folder of sentence-transformers' pooling module, by modules.json."""
    modules = _read(model, MODULES_FILE)
    for module in modules.get("modules", []):
        if isinstance(module, dict) and str(module.get("type")).endswith("Pooling"):
            return str(module.get("path") or POOLING_FOLDER)
    return POOLING_FOLDER


def _read(model: str, name: str) -> dict[str, Any]:
    """A JSON file of a model: its object, {"modules": list} for a list, {} if there is none."""
    path = _find(model, name)
    if path is None or not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON ({error}); get it again") from None
    if isinstance(content, list):
        return {"modules": content}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: an object is needed; get it again")
    return content


def _find(model: str, name: str) -> Path | None:
    """Path of a file in the model's folder or in the hub's cache, downloaded where the hub is reachable."""
    if Path(model).is_dir():
        return Path(model, name)
    offline = not hub.reachable()
    try:
        return Path(hf_hub_download(model, name, local_files_only=offline))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None
