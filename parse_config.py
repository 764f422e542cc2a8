"""JSON and command line -> a frozen `Config`; names -> objects; errors that name the place and the remedy.

Standard library only. The config is read once: base files are laid under it, the command line over it, `${VAR}` and
`${VAR:-default}` are expanded, keys of the Frozen-in-Time family that mean nothing here are dropped with a warning.
"""

import argparse
import difflib
import functools
import importlib
import inspect
import json
import logging
import os
import pkgutil
import re
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SECTIONS = (
    "about",
    "arch",
    "base",
    "data_loader",
    "evaluation",
    "loss",
    "lr_scheduler",
    "metrics",
    "name",
    "objective",
    "optimizer",
    "seed",
    "stages",
    "trainer",
    "valid_loader",
)

# Keys of that family which mean nothing here -> what replaces them. "*" stands for one entry of a list, or for none.
LEGACY_KEYS = {
    "n_gpu": "start it with torchrun --nproc_per_node=N",
    "visualizer": "TensorBoard and log.jsonl are always written",
    "trainer.neptune": "TensorBoard and log.jsonl are always written, trainer.wandb is there",
    "trainer.verbosity": "nothing, the log has one level",
    "trainer.tensorboard": "TensorBoard is always written",
    "trainer.log_step": "trainer.log_every",
    "arch.args.text_params.input": "nothing, captions are always text",
    "arch.args.video_params.vit_init": "arch.args.video_params.pretrained",
    "arch.args.object_params": "nothing, object boxes are not used",
    "arch.args.text_params.two_outputs": "nothing",
    "data_loader.*.args.question": "nothing, questions belong to MCQ",
    "data_loader.*.args.text_params.input": "nothing, captions are always text",
    "data_loader.*.args.object_params": "nothing, object boxes are not used",
    "data_loader.*.args.object_dir": "nothing, object boxes are not used",
    "data_loader.*.args.video_params.extraction_fps": "nothing, frames are taken by index",
    "data_loader.*.args.video_params.extraction_res": "scripts/prepare_data.py",
    "data_loader.*.args.video_params.stride": "test.py -s STRIDE",
}


class UserError(ValueError):
    """What the user gave cannot be used; the message is one line and says the remedy."""


class ConfigError(UserError):
    """A setting is wrong; the message names the JSON path, what was given and what is known."""


class Config(Mapping):
    """A frozen JSON object. `json_path` is its path in the file ("objective.args.mask"), "" at the top."""

    __slots__ = ("_data", "json_path")

    def __init__(self, data: Mapping[str, Any], json_path: str = ""):
        object.__setattr__(self, "json_path", json_path)
        object.__setattr__(
            self,
            "_data",
            {key: _freeze(value, _join(json_path, key)) for key, value in data.items()},
        )

    def __getitem__(self, key: str) -> Any:
        if key not in self._data:
            raise KeyError(_join(self.json_path, key))
        return self._data[key]

    def __iter__(self):
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __setattr__(self, name: str, value: Any):
        raise AttributeError("a Config is frozen")

    def __reduce__(self):
        return Config, (self.to_dict(), self.json_path)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def require(self, key: str) -> Any:
        """The value of `key`, or a ConfigError that says that the section or key is missing."""
        if key not in self._data:
            raise ConfigError(
                f"{_join(self.json_path, key)}: is missing; present: {_words(self._data)}"
            )
        return self._data[key]

    def blocks(self, key: str) -> tuple["Config", ...]:
        """The value of `key` as a tuple of objects: one object counts as a list of one, absence as an empty list."""
        value = self._data.get(key) or ()
        return value if isinstance(value, tuple) else (value,)

    def to_dict(self) -> dict[str, Any]:
        """A copy of ordinary dicts and lists, as it goes into JSON."""
        return to_plain(self._data)


