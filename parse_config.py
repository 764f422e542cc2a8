"""JSON and command line to a frozen `Config`; names to objects; errors that name the JSON path and the remedy.

Standard library only. The config is read once: base files are merged under it, the command line over it, `${VAR}` and
`${VAR:-default}` are expanded, keys of Frozen-in-Time codebases that mean nothing here are dropped with a warning.
"""

import argparse
import contextlib
import difflib
import errno
import functools
import importlib
import inspect
import json
import logging
import math
import os
import pkgutil
import re
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

log = logging.getLogger(__name__)

# The sections of a config and what they are.
SECTIONS = {
    "about": "a note on what the config is for and how it is run",
    "base": "file or files that this one is merged over, relative to it; a changed type replaces its block",
    "name": "name of the run: it lies in trainer.save_dir/name/<MMDD_HHMMSS>/",
    "arch": "the model: a registered architecture and its arguments",
    "data_loader": "training data: a loader, or a list of loaders that take turns",
    "valid_loader": "validation data; null for none; without it the first training data set's val split",
    "objective": "what is minimised: a registered objective (default: Contrastive)",
    "loss": "the contrastive loss",
    "optimizer": "the optimizer and its arguments",
    "lr_scheduler": "factor of the learning rate as a function of the step (default: Constant)",
    "metrics": "directions that are evaluated and printed",
    "evaluation": "how the model is evaluated, between epochs and by test.py",
    "trainer": "how long, how precisely and on how many processes; what is saved and logged",
    "seed": "seed of everything that is drawn; may stand in trainer too",
    "stages": "list of configs, each merged over the rest, that run one after the other",
}

# What the sections hold that are not {"type", "args"} or settings with a check of their own.
SECTION_TYPES: dict[str, Any] = {
    "name": str,
    "seed": int,
    "arch": Mapping,
    "data_loader": Mapping | Sequence[Mapping],
    "valid_loader": Mapping | Sequence[Mapping] | None,
    "objective": Mapping | None,
    "loss": Mapping,
    "optimizer": Mapping,
    "lr_scheduler": Mapping | None,
    "metrics": Sequence[str],
    "evaluation": Mapping | None,
    "trainer": Mapping | None,
    "stages": Sequence[Mapping] | None,
}
# Sections of {"type", "args"}, or lists of such, by their path.
BLOCKS = (
    "arch",
    "data_loader",
    "valid_loader",
    "evaluation.data_loader",
    "objective",
    "loss",
    "optimizer",
    "lr_scheduler",
)
# What is read from a block before its constructor checks the arguments.
BLOCK_TYPES: dict[str, Any] = {"type": str, "args": Mapping | None}
BLOCK_ARGUMENT_TYPES: dict[str, Any] = {
    "load_checkpoint": str | None,
    "video_params": Mapping | None,
    "text_params": Mapping | None,
}
ENCODER_ARGUMENT_TYPES: dict[str, Any] = {"model": str, "arch_config": str}
# An override of these is of the run alone; stages keep their own.
OWN_OF_A_STAGE = ("name", "about")
# An override of this section is set outside the stages too: it holds settings of the whole run, as save_dir.
OF_THE_RUN = "trainer"

# Keys of Frozen-in-Time codebases that mean nothing here, and what replaces them. "*" stands for one entry of a list,
# or for none.
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

# Modules that hold a registry, for --list: a program imports only those that it builds from.
REGISTRY_MODULES = (
    "data_loader",
    "data_loader.datasets",
    "data_loader.readers",
    "model",
    "model.loss",
    "model.mask",
    "model.metric",
    "model.predictor",
    "model.teacher",
    "model.video",
    "trainer.evaluation.rescoring",
    "trainer.objectives",
    "trainer.optim",
)


