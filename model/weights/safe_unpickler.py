"""Pickles of strangers, read without running them.

A pickle is a small program: it names classes and functions, and calls them. Here a name is only ever a `Named` (nothing
is imported), an object of an unknown class an `Inert` that keeps its state, and a call is looked up in `calls`, a table
of our own functions; any other call refuses the file. The opcodes that call, build or set state are all replaced, so
that no real callable is within a file's reach.
"""

import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from parse_config import ConfigError

# Standard-library modules whose objects may stand in a checkpoint (as inert ones).
HARMLESS = {
    "argparse",
    "collections",
    "copyreg",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "logging",
    "pathlib",
    "types",
    "uuid",
}


class UnsafeCheckpoint(ConfigError):
    """A file that would call something other than what rebuilds tensors and plain data."""


class Named:
    """A class or function that the file names; never imported, never called."""

    __slots__ = ("name",)

    def __init__(self, module: str, name: str):
        self.name = f"{'pathlib' if module == 'pathlib._local' else module}.{name}"  # Python 3.13's


class Inert:
    """An object of a class that is not ours to build: what the file knows of it, and no behaviour."""

    __slots__ = ("cls", "args", "state", "items")

    def __init__(self, cls: Named, args: tuple = ()):
        self.cls, self.args, self.state, self.items = cls.name, args, None, []

    def append(self, item: Any):
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any):
        self.items.append((key, value))

    def to_dict(self) -> dict[str, Any]:
        """{"class", "args", its attributes}: for `plain`, still to be made plain inside."""
        state = (
            self.state
            if isinstance(self.state, Mapping)
            else {}
            if self.state is None
            else {"state": self.state}
        )
        more = {key: value for key, value in (("args", self.args), ("items", self.items)) if value}
        return {"class": self.cls} | more | dict(state)


class Rebuilt:
    """Base of values that one of our calls makes and that the file fills afterwards: `build(state)`, `plain()`."""


class SafeUnpickler(pickle._Unpickler):
    """Reads one pickle from `file`. `calls`: name -> our function for each call that a file may make; `storage`: our
    function for persistent ids."""

    def __init__(
        self, file: BinaryIO, calls: Mapping[str, Callable], storage: Callable[[Any], Any]
    ):
        super().__init__(file, encoding="latin1")
        self.calls, self.persistent_load = calls, storage

    def find_class(self, module: str, name: str) -> Named:
        if self.proto < 3:  # such files say Python 2's names
            module, name = NAME_MAPPING.get(
                (module, name), (IMPORT_MAPPING.get(module, module), name)
            )
        return Named(module, name)

    def load_reduce(self):
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self):
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args)

    def load_newobj_ex(self):
        self.stack.pop()  # keyword arguments of a __new__ that is never called
        self.load_newobj()

    def load_obj(self):
        cls, *args = self.pop_mark()
        self.append(self._new(cls, tuple(args)))

    def load_inst(self):
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(self._new(self.find_class(module, name), tuple(self.pop_mark())))

    def load_build(self):
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = (
                state[0] if isinstance(state, tuple) and len(state) == 2 and state[0] else state
            )
        elif isinstance(target, Rebuilt):
            target.build(state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict: nothing needs them
            raise UnsafeCheckpoint(f"set the state of {describe(target)}")

    def load_extension(self):
        raise UnsafeCheckpoint("use the copyreg extension registry")

    def _call(self, function: Any, args: tuple) -> Any:
        if (
            not isinstance(function, Named)
            or function.name not in self.calls
            or not isinstance(args, tuple)
        ):
            raise UnsafeCheckpoint(f"call {describe(function)}")
        return self.calls[function.name](*args)

    def _new(self, cls: Any, args: tuple) -> Any:
        if not isinstance(cls, Named):
            raise UnsafeCheckpoint(f"create an object of {describe(cls)}")
        if cls.name in self.calls:
            return self._call(cls, args)
        return inert(cls, *args)

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.OBJ[0]: load_obj,
        pickle.INST[0]: load_inst,
        pickle.BUILD[0]: load_build,
        pickle.EXT1[0]: load_extension,
        pickle.EXT2[0]: load_extension,
        pickle.EXT4[0]: load_extension,
    }


def inert(cls: Named, *args: Any) -> Inert:
    """An inert object; refused for a class of the standard library that has no business in a checkpoint."""
    if not isinstance(cls, Named):
        raise UnsafeCheckpoint(f"create an object of {describe(cls)}")
    root = cls.name.split(".")[0]
    if root in sys.stdlib_module_names and root not in HARMLESS:
        raise UnsafeCheckpoint(f"create an object of {cls.name}")
    return Inert(cls, args)


def describe(thing: Any) -> str:
    """What a refusal calls it."""
    return (
        thing.name
        if isinstance(thing, Named)
        else f"an object of {thing.cls}"
        if isinstance(thing, Inert)
        else f"a {type(thing).__name__}"
    )


def plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """What was unpickled -> dicts, lists, tuples, sets, scalars and tensors; shared and cyclic parts stay shared."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)][0]
    if isinstance(value, Inert | dict):
        made: Any = {}
        done[id(value)] = made, value  # the original is kept alive: its id must not be given again
        made.update(
            (_key(key), plain(item, done))
            for key, item in (value.to_dict() if isinstance(value, Inert) else value).items()
        )
    elif isinstance(value, list):
        done[id(value)] = made, _ = [], value
        made.extend(plain(item, done) for item in value)
    elif isinstance(value, tuple):
        made = tuple(plain(item, done) for item in value)
    elif isinstance(value, set | frozenset):
        made = {_key(item) for item in value}
    else:
        made = (
            value.name
            if isinstance(value, Named)
            else value.to_dict()
            if isinstance(value, Rebuilt)
            else value
        )
    return made


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_key(item) for item in key)
    return key if isinstance(key, str | int | float | bool | bytes | None) else describe(key)
