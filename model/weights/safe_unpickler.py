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
from typing import IO, Any, ClassVar

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

    def __init__(self, module: str, name: str) -> None:
        self.name = f"{'pathlib' if module == 'pathlib._local' else module}.{name}"  # Python 3.13's


class Inert:
    """An object of a class that is not ours to build: what the file knows of it, and no behaviour."""

    __slots__ = ("args", "class_name", "items", "state")

    def __init__(self, cls: Named, args: tuple = ()) -> None:
        self.class_name = cls.name
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []

    def append(self, item: Any) -> None:
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def to_dict(self) -> dict[Any, Any]:
        """{"class", "args", "items", its attributes}: for `plain`, still to be made plain inside."""
        content: dict[Any, Any] = {"class": self.class_name}
        if self.args:
            content["args"] = self.args
        if self.items:
            content["items"] = self.items
        if isinstance(self.state, Mapping):
            content.update(self.state)
        elif self.state is not None:
            content["state"] = self.state
        return content


class Rebuilt:
    """Base of values that one of our calls makes and that the file fills afterwards."""

    def build(self, state: Any) -> None:
        """Fill the value with the state that the file holds of it."""
        raise NotImplementedError

    def to_plain(self) -> Any:
        """The value as a tensor or plain data."""
        raise NotImplementedError


class SafeUnpickler(pickle._Unpickler):
    """Reads one pickle from `file`. `calls`: name -> our function for each call that a file may make; `load_storage`:
    our function for persistent ids."""

    stack: list[Any]  # of the base class, which types do not know
    proto: int
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]

    def __init__(
        self,
        file: IO[bytes],
        calls: Mapping[str, Callable],
        load_storage: Callable[[Any], Any],
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.calls = calls
        self.load_storage = load_storage

    def persistent_load(self, pid: Any) -> Any:
        return self.load_storage(pid)

    def find_class(self, module: str, name: str) -> Named:
        if self.proto < 3:  # such files say Python 2's names
            renamed_module = IMPORT_MAPPING.get(module, module)
            module, name = NAME_MAPPING.get((module, name), (renamed_module, name))
        return Named(module, name)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments of a __new__ that is never called
        self.load_newobj()

    def load_obj(self) -> None:
        cls, *args = self.pop_mark()
        self.append(self._new(cls, tuple(args)))

    def load_inst(self) -> None:
        module = self.readline()[:-1].decode("ascii")
        name = self.readline()[:-1].decode("ascii")
        self.append(self._new(self.find_class(module, name), tuple(self.pop_mark())))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            # (attributes, slots) of an object that has both
            is_pair = isinstance(state, tuple) and len(state) == 2
            target.state = state[0] if is_pair and state[0] else state
        elif isinstance(target, Rebuilt):
            target.build(state)
        elif not isinstance(
            target, dict
        ):  # attributes of an OrderedDict: nothing needs them
            raise UnsafeCheckpoint(f"set the state of {describe(target)}")

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        _check_key(key)
        self.stack[-1][key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            self.stack[-1][key] = value

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            self.stack[-1][key] = value

    def load_additems(self) -> None:
        for item in self.pop_mark():
            _check_key(item)
            self.stack[-1].add(item)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        for item in items:
            _check_key(item)
        self.append(frozenset(items))

    def load_bytearray8(self) -> None:
        raise UnsafeCheckpoint("make a buffer of any size")

    def load_extension(self) -> None:
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

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.OBJ[0]: load_obj,
        pickle.INST[0]: load_inst,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.EXT1[0]: load_extension,
        pickle.EXT2[0]: load_extension,
        pickle.EXT4[0]: load_extension,
    }


def _check_key(key: Any) -> None:
    """Refuse a key of tuples in tuples: its hash may take a time that doubles with each level."""
    if isinstance(key, tuple) and any(
        isinstance(item, tuple | frozenset) for item in key
    ):
        raise UnsafeCheckpoint("use tuples of tuples as keys")


def inert(cls: Named, *args: Any) -> Inert:
    """An inert object; refused for a class of the standard library that has no business in a checkpoint."""
    if not isinstance(cls, Named):
        raise UnsafeCheckpoint(f"create an object of {describe(cls)}")
    root = cls.name.split(".")[0]
    if root in sys.stdlib_module_names and root not in HARMLESS:
        raise UnsafeCheckpoint(f"create an object of {cls.name}")
    return Inert(cls, args)


def describe(value: Any) -> str:
    """What a refusal calls the value."""
    if isinstance(value, Named):
        return value.name
    if isinstance(value, Inert):
        return f"an object of {value.class_name}"
    return f"a {type(value).__name__}"


def plain(value: Any) -> Any:
    """What was unpickled -> dicts, lists, tuples, sets, scalars and tensors; shared and cyclic parts stay shared."""
    return _plain(value, {})


def _plain(value: Any, converted: dict[int, tuple[Any, Any]]) -> Any:
    """`converted`: id -> (plain value, original); the original is kept alive, so that its id is not given again."""
    if id(value) in converted:
        return converted[id(value)][0]
    if isinstance(value, Inert | dict):
        plain_dict: dict[Any, Any] = {}
        converted[id(value)] = (plain_dict, value)
        content = value.to_dict() if isinstance(value, Inert) else value
        for key, item in content.items():
            plain_dict[_key(key)] = _plain(item, converted)
        return plain_dict
    if isinstance(value, list):
        plain_list: list[Any] = []
        converted[id(value)] = (plain_list, value)
        for item in value:
            plain_list.append(_plain(item, converted))
        return plain_list
    if isinstance(value, tuple):
        plain_tuple = tuple(_plain(item, converted) for item in value)
        converted[id(value)] = (plain_tuple, value)
        return plain_tuple
    if isinstance(value, set | frozenset):
        return {_key(item) for item in value}
    if isinstance(value, Named):
        return value.name
    if isinstance(value, Rebuilt):
        return value.to_plain()
    return value


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_key(item) for item in key)
    return (
        key
        if isinstance(key, str | int | float | bool | bytes | None)
        else describe(key)
    )