# Errors of the system about a place that the user gave, which a program may also raise in words of its own.
PLACE_ERRORS = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
)
# What a file system can refuse, and the remedy.
MAKE_ROOM = "make room there, or choose another folder"
ALLOW = "allow it there, or choose another folder"
LOOK_AT_DISK = "look at the disk, or choose another folder"
REFUSALS = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EFBIG: "the system allows no larger file there; choose another folder",
    errno.EROFS: ALLOW,
    errno.EACCES: ALLOW,
    errno.EPERM: ALLOW,
    errno.ENOENT: "look for a slip in the path",
    errno.ENOTDIR: "a file is where a folder is needed; choose another path",
    errno.EISDIR: "a folder is where a file is needed; choose another path",
    errno.EEXIST: "it is there already; choose another path",
    errno.ENOTEMPTY: "it is there already; choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its links lead in a circle; choose another path",
    errno.EBUSY: "end what uses it, or choose another path",
    errno.ETXTBSY: "end what uses it, or choose another path",
    errno.EXDEV: "choose a path on one disk",
    errno.EIO: LOOK_AT_DISK,
    errno.ESTALE: LOOK_AT_DISK,
    errno.ENODEV: LOOK_AT_DISK,
    errno.ENXIO: LOOK_AT_DISK,
    errno.ENOTCONN: LOOK_AT_DISK,
    errno.EMFILE: "allow more open files (ulimit -n), or lower num_workers",
    errno.ENFILE: "allow more open files (ulimit -n), or lower num_workers",
    errno.ENOMEM: "free memory, or lower batch_size or num_workers",
    errno.EAGAIN: "allow more processes (ulimit -u), or lower num_workers",
}
OUTPUT = "standard output"
# Exit statuses, as shells give those of a process that SIGINT or SIGPIPE ended.
INTERRUPTED = 130
STOPPED = "stopped by Ctrl-C\n"
READER_GONE = 141


class UserError(ValueError):
    """What the user gave cannot be used; the message is one line and says the remedy."""


class ConfigError(UserError):
    """A setting is wrong; the message names the JSON path, what was given and what is known."""


class Config(Mapping):
    """A frozen JSON object. `json_path` is its path in the file ("objective.args.mask"), "" at the top."""

    __slots__ = ("_data", "json_path")
    _data: dict[str, Any]
    json_path: str

    def __init__(self, data: Mapping[str, Any], json_path: str = "") -> None:
        frozen = {
            key: _freeze(value, _join(json_path, key)) for key, value in data.items()
        }
        object.__setattr__(self, "json_path", json_path)
        object.__setattr__(self, "_data", frozen)

    def __getitem__(self, key: str) -> Any:
        if key not in self._data:
            raise KeyError(_join(self.json_path, key))
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Config is frozen")

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (self.to_dict(), self.json_path)

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def require(self, key: str) -> Any:
        """The value of `key`, or a ConfigError that says that the section or key is missing."""
        if key not in self._data:
            path = _join(self.json_path, key)
            raise ConfigError(f"{path}: is missing; present: {_listed(self._data)}")
        return self._data[key]

    def blocks(self, key: str) -> tuple["Config", ...]:
        """The value of `key` as a tuple of objects: one object counts as a list of one, absence and null as none.

        Raises ConfigError for anything else, an empty object or list included.
        """
        value = self._data.get(key)
        if value is None:
            return ()
        values = value if isinstance(value, tuple) else (value,)
        if not value or not all(isinstance(block, Config) for block in values):
            raise ConfigError(
                f"{_join(self.json_path, key)}: {to_plain(value)!r} is given, an object that is not empty or a list of "
                "such is needed; null is none"
            )
        return values

    def to_dict(self) -> dict[str, Any]:
        """A copy of ordinary dicts and lists, as it goes into JSON."""
        return to_plain(self._data)


def to_plain(value: Any) -> Any:
    """Config or any nesting of mappings and sequences to ordinary dicts and lists."""
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`override` merged over `base`, object by object.

    An object whose "type" changes replaces the one of the base, and a list replaces a list.
    """
    if "type" in override and "type" in base and override["type"] != base["type"]:
        return to_plain(override)
    merged = to_plain(base)
    for key, value in override.items():
        base_value = merged.get(key)
        if isinstance(value, Mapping) and isinstance(base_value, Mapping):
            merged[key] = merge(base_value, value)
        else:
            merged[key] = to_plain(value)
    return merged


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read `path` with its bases and merge `key.path=value` overrides over it.

    The override base=FILE takes the place of the bases that the file itself names. An override holds in every stage;
    stages.N.key.path=value holds in one. A changed type replaces its block. Raises ConfigError for a file that is
    absent or does not parse, doubled or unknown top-level keys, sections of another type, unset variables.
    """
    overrides = list(overrides)
    other_bases = [
        override.removeprefix("base=")
        for override in overrides
        if override.startswith("base=")
    ]
    return resolve_config(_read_with_bases(Path(path), (), other_bases), overrides)