def to_plain(value: Any) -> Any:
    """Config or any nesting of mappings and sequences -> ordinary dicts and lists."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, object by object; an object whose "type" changes replaces its block, a list its list."""
    if "type" in over and "type" in under and over["type"] != under["type"]:
        return to_plain(over)
    laid = to_plain(under)
    for key, value in over.items():
        below = laid.get(key)
        laid[key] = (
            merge(below, value)
            if isinstance(value, Mapping) and isinstance(below, Mapping)
            else to_plain(value)
        )
    return laid


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read `path` with its bases and lay `key.path=value` overrides on it.

    Raises ConfigError for a file that is absent or does not parse, doubled or unknown top-level keys, unset variables.
    """
    data = _read(Path(path), ())
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"command line: {override!r} is no setting; write key.path=value, as trainer.epochs=3"
            )
        _set(data, key.split("."), _parse(value), key)
    _drop_family(data)
    _check_names(data, SECTIONS, "")
    return Config(_expand(data, ""))


def command_line(
    description: str,
    argv: list[str] | None = None,
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> tuple[argparse.Namespace, Config]:
    """-c -r -d --lr --bs and key.path=value as in the family, plus what `options` adds -> (arguments, config).

    Without -c the config.json beside the checkpoint of -r is taken.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-c", "--config", help="JSON file of the run")
    parser.add_argument(
        "-r", "--resume", help="checkpoint to go on from or to test; train.py also takes 'auto'"
    )
    parser.add_argument(
        "-d", "--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument("--lr", "--learning_rate", type=float, help="optimizer.args.lr")
    parser.add_argument(
        "--bs", "--batch_size", type=int, help="data_loader.args.batch_size, of every loader"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="any other setting")
    options(parser)
    arguments = parser.parse_intermixed_args(argv)
    beside = Path(arguments.resume or "").parent / "config.json"
    if not arguments.config and not (arguments.resume and beside.is_file()):
        raise ConfigError(
            "command line: -c CONFIG is missing, and no config.json lies beside a checkpoint given by -r"
        )
    overrides = list(arguments.overrides)
    overrides += [f"optimizer.args.lr={arguments.lr}"] if arguments.lr is not None else []
    overrides += [f"data_loader.args.batch_size={arguments.bs}"] if arguments.bs is not None else []
    return arguments, load_config(arguments.config or beside, overrides)


def cli_entry(main: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a program's entry: a user's mistake ends it with one line on stderr and exit status 2."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (UserError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
            if os.environ.get("MILES_TRACEBACK"):
                raise
            sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
            raise SystemExit(2) from None

    return run


class Registry:
    """Names -> classes or functions. Every module of `package` is imported at the first look-up, so that a new file
    with a decorator is all that a new thing needs."""

    def __init__(self, kind: str, package: str = ""):
        self.kind, self.package = kind, package
        self._entries: dict[str, Callable[..., Any]] = {}
        self._discovered, self._lock = (
            not package,
            threading.RLock(),
        )  # another thread must not see half of them

    def register(self, name: str) -> Callable:
        """Decorator: enter a class or function under `name`; a name can be taken once."""

        def enter(entry):
            taken = self._entries.get(name, entry)
            assert (taken.__module__, taken.__qualname__) == (
                entry.__module__,
                entry.__qualname__,
            ), f"{self.kind} {name!r} is registered by {taken.__module__} and {entry.__module__}"
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted."""
        with self._lock:
            if not self._discovered:
                self._discovered = True
                for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                    importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._entries)

    def get(self, name: str, json_path: str = "") -> Callable[..., Any]:
        """The thing called `name`; ConfigError naming `json_path`, the nearest and all known names if there is none."""
        known = self.names()
        if name not in self._entries:
            raise ConfigError(
                f"{json_path or self.kind}: {name!r} is no {self.kind}{_nearest(name, known)}; "
                f"known: {_words(known)}"
            )
        return self._entries[name]

    def build(self, spec: Mapping[str, Any], **given: Any) -> Any:
        """{"type": name, "args": {...}} -> the constructed thing.

        `given` are objects that the program supplies, not the JSON; those that the constructor does not take are left
        out.
        """
        json_path = getattr(spec, "json_path", "")
        if not isinstance(spec, Mapping) or "type" not in spec:
            raise ConfigError(
                f'{json_path or self.kind}: write {{"type": ..., "args": {{...}}}}, not {to_plain(spec)!r}; '
                f"types: {_words(self.names())}"
            )
        _check_names(spec, ("type", "args"), json_path or self.kind)
        entry = self.get(spec["type"], _join(json_path, "type"))
        args = spec.get("args") or {}
        taken, _ = parameters(entry)
        given = {key: value for key, value in given.items() if key in taken}
        check_args(
            entry,
            args,
            _join(json_path, "args") if json_path else f"{self.kind} {spec['type']}: args",
            given,
        )
        return entry(**args, **given)


def parameters(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], set[str]]:
    """({name: parameter}, required names) of a function or class; `**more` of a constructor means its parents' too."""
    makers = (
        [cls.__init__ for cls in function.__mro__ if "__init__" in vars(cls) and cls is not object]
        if inspect.isclass(function)
        else [function]
    )
    found: dict[str, inspect.Parameter] = {}
    for maker in makers:
        own = list(inspect.signature(maker).parameters.values())[
            1 if inspect.isclass(function) else 0 :
        ]
        for parameter in own:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in own):
            break
    return found, {
        name for name, parameter in found.items() if parameter.default is parameter.empty
    }


def check_args(
    function: Callable[..., Any],
    args: Mapping[str, Any],
    json_path: str = "",
    given: Iterable[str] = (),
):
    """ConfigError if `args` (from JSON) do not fit `function`: unknown, missing, or of another plain type.

    `given` names the parameters that the program itself supplies: they are neither known nor missing in the JSON.
    """
    json_path = json_path or getattr(args, "json_path", "")
    found, required = parameters(function)
    known = [name for name in found if name not in set(given)]
    _check_names(args, known, json_path)
    missing = sorted(required - set(args) - set(given))
    if missing:
        raise ConfigError(f"{_join(json_path, missing[0])}: is missing; known: {_words(known)}")
    for name, value in args.items():
        _check_type(value, found[name].annotation, _join(json_path, name))


def _check_type(value: Any, annotation: Any, json_path: str):
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = (
        typing.get_args(annotation)
        if union
        else str(getattr(annotation, "__name__", annotation)).split("|")
    )
    words = {str(getattr(part, "__name__", part)).strip() for part in parts}
    words = {"None" if word == "NoneType" else word for word in words}
    if not words or not words <= {"int", "float", "str", "bool", "None"}:
        return
    kind = "None" if value is None else type(value).__name__
    if kind not in words and not (kind == "int" and "float" in words):
        raise ConfigError(
            f"{json_path}: {to_plain(value)!r} is given, {' or '.join(sorted(words))} is needed"
        )


def _check_names(names: Iterable[str], known: Iterable[str], json_path: str):
    if not isinstance(names, Mapping):
        raise ConfigError(f"{json_path}: an object {{...}} is needed, {to_plain(names)!r} is given")
    known = list(known)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{_join(json_path, name)}: unknown key{_nearest(name, known)}; known: {_words(known)}"
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), lower, 1, 0.5)
    return f" (nearest: {lower[close[0]]})" if close else ""


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _join(json_path: str, key: str | int) -> str:
    return f"{json_path}.{key}" if json_path else str(key)


