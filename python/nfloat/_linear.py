# SPDX-License-Identifier: Apache-2.0
"""Products with packed 4-bit matrices."""
from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._control import thread_count
from ._errors import InvalidArgumentError
from ._quantize import QuantizedTensor
from ._types import Array, DType, Precision, array_in, dtype_name, instance, numpy_type


class PackedMatrix:
    """A 4-bit matrix [out, in], laid out for the kernels. Immutable: any number of threads may use one. Scales stay as
    they were, in 8 bits when double-quantized.

    >>> import numpy as np, nfloat
    >>> matrix = PackedMatrix.pack(nfloat.quantize_blockwise(np.eye(64, dtype=np.float32)))
    >>> matrix.shape, matrix.dequantize_row(3)[3]
    ((64, 64), 1.0)
    """

    __slots__ = ("_handle", "_rows", "_cols", "_bytes", "__weakref__")

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._rows, self._cols, self._bytes = _core.matrix_shape(handle)

    @classmethod
    def pack(cls, tensor: QuantizedTensor, *, threads: int = 0) -> PackedMatrix:
        """A copy of a tensor of shape [out, in]. Raises InvalidArgumentError for other ranks."""
        if len(instance(tensor, QuantizedTensor, "tensor").shape) != 2:
            raise InvalidArgumentError(f"a matrix has the shape [out, in], not {list(tensor.shape)}")
        nested = tensor._nested
        return cls(
            _core.pack(
                tensor._codes,
                tensor._codebook.levels,
                tensor.shape[0],
                tensor.shape[1],
                tensor.block_size,
                tensor._scales,
                None if nested is None else nested.codes,
                None if nested is None else nested.absmax,
                None if nested is None else tensor._nested_map(),
                0.0 if nested is None else nested.offset,
                tensor._nested_block,
                thread_count(threads),
            )
        )

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in]."""
        return (self._rows, self._cols)

    @property
    def nbytes(self) -> int:
        """Of memory held: codes, scales and tables."""
        return int(self._bytes)

    def dequantize_row(self, row: int) -> npt.NDArray[np.float32]:
        """One row as level * scale in float32."""
        output = np.empty(self._cols, np.float32)
        _core.dequantize_row(self._handle, row, output)
        return output

    def unpack(self) -> npt.NDArray[np.uint8]:
        """The codes in the order of the tensor that was packed: packing loses nothing."""
        output = np.empty((self._rows * self._cols + 1) // 2, np.uint8)
        _core.unpack(self._handle, output)
        return output

    def __repr__(self) -> str:
        return f"<nfloat.PackedMatrix [{self._rows}, {self._cols}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a PackedMatrix is laid out for this processor: pickle the QuantizedTensor")


def _result(leading: tuple[int, ...], width: int, dtype: DType | None, out: Array | None) -> tuple[Any, str]:
    name = "float32" if dtype is None else dtype_name(dtype)
    if out is None:
        return np.empty((*leading, width), numpy_type(name)), name
    kind, shape = _core.describe_array(out, None)
    if dtype is None:
        name = str(kind)
    elif kind != name and (kind, name) != ("uint16", "bfloat16"):
        raise InvalidArgumentError(f"out is {kind}, not {name}")
    if shape != (*leading, width):
        raise InvalidArgumentError(f"out has the shape {list(shape)}, not {[*leading, width]}")
    return out, name


def linear(
    matrix: PackedMatrix,
    x: Array,
    bias: npt.NDArray[np.float32] | None = None,
    *,
    precision: Precision = "bf16",
    dtype: DType | None = None,
    out: Array | None = None,
    threads: int = 0,
) -> npt.NDArray[Any]:
    """y[..., out] = x[..., in] times the matrix transposed (+ bias, one float32 a row of the matrix).

    x: float32, float16 or bfloat16 (torch, ml_dtypes); contiguous float32 is not copied. y: float32, or `dtype`, rounded
    once; bfloat16 as uint16. `precision`: what the factors are rounded to, "f32", "bf16" (0.4 % relative error) or
    "int8" (1 %, twice as fast where there is no bf16 multiplier). The result does not depend on the number of threads.

    >>> import numpy as np, nfloat
    >>> matrix = PackedMatrix.pack(nfloat.quantize_blockwise(np.eye(64, dtype=np.float32)))
    >>> linear(matrix, np.arange(64, dtype=np.float32))[:4].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    instance(matrix, PackedMatrix, "matrix")
    given, said = array_in(x)
    shape = given.shape if isinstance(given, np.ndarray) else _core.describe_array(given, said)[1]
    y, name = _result(tuple(shape[:-1]), matrix._rows, dtype, out)
    if bias is not None:
        bias, _ = array_in(bias)
    _core.linear(matrix._handle, given, said, bias, precision, name, y, thread_count(threads))
    return cast("npt.NDArray[Any]", y)


def linear_transposed(
    matrix: PackedMatrix,
    x: Array,
    *,
    precision: Precision = "bf16",
    dtype: DType | None = None,
    out: Array | None = None,
    threads: int = 0,
) -> npt.NDArray[Any]:
    """y[..., in] = x[..., out] times the matrix: the gradient of `linear` with respect to its x. Nothing of the
    matrix's size is made. `precision`: "f32" for float32 factors, else they are rounded to bf16 where there are
    more than four rows.

    >>> import numpy as np, nfloat
    >>> matrix = PackedMatrix.pack(nfloat.quantize_blockwise(np.eye(64, dtype=np.float32)))
    >>> linear_transposed(matrix, np.ones((2, 64), np.float32)).sum()
    128.0
    """
    instance(matrix, PackedMatrix, "matrix")
    given, said = array_in(x)
    shape = given.shape if isinstance(given, np.ndarray) else _core.describe_array(given, said)[1]
    y, name = _result(tuple(shape[:-1]), matrix._cols, dtype, out)
    _core.linear_transposed(matrix._handle, given, said, precision, name, y, thread_count(threads))
    return cast("npt.NDArray[Any]", y)