def resolve_config(data: dict[str, Any], overrides: Iterable[str] = ()) -> Config:
    """The config of JSON data with `key.path=value` overrides. Raises what `load_config` raises."""
    data = to_plain(data)
    _apply_overrides(
        data, [override for override in overrides if not override.startswith("base=")]
    )
    _translate_mcq(data)
    _drop_legacy_keys(data)
    data.pop("$schema", None)  # for editors
    _check_names(data, SECTIONS, "")
    data = _expand_variables(data, "")
    _check_section_types(data)
    return Config(data)


def command_line(
    description: str,
    argv: list[str] | None = None,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
    read_config: Callable[[str], Mapping[str, Any]] | None = None,
) -> tuple[argparse.Namespace, Config]:
    """The arguments of train.py and test.py, and the config that they name.

    -c -r -d --lr --bs and key.path=value as in Frozen-in-Time codebases, and what `add_options` adds. Without -c the
    config is what `read_config` returns for the checkpoint of -r.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-c", "--config", help="JSON file of the run")
    parser.add_argument(
        "-r",
        "--resume",
        help="checkpoint or run folder to go on from or to test; train.py also takes 'auto'",
    )
    parser.add_argument(
        "-d", "--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )
    parser.add_argument("--lr", "--learning_rate", type=float, help="optimizer.args.lr")
    parser.add_argument(
        "--bs",
        "--batch_size",
        type=int,
        help="data_loader.args.batch_size, of every loader",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the resolved config as JSON and end",
    )
    parser.add_argument(
        "--list", action=_ListRegistered, help="print every registered name and end"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="any other setting"
    )
    if add_options:
        add_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    return arguments, _named_config(arguments, read_config)


def _named_config(
    arguments: argparse.Namespace,
    read_config: Callable[[str], Mapping[str, Any]] | None,
) -> Config:
    """The config of -c, or the own one of the checkpoint of -r, with the overrides."""
    overrides = _overrides(arguments)
    if arguments.config:
        return load_config(arguments.config, overrides)
    if read_config is None or arguments.resume in (None, "auto"):
        raise ConfigError(
            "command line: -c CONFIG is missing, and no checkpoint is given by -r whose own config could be taken"
        )
    data = read_config(arguments.resume)
    if not data:
        raise ConfigError(
            f"command line: -c CONFIG is missing, and {arguments.resume} does not say what config it was trained with"
        )
    return resolve_config(to_plain(data), overrides)


def write_config(config: Mapping[str, Any]) -> None:
    """Write the config as JSON on standard output, for --print-config."""
    sys.stdout.write(json.dumps(to_plain(config), indent=4) + "\n")


def printable(text: str, keep: str = "") -> str:
    """`text` for a console: control characters, and others that are not printable, are written as Python escapes.

    Names of files may hold any character but / and NUL. `keep`: characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in keep
        else repr(character)[1:-1]
        for character in text
    )


