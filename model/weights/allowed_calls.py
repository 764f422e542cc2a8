"""What a checkpoint's pickle may call: our own functions, for tensors (within bounds), numpy and plain data."""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from model.weights.safe_unpickler import (
    Inert,
    Named,
    Rebuilt,
    UnsafeCheckpoint,
    describe,
    inert,
)

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
DTYPES = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}
NUMPY_CORES = ("core.multiarray", "_core.multiarray", "core.numeric", "_core.numeric")
PATH_CLASSES = (
    "Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath",
)  # fmt: skip
INERT_CALLS = (
    "argparse.Namespace",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "functools.partial",
    "logging.getLogger",
    "types.SimpleNamespace",
)


class NumpyType(Rebuilt):
    """numpy.dtype of numbers or text."""

    def __init__(self, spec: str, *_: Any) -> None:
        if not isinstance(spec, str) or not re.fullmatch(
            r"[<>=|]?[biufcSUV?][0-9]*", spec
        ):
            raise UnsafeCheckpoint(f"make a numpy value of type {spec!r}")
        self.type = np.dtype(spec)

    def build(self, state: tuple) -> None:
        self.type = self.type.newbyteorder(state[1])

    def to_plain(self) -> str:
        return self.type.str


class NumpyArray(Rebuilt):
    """numpy.ndarray, filled by its state."""

    def __init__(self, *_: Any) -> None:
        self.array = np.zeros(0)

    def build(self, state: tuple) -> None:
        _, shape, numpy_type, is_fortran, raw = state
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        self.array = np.frombuffer(_raw(raw), numpy_type.type).reshape(
            shape, order=order
        )

    def to_plain(self) -> Tensor | list:
        """A tensor, or a list of what torch has no type for."""
        array = self.array.astype(self.array.dtype.newbyteorder("="))
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array)
        return array.tolist()


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
    dtype: Named,
    *_: Any,
) -> Tensor:
    if not isinstance(dtype, Named) or dtype.name not in DTYPES:
        raise UnsafeCheckpoint(f"make a tensor of type {describe(dtype)}")
    return (
        flat.view(torch.uint8).view(DTYPES[dtype.name]).as_strided(size, stride, offset)
    )


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _of_subclass(function: Named, cls: Any, args: tuple, state: Any = None) -> Tensor:
    if not isinstance(function, Named) or function.name not in TENSOR_CALLS:
        raise UnsafeCheckpoint(f"call {describe(function)}")
    return TENSOR_CALLS[function.name](*args)


def _scalar(numpy_type: NumpyType, raw: bytes | str = b"") -> Any:
    return np.frombuffer(_raw(raw), numpy_type.type)[0].item()


def _from_buffer(
    raw: bytes, numpy_type: NumpyType, shape: tuple, order: str
) -> NumpyArray:
    array = NumpyArray()
    array.build((1, shape, numpy_type, order == "F", raw))
    return array


def _raw(raw: bytes | str) -> bytes:
    return raw if isinstance(raw, bytes) else raw.encode("latin1")


def _bytes(text: bytes | str = b"", coding: str = "latin1") -> bytes:
    if coding not in ("latin1", "latin-1") or not isinstance(text, bytes | str):
        raise UnsafeCheckpoint(f"convert {describe(text)} by {describe(coding)}")
    return _raw(text)


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _device(*parts: Any) -> str:
    return ":".join(map(str, parts))


def _tuple(items: Iterable = ()) -> tuple:
    return tuple(items)


def _dict(items: Any = ()) -> dict:
    return dict(items)


def _default_dict(*factory: Any) -> dict:
    return {}


def _set(items: Iterable = ()) -> set:
    return set(items)


def _frozenset(items: Iterable = ()) -> frozenset:
    return frozenset(items)


def _complex(*parts: Any) -> complex:
    return complex(*parts)


def _list(items: Iterable = (), *_: Any) -> list:
    return list(items)


def _reconstructor(cls: Named, base: Any, state: Any) -> Inert:
    return inert(cls)


def _inert_call(name: str) -> Callable[..., Inert]:
    """A function that makes an inert object of the class `name`."""
    module, _, class_name = name.rpartition(".")

    def make(*args: Any) -> Inert:
        return Inert(Named(module, class_name), args)

    return make


TENSOR_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type": _of_subclass,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
}
CALLS: dict[str, Callable[..., Any]] = {
    **TENSOR_CALLS,
    "torch.Size": _tuple,
    "torch.device": _device,
    "numpy.dtype": NumpyType,
    **{f"numpy.{core}.scalar": _scalar for core in NUMPY_CORES},
    **{f"numpy.{core}._reconstruct": NumpyArray for core in NUMPY_CORES},
    **{f"numpy.{core}._frombuffer": _from_buffer for core in NUMPY_CORES},
    "_codecs.encode": _bytes,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "builtins.complex": _complex,
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": _default_dict,
    "collections.deque": _list,
    "copyreg._reconstructor": _reconstructor,
    **{f"pathlib.{name}": _path for name in PATH_CLASSES},
    **{name: _inert_call(name) for name in INERT_CALLS},
}
