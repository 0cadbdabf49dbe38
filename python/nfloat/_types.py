# SPDX-License-Identifier: Apache-2.0
"""Types of arguments, and how arrays come in and go out."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol, TypeVar, Union, cast

import numpy as np
import numpy.typing as npt

from ._errors import InvalidArgumentError


class SupportsDLPack(Protocol):
    """An array of another library, such as a torch tensor."""

    def __dlpack__(self, *, stream: None = ...) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


Array = Union[npt.NDArray[Any], SupportsDLPack, bytes, bytearray, memoryview]
Path = Union[str, "os.PathLike[str]"]
Tokens = Union[Sequence[int], npt.NDArray[np.integer[Any]]]
DType = Literal["float32", "float16", "bfloat16", "f32", "f16", "bf16"]
ScaleMethod = Literal["absmax", "search", "signed"]
Precision = Literal["f32", "bf16", "int8"]
KvCacheType = Literal["auto", "f32", "f16", "int8"]
HeadFormat = Literal["keep", "int8", "nf4"]
PerplexityProtocol = Literal["paper", "llama.cpp", "bos"]
FinishReason = Literal["end", "stop", "length", "context"]
Message = Mapping[str, Any]

_LONG = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# bf16 has no type in numpy: its bits come as uint16.
_NUMPY: dict[str, type[np.generic]] = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8,
    "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8, "bool": np.bool_,
}  # fmt: skip


# numpy spells out a name at every look at it: the types that weights have are looked up.
_KNOWN: dict[Any, str] = {np.dtype(kind): kind for kind in ("float32", "float16", "float64", "uint16", "uint8", "int32")}


class Record:
    """A result of named fields, a dataclass."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON and pandas."""
        return asdict(cast(Any, self))


def array_type(values: npt.NDArray[Any]) -> str:
    """The name of an array's type."""
    return _KNOWN.get(values.dtype) or values.dtype.name


def dtype_name(dtype: str) -> str:
    """The long name of one of the three types of weights; others as they are."""
    return _LONG.get(instance(dtype, str, "dtype"), dtype)


def numpy_type(dtype: str) -> type[np.generic]:
    """What numpy holds elements of this type in; uint8 for types that it does not have."""
    return _NUMPY.get(dtype, np.uint8)


def array_in(values: Any, dtype: str | None = None) -> tuple[Any, str | None]:
    """An object that the core reads without a copy where its memory is contiguous, and the dtype to be said with it."""
    if isinstance(values, np.ndarray):
        if array_type(values) == "bfloat16":
            values, dtype = values.view(np.uint16), "bfloat16"
        flags = values.flags
        if not (flags.c_contiguous and flags.aligned):
            values = np.array(values, order="C")
        return values, dtype
    if isinstance(values, (list, tuple)):
        raise TypeError("a list is no array: numpy.asarray(values, dtype=numpy.float32) makes one")
    contiguous = getattr(values, "is_contiguous", None)
    if contiguous is not None and not contiguous():
        values = values.contiguous()
    elif isinstance(values, memoryview):
        try:
            if not values.c_contiguous:
                values = np.ascontiguousarray(values)
        except ValueError as error:  # it was released
            raise InvalidArgumentError(str(error)) from None
    return values, dtype


def array_of(memory: Any, dtype: type[np.generic], shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
    """An array over memory of the core, which it keeps alive; a copy only where the elements are not aligned."""
    result = np.frombuffer(memory, dtype=dtype)
    if not result.flags.aligned:
        result = result.copy()
        result.flags.writeable = False
    return result if shape is None else result.reshape(shape)


def frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that cannot be written through."""
    view = values.view()
    view.flags.writeable = False
    return view


_T = TypeVar("_T")


def instance(value: _T, kind: type[Any], name: str) -> _T:
    """The value of an argument that must be of one of the package's classes, or TypeError."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}, {kind.__name__} is needed")
    return cast(_T, value)


def float_array(values: Any, dtype: type[np.generic], name: str, rank: int | None = None) -> npt.NDArray[Any]:
    """Real numbers as a contiguous array of `dtype`; TypeError for what is none, strings and None included."""
    given = _numbers(values, name)
    if given.size and given.dtype.kind not in "fiu":
        raise TypeError(f"{name}: an array of real numbers is needed, not of {given.dtype}")
    if rank is not None and given.ndim != rank:
        raise InvalidArgumentError(f"{name} has {given.ndim} dimensions, {rank} expected")
    return np.asarray(given, dtype, order="C")


def token_array(tokens: Tokens) -> npt.NDArray[np.int32]:
    """Token ids as contiguous int32; ids that do not fit are refused."""
    given = _numbers(tokens, "tokens")
    if given.ndim == 1 and given.size == 0:
        return np.empty(0, np.int32)
    if given.dtype == object and all(isinstance(token, int) for token in given.reshape(-1)):
        raise InvalidArgumentError("a token does not fit into 32 bits")
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise TypeError("tokens are a sequence of integers")
    if given.dtype.itemsize >= 4 and given.dtype != np.int32 and (given.min() < -(2**31) or given.max() >= 2**31):
        raise InvalidArgumentError("a token does not fit into 32 bits")
    return np.ascontiguousarray(given, np.int32)


def _numbers(values: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidArgumentError(f"{name}: {error}") from None


def path_text(path: Path) -> str:
    """A path as the core takes it."""
    text = os.fspath(path)
    if "\0" in os.fsdecode(text):
        raise InvalidArgumentError(f"a path holds no null character: {text!r}")
    return text


def text_list(values: Iterable[str], name: str) -> list[str]:
    """Texts as the core takes them; one text alone is refused, as its letters would be meant."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name} is a sequence of texts: [{values!r}]")
    return sequence(values, name)


def sequence(values: Iterable[_T], name: str) -> list[_T]:
    """The items of an argument that holds several; memory is none of these."""
    if isinstance(values, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"{name} is a sequence, not {type(values).__name__}")
    return list(values)


def truth(value: object, name: str) -> bool:
    """True or False of an argument, or TypeError for an array."""
    try:
        return bool(value)
    except ValueError:
        raise TypeError(f"{name} is True or False, not an array") from None