def cli_entry(main: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a program's entry: a user's mistake ends it with one line on stderr and exit status 2.

    So do a full, read-only or absent file system, with its path and the reason. Ctrl-C ends it with one line and status
    130, and silently where nobody reads its output any more (`| head`), with status 141.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> Any:
        if signal.getsignal(signal.SIGINT) is _end_now:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return _with_output_written(main, *args, **kwargs)
        except KeyboardInterrupt:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed twice
            sys.stderr.write(STOPPED)
            raise SystemExit(INTERRUPTED) from None
        except (UserError, OSError) as error:
            if os.environ.get("MILES_TRACEBACK"):
                raise
            if isinstance(error, OSError):
                _name_output(error)
            if isinstance(error, BrokenPipeError) and error.filename == OUTPUT:
                raise SystemExit(READER_GONE) from None
            message = one_line(error)
            if not message:
                raise
            sys.stderr.write(f"error: {message}\n")
            raise SystemExit(2) from None

    return run


def end_at_ctrl_c() -> None:
    """Let Ctrl-C end this process with one line until the entry of `cli_entry` is called: while modules are imported.

    Where it is ignored, as in the background of a shell, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_now)


def let_threads_sleep() -> None:
    """Have the threads that torch computes with sleep while they wait for each other; to be called before its import.

    Otherwise they take the CPUs of whatever else runs, and several runs on a machine all but stand still. The
    environment variable OMP_WAIT_POLICY is respected.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _end_now(number: int, frame: object) -> None:
    os.write(sys.stderr.fileno(), STOPPED.encode())
    os._exit(INTERRUPTED)


def _with_output_written(main: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`main(...)`, and all that it printed: Python itself would notice a full disk or a closed pipe too late."""
    try:
        result = main(*args, **kwargs)
    except SystemExit:
        _write_output()
        raise
    _write_output()
    return result


def _write_output() -> None:
    with naming(OUTPUT):
        sys.stdout.flush()


def _name_output(error: OSError) -> None:
    """Name standard output in an error that it made, and let what it still holds go nowhere."""
    if error.filename is None:
        try:
            sys.stdout.flush()
            sys.stdout.write("\n")  # without a buffer, as with python -u
            sys.stdout.flush()
        except OSError:
            error.filename = OUTPUT
    if error.filename == OUTPUT:
        _discard_output()


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Within the block an error of the file system that names no file (a failed write does not) is said of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def one_line(error: UserError | OSError) -> str:
    """The message of a user's mistake, or of what the file system refused; "" for any other error."""
    if not isinstance(error, OSError):
        return printable(" ".join(str(error).split()))
    if error.errno is None and isinstance(error, PLACE_ERRORS):
        return printable(" ".join(str(error).split()))
    if error.errno not in REFUSALS:
        return ""
    where = ""
    if isinstance(error.filename, str | bytes):
        where = f"{os.fsdecode(error.filename)}: "
    line = f"{where}{error.strerror}; {REFUSALS[error.errno]}"
    return printable(" ".join(line.split()))


def _discard_output() -> None:
    """Let what is buffered for standard output go nowhere: Python would complain of it once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # a replacement without a file
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Registry:
    """Names to classes or functions.

    Every module of `package` is imported at the first look-up, so that a new file with a decorator is all that a new
    component needs.
    """

    instances: ClassVar[list["Registry"]] = []
    # One thread imports the modules; meanwhile no other may see half of the entries.
    discovery_lock = threading.RLock()

    def __init__(self, kind: str, package: str = "") -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Callable[..., Any]] = {}
        self._discovered = not package
        Registry.instances.append(self)

    def register(self, name: str) -> Callable:
        """Decorator: enter a class or function under `name`; a name can be taken once."""

        def enter(entry: Callable[..., Any]) -> Callable[..., Any]:
            registered = self._entries.get(name, entry)
            same_name = registered.__qualname__ == entry.__qualname__
            assert registered.__module__ == entry.__module__ and same_name, (
                f"{self.kind} {name!r} is registered by {registered.__module__} and {entry.__module__}"
            )
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> list[str]:
        """All names, sorted."""
        with Registry.discovery_lock:
            if not self._discovered:
                self._discovered = True
                for module in pkgutil.iter_modules(
                    importlib.import_module(self.package).__path__
                ):
                    importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._entries)

    def get(self, name: str, json_path: str = "") -> Callable[..., Any]:
        """The class or function called `name`.

        Raises ConfigError, naming `json_path`, the nearest and all known names, if there is none.
        """
        known = self.names()
        if not isinstance(name, str) or name not in self._entries:
            raise ConfigError(
                f"{json_path or self.kind}: {to_plain(name)!r} is no {self.kind}{_nearest(name, known)}; "
                f"known: {_listed(known)}"
            )
        return self._entries[name]

    def build(self, spec: Mapping[str, Any], **supplied: Any) -> Any:
        """Construct what {"type": name, "args": {...}} describes.

        `supplied` are objects that the program supplies, not the JSON; those that the constructor does not take are
        left out. Raises ConfigError.
        """
        json_path = getattr(spec, "json_path", "")
        if not isinstance(spec, Mapping) or "type" not in spec:
            raise ConfigError(
                f'{json_path or self.kind}: write {{"type": ..., "args": {{...}}}}, not {to_plain(spec)!r}; '
                f"types: {_listed(self.names())}"
            )
        _check_names(spec, ("type", "args"), json_path or self.kind)
        entry = self.get(spec["type"], _join(json_path, "type"))
        args = spec.get("args") or {}
        accepted, _ = parameters(entry)
        supplied = {key: value for key, value in supplied.items() if key in accepted}
        args_path = f"{self.kind} {spec['type']}: args"
        if json_path:
            args_path = _join(json_path, "args")
        check_args(entry, args, args_path, supplied)
        return entry(**args, **supplied)


def _renew_discovery_lock() -> None:
    Registry.discovery_lock = threading.RLock()


# A process is forked between two discoveries, never during one: the thread that imports, and would free the lock, does
# not exist in the child.
os.register_at_fork(
    before=lambda: Registry.discovery_lock.acquire(),
    after_in_parent=lambda: Registry.discovery_lock.release(),
    after_in_child=_renew_discovery_lock,
)


def parameters(
    function: Callable[..., Any],
) -> tuple[dict[str, inspect.Parameter], set[str]]:
    """({name: parameter}, required names) of a function or class.

    `**more` of a constructor means the parameters of its parents too.
    """
    by_name: dict[str, inspect.Parameter] = {}
    for signature in _signatures(function):
        for parameter in signature:
            if parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
                by_name.setdefault(parameter.name, parameter)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in signature):
            break
    required = {
        name
        for name, parameter in by_name.items()
        if parameter.default is parameter.empty
    }
    return by_name, required


def check_args(
    function: Callable[..., Any],
    args: Mapping[str, Any],
    json_path: str = "",
    supplied: Iterable[str] = (),
) -> None:
    """Raise ConfigError if `args` (from JSON) do not fit `function`: unknown, missing, or of another plain type.

    `supplied` names the parameters that the program itself supplies: they are neither known nor missing in the JSON.
    """
    json_path = json_path or getattr(args, "json_path", "")
    supplied = set(supplied)
    by_name, required = parameters(function)
    known = [name for name in by_name if name not in supplied]
    _check_names(args, known, json_path)
    missing = sorted(required - set(args) - supplied)
    if missing:
        raise ConfigError(
            f"{_join(json_path, missing[0])}: is missing; known: {_listed(known)}"
        )
    for name, value in args.items():
        _check_type(value, by_name[name].annotation, _join(json_path, name))


def registered_names() -> str:
    """A text of all registries: kind, names, and the first sentence of each entry's docstring."""
    for module in REGISTRY_MODULES:
        importlib.import_module(module)
    lines: list[str] = []
    for registry in sorted(Registry.instances, key=lambda registry: registry.kind):
        lines.append(f"{registry.kind}:")
        for name in registry.names():
            paragraph = (inspect.getdoc(registry.get(name)) or "").partition("\n\n")[0]
            summary = " ".join(paragraph.split()).partition(". ")[0]
            lines.append(f"  {name:<28} {summary}".rstrip())
    return "\n".join(lines) + "\n"


class _ListRegistered(argparse.Action):
    """--list: write the registered names and end, whatever else is given."""

    def __init__(
        self, option_strings: list[str], dest: str, help: str | None = None
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(registered_names())
        parser.exit()


def _overrides(arguments: argparse.Namespace) -> list[str]:
    overrides = list(arguments.overrides)
    if arguments.lr is not None:
        overrides.append(f"optimizer.args.lr={arguments.lr}")
    if arguments.bs is not None:
        overrides.append(f"data_loader.args.batch_size={arguments.bs}")
    return overrides


def _signatures(function: Callable[..., Any]) -> Iterator[list[inspect.Parameter]]:
    """The parameters of a function; of a class those of its own constructor, then of its parents', without self."""
    if not inspect.isclass(function):
        yield list(inspect.signature(function).parameters.values())
        return
    for cls in function.__mro__:
        if "__init__" in vars(cls) and cls is not object:
            yield list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]


PLAIN_TYPES = {"int": int, "float": float, "str": str, "bool": bool, "None": None}


def annotation_names(annotation: Any) -> set[str]:
    """Names of the types that an annotation allows: int | None gives {"int", "None"}."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = list(typing.get_args(annotation))
    else:
        members = str(getattr(annotation, "__name__", annotation)).split("|")
    names = {str(getattr(member, "__name__", member)).strip() for member in members}
    return {"None" if name == "NoneType" else name for name in names}


def _check_type(value: Any, annotation: Any, json_path: str) -> None:
    """Raise ConfigError for a value of another plain type, list or object; other annotations are not looked at."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{json_path}: {value!r} is given, a finite number is needed")
    if not _fits(value, annotation):
        raise ConfigError(
            f"{json_path}: {to_plain(value)!r} is given, {_describe_type(annotation)} is needed"
        )


def _fits(value: Any, annotation: Any) -> bool:
    """Whether `value` (from JSON) is of the type of `annotation`; types that JSON does not have allow any value."""
    if isinstance(annotation, str):
        names = annotation_names(annotation)
        return any(_fits(value, PLAIN_TYPES.get(name, Any)) for name in names)
    origin = typing.get_origin(annotation) or annotation
    members = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is float:
        return type(value) in (int, float)
    if origin in (int, str, bool, types.NoneType):
        return type(value) is origin
    if origin is None:
        return value is None
    if origin in (Sequence, list, tuple):
        element = members[0] if members else Any
        return isinstance(value, list | tuple) and all(
            _fits(item, element) for item in value
        )
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    return True


def _describe_type(annotation: Any) -> str:
    """What `annotation` asks for, in words: "a list of str or null"."""
    if isinstance(annotation, str):
        return annotation
    origin = typing.get_origin(annotation) or annotation
    members = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(sorted(_describe_type(member) for member in members))
    if origin in (Sequence, list, tuple):
        return f"a list of {_describe_type(members[0])}" if members else "a list"
    if origin in (Mapping, dict):
        return "an object {...}"
    if origin in (None, types.NoneType):
        return "null"
    return str(getattr(origin, "__name__", origin))


def _check_names(names: Iterable[str], known: Iterable[str], json_path: str) -> None:
    """Raise ConfigError for a key of the object `names` that is not among `known`."""
    if not isinstance(names, Mapping):
        raise ConfigError(
            f"{json_path}: an object {{...}} is needed, {to_plain(names)!r} is given"
        )
    known = list(known)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{_join(json_path, name)}: unknown key{_nearest(name, known)}; known: {_listed(known)}"
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    """ " (nearest: NAME)", or "" where no known name is similar."""
    lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(str(word).lower(), lower, 1, 0.5)
    if not matches:
        return ""
    return f" (nearest: {lower[matches[0]]})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _join(json_path: str, key: str | int) -> str:
    if not json_path:
        return str(key)
    return f"{json_path}.{key}"


def _freeze(value: Any, json_path: str) -> Any:
    if isinstance(value, Mapping):
        return Config(value, json_path)
    if isinstance(value, list | tuple):
        return tuple(_freeze(item, _join(json_path, i)) for i, item in enumerate(value))
    return value


def _read_with_bases(
    path: Path, including: tuple[Path, ...], other_bases: Sequence[str] = ()
) -> dict[str, Any]:
    """The JSON object of `path` merged over its bases.

    including: the files that name it as their base. other_bases: files that take the place of its own bases.
    """
    path = path.resolve()
    if path in including:
        raise ConfigError(f"{path}: is its own base")
    if not path.is_file():
        neighbours = [str(neighbour) for neighbour in path.parent.glob("*.json")]
        raise ConfigError(
            f"{path}: no such config file{_nearest(str(path), neighbours)}"
        )
    data = _read_json(path)
    bases = data.pop("base", ())
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list | tuple) or not all(
        isinstance(base, str) for base in bases
    ):
        raise ConfigError(
            f"{path}: base: {bases!r} is given, a file name or a list of them is needed"
        )
    base_paths = [path.parent / base for base in bases]
    if other_bases and not base_paths:
        raise ConfigError(f"{path}: names no base, so base= has nothing to replace")
    if other_bases:
        base_paths = [Path(base) for base in other_bases]
    merged: dict[str, Any] = {}
    for base_path in base_paths:
        merged = merge(merged, _read_with_bases(base_path, (*including, path)))
    return merge(merged, data)


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, which may hold // and /* */ comments; no key may stand twice."""
    doubled: list[str] = []

    def unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        doubled.extend(key for key in keys if keys.count(key) > 1)
        return dict(items)

    try:
        text = blank_comments(path.read_text(encoding="utf-8-sig"))
        data = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    if doubled:
        raise ConfigError(
            f"{path}: key {doubled[0]!r} stands twice in one object; remove one"
        )
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: an object {{...}} is needed at the top")
    return data