def _freeze(value: Any, json_path: str) -> Any:
    if isinstance(value, Mapping):
        return Config(value, json_path)
    if isinstance(value, list | tuple):
        return tuple(_freeze(item, _join(json_path, i)) for i, item in enumerate(value))
    return value


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in above:
        raise ConfigError(f"{path}: is its own base")
    if not path.is_file():
        there = [str(p) for p in path.parent.glob("*.json")]
        raise ConfigError(f"{path}: no such config file{_nearest(str(path), there)}")
    doubled: list[str] = []

    def pairs(items):
        keys = [key for key, _ in items]
        doubled.extend(key for key in keys if keys.count(key) > 1)
        return dict(items)

    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    if doubled:
        raise ConfigError(f"{path}: key {doubled[0]!r} stands twice in one object; remove one")
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: an object {{...}} is needed at the top")
    bases = data.pop("base", ())
    under: dict[str, Any] = {}
    for base in (bases,) if isinstance(bases, str) else bases:
        under = merge(under, _read(path.parent / base, (*above, path)))
    return merge(under, data)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _set(data: Any, keys: list[str], value: Any, whole: str):
    """Set data[k0][k1]... = value; a list without an index means each of its entries."""
    head, rest = keys[0], keys[1:]
    if isinstance(data, list):
        if head.isdigit() and int(head) >= len(data):
            raise ConfigError(f"{whole}: the list has {len(data)} entries, counted from 0")
        for i in [int(head)] if head.isdigit() else range(len(data)):
            if head.isdigit() and not rest:
                data[i] = value
            else:
                _set(data[i], rest if head.isdigit() else keys, value, whole)
    elif not isinstance(data, dict):
        raise ConfigError(f"{whole}: {head!r} lies under a plain value, {data!r}")
    elif rest:
        _set(data.setdefault(head, {}), rest, value, whole)
    else:
        data[head] = value


def _drop_family(data: dict[str, Any]):
    for pattern, remedy in LEGACY_KEYS.items():
        keys = [key for key in pattern.split(".") if key != "*"]
        if _drop(data, keys):
            log.warning(
                "config: %s has no meaning here and is ignored; instead: %s", ".".join(keys), remedy
            )


def _drop(data: Any, keys: list[str]) -> bool:
    if isinstance(data, list):
        return sum(_drop(item, keys) for item in data) > 0
    if not isinstance(data, dict) or keys[0] not in data:
        return False
    return _drop(data[keys[0]], keys[1:]) if keys[1:] else (data.pop(keys[0]), True)[1]


def _expand(value: Any, json_path: str) -> Any:
    if isinstance(value, dict):
        return {
            key: _expand(item, _join(json_path, key)) if key != "about" else item
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, _join(json_path, i)) for i, item in enumerate(value)]

    def variable(match):
        name, default = match.groups()
        if os.environ.get(name, default) is None:
            raise ConfigError(
                f"{json_path}: the environment variable {name} is not set; export {name}=... first"
            )
        return os.environ.get(name) or default or ""

    return (
        re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", variable, value) if isinstance(value, str) else value
    )
