"""What a checkpoint's pickle may call: our own functions, for tensors (within bounds), numpy and plain data."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.weights.safe_unpickler import Inert, Named, Rebuilt, UnsafeCheckpoint, describe, inert

STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
TYPES = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


class NumpyType(Rebuilt):
    """numpy.dtype of numbers or text."""

    def __init__(self, spec: str, *_: Any):
        if not isinstance(spec, str) or not re.fullmatch(r"[<>=|]?[biufcSUV?][0-9]*", spec):
            raise UnsafeCheckpoint(f"make a numpy value of type {spec!r}")
        self.type = np.dtype(spec)

    def build(self, state: tuple):
        self.type = self.type.newbyteorder(state[1])

    def to_dict(self) -> str:
        return self.type.str


class NumpyArray(Rebuilt):
    """numpy.ndarray, filled by its state."""

    def __init__(self, *_: Any):
        self.array = np.zeros(0)

    def build(self, state: tuple):
        _, shape, kind, fortran, raw = state
        self.array = np.frombuffer(_raw(raw), kind.type).reshape(
            shape, order="F" if fortran else "C"
        )

    def to_dict(self) -> Tensor | list:
        """A tensor, or a list of what torch has no type for."""
        array = self.array.astype(self.array.dtype.newbyteorder("="))
        return torch.from_numpy(array) if array.dtype.kind in "biufc" else array.tolist()


def storage_type(name: Named) -> torch.dtype:
    """torch.FloatStorage -> torch.float32."""
    match = re.fullmatch(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage", name.name)
    if not match or match[1] not in STORAGES:
        raise UnsafeCheckpoint(f"read a storage of type {name.name}")
    return STORAGES[match[1]]


def _tensor(flat: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return flat.as_strided(size, stride, offset)


def _tensor_of_type(
    flat: Tensor,
    offset: int,
    size: tuple,
    stride: tuple,
    grad: bool,
    hooks: Any,
    kind: Named,
    *_: Any,
) -> Tensor:
    if not isinstance(kind, Named) or kind.name not in TYPES:
        raise UnsafeCheckpoint(f"make a tensor of type {describe(kind)}")
    return flat.view(torch.uint8).view(TYPES[kind.name]).as_strided(size, stride, offset)


def _of_subclass(function: Named, cls: Any, args: tuple, state: Any = None) -> Tensor:
    if not isinstance(function, Named) or function.name not in TENSOR_CALLS:
        raise UnsafeCheckpoint(f"call {describe(function)}")
    return TENSOR_CALLS[function.name](*args)


def _scalar(kind: NumpyType, raw: bytes | str = b"") -> Any:
    return np.frombuffer(_raw(raw), kind.type)[0].item()


def _from_buffer(raw: bytes, kind: NumpyType, shape: tuple, order: str) -> NumpyArray:
    made = NumpyArray()
    made.build((1, shape, kind, order == "F", raw))
    return made


def _raw(raw: bytes | str) -> bytes:
    return raw if isinstance(raw, bytes) else raw.encode("latin1")


def _bytes(text: bytes | str = b"", coding: str = "latin1") -> bytes:
    if coding not in ("latin1", "latin-1") or not isinstance(text, bytes | str):
        raise UnsafeCheckpoint(f"convert {describe(text)} by {describe(coding)}")
    return _raw(text)


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _inert(name: str) -> Callable[..., Inert]:
    return lambda *args: Inert(Named(*name.rsplit(".", 1)), args)


TENSOR_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type": _of_subclass,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
}
CALLS: dict[str, Callable[..., Any]] = {
    **TENSOR_CALLS,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "numpy.dtype": NumpyType,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core.multiarray", "_core.multiarray", "core.numeric", "_core.numeric")
        for name, function in (
            ("scalar", _scalar),
            ("_reconstruct", NumpyArray),
            ("_frombuffer", _from_buffer),
        )
    },
    "_codecs.encode": _bytes,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.set": lambda items=(): set(items),
    "builtins.frozenset": lambda items=(): frozenset(items),
    "builtins.complex": lambda *parts: complex(*parts),
    "collections.OrderedDict": lambda items=(): dict(items),
    "collections.Counter": lambda items=(): dict(items),
    "collections.defaultdict": lambda *factory: {},
    "collections.deque": lambda items=(), *_: list(items),
    "copyreg._reconstructor": lambda cls, base, state: inert(cls),
    **{
        f"pathlib.{kind}": _path
        for kind in (
            "Path",
            "PosixPath",
            "PurePath",
            "PurePosixPath",
            "PureWindowsPath",
            "WindowsPath",
        )
    },
    **{
        name: _inert(name)
        for name in (
            "argparse.Namespace",
            "datetime.date",
            "datetime.datetime",
            "datetime.timedelta",
            "functools.partial",
            "logging.getLogger",
            "types.SimpleNamespace",
        )
    },
}