def blank_comments(text: str) -> str:
    """JSON text with // and /* */ comments as blanks, so that lines and columns stay; strings are untouched."""
    string_or_comment = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)

    def blank(match: re.Match[str]) -> str:
        if match[0].startswith('"'):
            return match[0]
        return re.sub(r"[^\n]", " ", match[0])

    return string_or_comment.sub(blank, text)


def _parse_value(text: str) -> Any:
    """The value of a command-line setting: JSON where it parses, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class _Override(NamedTuple):
    """A setting of the command line: its dotted key as given and divided at the dots, and its value."""

    dotted_key: str
    keys: list[str]
    value: Any

    def order(self) -> tuple[bool, bool]:
        """Sort key: those of one stage last; types first, because a changed type replaces its block."""
        return self.keys[0] == "stages", self.keys[-1] != "type"


def _parse_overrides(overrides: Iterable[str]) -> list[_Override]:
    """The settings of "key.path=value" in the order in which they are set. Raises ConfigError."""
    settings = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"command line: {override!r} is no setting; write key.path=value, as trainer.epochs=3"
            )
        settings.append(_Override(key, key.split("."), _parse_value(text)))
    return sorted(settings, key=_Override.order)


def _apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> None:
    """Set what "key.path=value" says, in the whole config and in every stage that has the section."""
    for key, keys, value in _parse_overrides(overrides):
        section = keys[0]
        stages = []
        if isinstance(data.get("stages"), list) and section not in OWN_OF_A_STAGE:
            stages = [
                stage for stage in data["stages"] if section in _object_or_empty(stage)
            ]
        for stage in stages:
            _set(stage, keys, value, key)
        if section in data or section == OF_THE_RUN or not stages:
            _set(data, keys, value, key)


def _check_section_types(data: Mapping[str, Any], json_path: str = "") -> None:
    """Raise ConfigError for a section of another type, a name that is no folder's, or two seeds."""
    for section, annotation in SECTION_TYPES.items():
        if section in data:
            _check_type(data[section], annotation, _join(json_path, section))
    for path in BLOCKS:
        _check_block_types(data, path, json_path)

    name = data.get("name")
    if name is not None and not _is_folder_name(name):
        raise ConfigError(
            f"{_join(json_path, 'name')}: {name!r} is given; it names the run's folder in trainer.save_dir, "
            "without .., and not as an absolute path"
        )
    own_seed = _object_or_empty(data.get("trainer")).get("seed")
    if "seed" in data and own_seed not in (None, data["seed"]):
        raise ConfigError(
            f"{_join(json_path, 'seed')}: {data['seed']} is given, and trainer.seed is {own_seed}; leave one out"
        )
    for number, stage in enumerate(data.get("stages") or ()):
        _check_section_types(stage, _join(json_path, f"stages.{number}"))


def _check_block_types(data: Mapping[str, Any], path: str, json_path: str) -> None:
    """Raise ConfigError for a value of another type in the {"type", "args"} at `path`, or in those of a list there."""
    *sections, name = path.split(".")
    for section in sections:
        data = _object_or_empty(data.get(section))
    value = data.get(name)
    path = _join(json_path, path)
    _check_type(value, Mapping | Sequence[Mapping] | None, path)
    blocks = {path: value}
    if isinstance(value, list | tuple):
        blocks = {_join(path, number): block for number, block in enumerate(value)}
    for block_path, block in blocks.items():
        _check_value_types(_object_or_empty(block), BLOCK_TYPES, block_path)
        args = _object_or_empty(_object_or_empty(block).get("args"))
        args_path = _join(block_path, "args")
        _check_value_types(args, BLOCK_ARGUMENT_TYPES, args_path)
        for encoder in ("video_params", "text_params"):
            params = _object_or_empty(args.get(encoder))
            params_path = _join(args_path, encoder)
            _check_value_types(params, ENCODER_ARGUMENT_TYPES, params_path)


def _check_value_types(
    values: Mapping[str, Any], annotations: Mapping[str, Any], json_path: str
) -> None:
    """Raise ConfigError for a value that is not of the type that `annotations` has for its key."""
    for key, annotation in annotations.items():
        if key in values:
            _check_type(values[key], annotation, _join(json_path, key))


def _object_or_empty(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _is_folder_name(name: str) -> bool:
    """Whether `name` is a relative path without "..", so that a run's folder stays below trainer.save_dir."""
    parts = name.split("/")
    return bool(name.strip()) and "\0" not in name and not {"", ".", ".."} & set(parts)


def _set(data: Any, keys: list[str], value: Any, setting: str) -> None:
    """Set data[k0][k1]... = value; a list without an index means each of its entries.

    A changed type empties its object: the arguments were the other type's. `setting` is the whole dotted key, for
    messages.
    """
    head, rest = keys[0], keys[1:]
    if isinstance(data, list) and head.isdigit():
        _set_list_entry(data, int(head), rest, value, setting)
    elif isinstance(data, list):
        for entry in data:
            _set(entry, keys, value, setting)
    elif not isinstance(data, dict):
        raise ConfigError(f"{setting}: {head!r} lies under a plain value, {data!r}")
    elif rest:
        _set(data.setdefault(head, {}), rest, value, setting)
    elif head == "type" and data.get("type", value) != value:
        data.clear()
        data["type"] = value
    else:
        data[head] = value


def _set_list_entry(
    data: list[Any], index: int, rest: list[str], value: Any, setting: str
) -> None:
    """`_set` of one entry of a list. Raises ConfigError if there is none of this index."""
    if index >= len(data):
        raise ConfigError(
            f"{setting}: the list has {len(data)} entries, counted from 0"
        )
    if rest:
        _set(data[index], rest, value, setting)
    else:
        data[index] = value


def _drop_legacy_keys(data: dict[str, Any]) -> None:
    """Remove the keys of LEGACY_KEYS, with one warning for each that was there."""
    for pattern, remedy in LEGACY_KEYS.items():
        keys = [key for key in pattern.split(".") if key != "*"]
        if _drop(data, keys):
            log.warning(
                "config: %s has no meaning here and is ignored; instead: %s",
                ".".join(keys),
                remedy,
            )


def _translate_mcq(data: dict[str, Any]) -> None:
    """Put what only MCQ's configs have into this project's words, with a warning for each."""
    trainer = _object_or_empty(data.get("trainer"))
    arch = _object_or_empty(data.get("arch"))
    is_mcq = "schedule" in trainer or arch.get("type") == "MCQ"
    if not is_mcq:
        return
    if arch.get("type") == "MCQ":
        data["arch"] = {**arch, "type": "MILES"}
        video_params = _object_or_empty(
            _object_or_empty(arch.get("args")).get("video_params")
        )
        if video_params.get("model") == "Video_Bridge_Former":
            video_params["model"] = "SpaceTimeTransformer"  # type: ignore[index]
        log.warning(
            "config: arch.type MCQ: its two encoders are built as MILES; BridgeFormer and its questions are not "
            "trained here"
        )
    if "schedule" in trainer:
        if "lr_scheduler" in data:
            raise ConfigError(
                "trainer.schedule: is MCQ's, and lr_scheduler is given too; leave one out"
            )
        milestones = data["trainer"].pop("schedule")
        data["lr_scheduler"] = {
            "type": "MultiStep",
            "args": {"milestones": milestones, "gamma": 0.1},
        }
        log.warning(
            "config: trainer.schedule is MCQ's and read as lr_scheduler MultiStep with milestones %s",
            milestones,
        )
    if "max_samples_per_epoch" in trainer:
        max_samples = data["trainer"].pop("max_samples_per_epoch")
        data["trainer"]["max_samples_per_process"] = max_samples
        log.warning(
            "config: trainer.max_samples_per_epoch of MCQ counts on each process: read as max_samples_per_process %s",
            max_samples,
        )


def _drop(data: Any, keys: list[str]) -> bool:
    """Remove data[k0][k1]..., in every entry of lists on the way; whether there was one."""
    if isinstance(data, list):
        dropped = [_drop(entry, keys) for entry in data]
        return any(dropped)
    if not isinstance(data, dict) or keys[0] not in data:
        return False
    if len(keys) > 1:
        return _drop(data[keys[0]], keys[1:])
    del data[keys[0]]
    return True


def _expand_variables(value: Any, json_path: str) -> Any:
    """`value` with ${VAR} and ${VAR:-default} replaced in every string but "about"."""
    if isinstance(value, dict):
        expanded = dict(value)
        for key, item in value.items():
            if key != "about":
                expanded[key] = _expand_variables(item, _join(json_path, key))
        return expanded
    if isinstance(value, list):
        return [
            _expand_variables(item, _join(json_path, i)) for i, item in enumerate(value)
        ]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name, default = match.groups()
        if os.environ.get(name, default) is None:
            raise ConfigError(
                f"{json_path}: the environment variable {name} is not set; export {name}=... first"
            )
        return os.environ.get(name) or default or ""

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", variable, value)
