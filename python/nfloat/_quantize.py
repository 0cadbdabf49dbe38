# SPDX-License-Identifier: Apache-2.0
"""Blockwise 4-bit quantization in the bitsandbytes layout."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._codebook import Codebook, CodebookLike, codebook_from_levels, codebook_of, dynamic_codebook, make_codebook
from ._control import thread_count
from ._errors import InvalidArgumentError, MalformedFileError, NotFiniteError, UnsupportedError
from ._types import Array, DType, ScaleMethod, array_in, array_type, dtype_name, float_array, frozen, instance, numpy_type, truth

WeightType = Literal["float32", "float16", "bfloat16"]
_NESTED_BLOCK = 256


@dataclass(frozen=True)
class NestedScales:
    """Scales in 8 bits: scale[i] = map[codes[i]] * absmax[i // 256] + offset in float32, map being
    `dynamic_codebook().levels`."""

    codes: npt.NDArray[np.uint8]
    absmax: npt.NDArray[np.float32]
    offset: float


def _blocks(elements: int, block_size: int) -> int:
    return -(-elements // block_size)


class QuantizedTensor:
    """Codes, scales and what is needed to turn them back, in the bitsandbytes layout: element 2i in the high nibble of
    `codes[i]`, runs of `block_size` elements cross rows. Arrays are views, read-only. Can be pickled and copied.

    >>> import numpy as np
    >>> tensor = quantize_blockwise(np.linspace(-1, 1, 128, dtype=np.float32))
    >>> tensor.codes.shape, tensor.scales.tolist(), tensor.bits_per_weight
    ((64,), [1.0, 1.0], 4.5)
    """

    __slots__ = ("_codebook", "_dtype", "_shape", "_block", "_codes", "_scales", "_nested", "_map", "_nested_block", "__weakref__")

    def __init__(
        self,
        codebook: Codebook,
        dtype: str,
        shape: tuple[int, ...],
        block_size: int,
        codes: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.float32] | None,
        nested: NestedScales | None = None,
        nested_map: npt.NDArray[np.float32] | None = None,
        nested_block_size: int = _NESTED_BLOCK,
    ) -> None:
        self._codebook = codebook
        self._dtype = dtype_name(dtype)
        self._shape = tuple(shape)
        self._block = block_size
        self._codes = codes
        self._scales = scales
        self._nested = nested
        self._map = nested_map
        self._nested_block = nested_block_size

    @property
    def codebook(self) -> Codebook:
        """The table of levels."""
        return self._codebook

    @property
    def dtype(self) -> WeightType:
        """Of the weights that it was made from."""
        return cast(WeightType, self._dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights."""
        return self._shape

    @property
    def block_size(self) -> int:
        """Elements that share a scale."""
        return self._block

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """(elements + 1) // 2 bytes."""
        return frozen(self._codes)

    @property
    def scales(self) -> npt.NDArray[np.float32] | None:
        """One float32 a block; None when double-quantized."""
        return None if self._scales is None else frozen(self._scales)

    @property
    def nested(self) -> NestedScales | None:
        """The scales in 8 bits, when double-quantized."""
        if self._nested is None:
            return None
        return NestedScales(frozen(self._nested.codes), frozen(self._nested.absmax), self._nested.offset)

    @property
    def double_quantized(self) -> bool:
        """Whether the scales are in 8 bits."""
        return self._nested is not None

    @property
    def elements(self) -> int:
        """Weights."""
        return prod(self._shape)

    @property
    def blocks(self) -> int:
        """Scales."""
        return _blocks(self.elements, self._block)

    @property
    def nbytes(self) -> int:
        """Of codes and scales, without the tables."""
        if self._nested is not None:
            return self._codes.nbytes + self._nested.codes.nbytes + self._nested.absmax.nbytes
        return self._codes.nbytes + (0 if self._scales is None else self._scales.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Of codes and scales, without the tables."""
        return 8 * self.nbytes / self.elements if self.elements else 0.0

    def _scale_floats(self) -> npt.NDArray[np.float32]:
        if self._nested is None:
            if self._scales is None:
                raise InvalidArgumentError("the tensor has neither scales nor nested scales")
            return self._scales
        output = np.empty(len(self._nested.codes), np.float32)
        _core.dequantize_scales(
            self._nested.codes, self._nested_map(), self._nested.absmax, self._nested.offset, self._nested_block, output
        )
        return output

    def _nested_map(self) -> npt.NDArray[np.float32]:
        return dynamic_codebook().levels if self._map is None else self._map

    def to_state_dict(self, name: str = "weight") -> dict[str, npt.NDArray[Any]]:
        """The tensors that bitsandbytes stores for a weight of this name, byte for byte and in its order: `name`
        ([bytes, 1], uint8), `.absmax`, `.quant_map`, `.nested_absmax`, `.nested_quant_map`, `.quant_state...`.
        Arrays share memory with this tensor. Raises UnsupportedError for codes that bitsandbytes does not have."""
        instance(name, str, "name")
        kind = self._codebook.name
        if kind not in ("nf4", "fp4"):
            raise UnsupportedError(f"bitsandbytes has no code '{kind}': nf4 and fp4")
        nested = self._nested
        state: dict[str, npt.NDArray[Any]] = {name: self.codes.reshape(-1, 1)}
        if nested is None:
            state[f"{name}.absmax"] = frozen(self._scale_floats())
        else:
            state[f"{name}.absmax"] = frozen(nested.codes)
        state[f"{name}.quant_map"] = self._codebook.levels
        if nested is not None:
            state[f"{name}.nested_absmax"] = frozen(nested.absmax)
            state[f"{name}.nested_quant_map"] = self._nested_map()
        text = _core.format_quant_state(
            kind,
            self._block,
            self._dtype,
            self._shape,
            nested is not None,
            self._nested_block,
            0.0 if nested is None else nested.offset,
        )
        state[f"{name}.quant_state.bitsandbytes__{kind}"] = np.frombuffer(text.encode(), np.uint8)
        return state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Array], name: str = "weight") -> QuantizedTensor:
        """The reverse: takes what bitsandbytes stores, sharing memory. Raises MalformedFileError naming the key that
        is missing or contradicts the others."""
        prefix = f"{instance(name, str, 'name')}.quant_state.bitsandbytes__"
        keys = [key for key in instance(state, Mapping, "state") if str(key).startswith(prefix)]
        if len(keys) != 1:
            raise MalformedFileError(f"'{prefix}...': {len(keys)} keys of this kind, one expected")
        text = _bytes_of(state, keys[0]).tobytes()
        kind, block, dtype, shape, is_nested, nested_block, offset = _core.parse_quant_state(text, keys[0])
        elements = prod(shape)
        blocks = _blocks(elements, block)
        codes = _bytes_of(state, name)
        _expect(name, len(codes), (elements + 1) // 2)
        levels = _floats_of(state, f"{name}.quant_map")
        _expect(f"{name}.quant_map", len(levels), 16)
        book = _codebook_of(kind, levels)
        if not is_nested:
            scales = _floats_of(state, f"{name}.absmax")
            _expect(f"{name}.absmax", len(scales), blocks)
            return cls(book, dtype, shape, block, codes, scales)
        scale_codes = _bytes_of(state, f"{name}.absmax")
        _expect(f"{name}.absmax", len(scale_codes), blocks)
        absmax = _floats_of(state, f"{name}.nested_absmax")
        _expect(f"{name}.nested_absmax", len(absmax), _blocks(blocks, nested_block))
        table = _floats_of(state, f"{name}.nested_quant_map")
        _expect(f"{name}.nested_quant_map", len(table), 256)
        return cls(book, dtype, shape, block, codes, None, NestedScales(scale_codes, absmax, offset), table, nested_block)

    def __reduce__(self) -> tuple[Any, ...]:
        return QuantizedTensor, (
            self._codebook,
            self._dtype,
            self._shape,
            self._block,
            self._codes,
            self._scales,
            self._nested,
            self._map,
            self._nested_block,
        )

    def __repr__(self) -> str:
        scales = "8-bit scales" if self.double_quantized else "float32 scales"
        return f"<nfloat.QuantizedTensor {self._codebook.name} {list(self._shape)}, blocks of {self._block}, {scales}>"


def _array_of(state: Mapping[str, Array], key: str) -> tuple[Any, str | None]:
    if key not in state:
        raise MalformedFileError(f"'{key}' is missing")
    return array_in(state[key])


def _numpy_of(values: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The memory of an array as numpy has it, shared."""
    if isinstance(values, np.ndarray):
        return values.reshape(-1).view(dtype)
    return np.frombuffer(_core.array_memory(values), dtype)


def _bytes_of(state: Mapping[str, Array], key: str) -> npt.NDArray[np.uint8]:
    values, _ = _array_of(state, key)
    return _numpy_of(values, np.uint8)


def _floats_of(state: Mapping[str, Array], key: str) -> npt.NDArray[np.float32]:
    values, said = _array_of(state, key)
    dtype, _ = _core.describe_array(values, said)
    if dtype != "float32":
        raise MalformedFileError(f"'{key}' is {dtype}, float32 expected")
    floats = _numpy_of(values, np.float32)
    finite = np.isfinite(floats)
    if not finite.all():
        raise MalformedFileError(f"'{key}' is NaN or infinite at index {int(np.argmin(finite))}")
    return floats


def _expect(key: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise MalformedFileError(f"'{key}' has {found} elements, {wanted} expected")


def _codebook_of(kind: str, levels: npt.NDArray[np.float32]) -> Codebook:
    known = make_codebook(kind)
    return known if np.array_equal(known.levels, levels) else codebook_from_levels(kind, levels)


def _empty(shape: tuple[int, ...], dtype: str, book: Codebook, block_size: int, double: bool) -> QuantizedTensor:
    elements = prod(shape)
    if block_size < 16:
        raise InvalidArgumentError(f"block_size is {block_size}: at least 16")
    blocks = _blocks(elements, block_size)
    codes = np.empty((elements + 1) // 2, np.uint8)
    if not double:
        return QuantizedTensor(book, dtype, shape, block_size, codes, np.empty(blocks, np.float32))
    nested = NestedScales(np.empty(blocks, np.uint8), np.empty(_blocks(blocks, _NESTED_BLOCK), np.float32), 0.0)
    return QuantizedTensor(book, dtype, shape, block_size, codes, None, nested)


def quantize_blockwise(
    weights: Array,
    codebook: CodebookLike = "nf4",
    *,
    block_size: int = 64,
    scale: ScaleMethod = "absmax",
    double_quantization: bool = False,
    allow_nonfinite: bool = False,
    dtype: DType | None = None,
    threads: int = 0,
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Quantizes weights of any shape (float32, float16, bfloat16) with a code of at most 16 levels.

    `weights`: anything with the buffer protocol or DLPack on the CPU; contiguous memory is not copied. bfloat16 comes
    from torch or ml_dtypes, or as uint16 with `dtype="bfloat16"`. `scale`: "absmax" gives bitsandbytes' bytes,
    "search" and "signed" the scales of least squared error. `double_quantization`: scales in 8 bits. `out`: a tensor of
    the same shape, block size and kind, whose memory is written instead of new one; a call that fails may have written
    part of it. Raises NotFiniteError naming the first bad index unless `allow_nonfinite`, InvalidArgumentError, TypeError.

    >>> import numpy as np
    >>> tensor = quantize_blockwise(np.ones((2, 64), np.float32), "nf4", double_quantization=True)
    >>> tensor
    <nfloat.QuantizedTensor nf4 [2, 64], blocks of 64, 8-bit scales>
    """
    given, said = array_in(weights, None if dtype is None else dtype_name(dtype))
    book = codebook_of(codebook, block_size)
    double_quantization = truth(double_quantization, "double_quantization")
    if isinstance(given, np.ndarray) and said is None:
        # numpy knows: no second look at the memory.
        kind, shape = array_type(given), given.shape
    else:
        kind, shape = _core.describe_array(given, said)
    if out is None:
        out = _empty(shape, kind, book, block_size, double_quantization)
    else:
        instance(out, QuantizedTensor, "out")
        same = out._shape == shape and out._block == block_size and out.double_quantized == double_quantization
        if not same:
            raise InvalidArgumentError(f"out is {out!r}: another shape, block size or kind of scales than the result")
    nested = out._nested
    offset = _core.quantize(
        given,
        said,
        book._handle,
        block_size,
        scale,
        double_quantization,
        allow_nonfinite,
        thread_count(threads),
        out._codes,
        out._scales,
        None if nested is None else nested.codes,
        None if nested is None else nested.absmax,
    )
    out._codebook, out._dtype = book, kind
    if nested is not None:
        # A tensor that came from elsewhere may have had another table of scales.
        out._map, out._nested_block = None, _NESTED_BLOCK
        out._nested = NestedScales(nested.codes, nested.absmax, offset)
    return out


def dequantize_into(tensor: QuantizedTensor, dtype: str, output: Any, threads: int) -> None:
    """Values of `dtype` into memory of the caller's."""
    _core.dequantize(
        tensor._codes,
        tensor._codebook.levels,
        tensor._block,
        tensor.elements,
        tensor._scale_floats(),
        dtype,
        output,
        thread_count(threads),
    )


def dequantize_blockwise(
    tensor: QuantizedTensor, dtype: DType | None = None, *, out: Array | None = None, threads: int = 0
) -> npt.NDArray[Any]:
    """level * scale in float32, rounded once to `dtype` (None: the type of the weights). bfloat16 comes as uint16, the
    bits of its values. `out`: a contiguous, writable array of that type and shape, which is returned.

    >>> import numpy as np
    >>> dequantize_blockwise(quantize_blockwise(np.float32([0, 0.5, 1, -1]))).tolist()
    [0.0, 0.44070982933044434, 1.0, -1.0]
    """
    instance(tensor, QuantizedTensor, "tensor")
    name = tensor.dtype if dtype is None else dtype_name(dtype)
    if out is not None:
        memory: Any = out
        if isinstance(memory, np.ndarray) and array_type(memory) == "bfloat16":
            memory = memory.view(np.uint16)
        kind, shape = _core.describe_array(memory, None)
        if (kind, shape) != (name, tensor.shape) and (kind, name, shape) != ("uint16", "bfloat16", tensor.shape):
            raise InvalidArgumentError(f"out is {kind} of shape {list(shape)}, not {name} of shape {list(tensor.shape)}")
        dequantize_into(tensor, name, memory, threads)
        return cast("npt.NDArray[Any]", out)
    result = np.empty(tensor.shape, numpy_type(name))
    dequantize_into(tensor, name, result, threads)
    return result


def quantize_scales(scales: npt.NDArray[np.float32], *, threads: int = 0) -> NestedScales:
    """Scales in 8 bits, bitsandbytes' second level: blocks of 256, offset by their mean. Raises NotFiniteError."""
    given = float_array(scales, np.float32, "scales").reshape(-1)
    finite = np.isfinite(given)
    if not finite.all():
        raise NotFiniteError(f"the scale at index {int(np.argmin(finite))} is NaN or infinite")
    codes = np.empty(given.size, np.uint8)
    absmax = np.empty(_blocks(given.size, _NESTED_BLOCK), np.float32)
    offset = _core.quantize_scales(given, codes, absmax, thread_count(threads))
    return NestedScales(codes, absmax, offset)


def dequantize_scales(nested: NestedScales) -> npt.NDArray[np.float32]:
    """The scales in float32 again."""
    output = np.empty(len(instance(nested, NestedScales, "nested").codes), np.float32)
    levels = dynamic_codebook().levels
    _core.dequantize_scales(nested.codes, levels, nested.absmax, nested.offset, _NESTED_BLOCK, output)
    return output


def convert_elements(values: Array, dtype: DType, *, source_dtype: DType | None = None) -> npt.NDArray[Any]:
    """Between float64, float32, float16 and bfloat16 (as uint16), rounding to nearest even.

    >>> import numpy as np
    >>> bits = convert_elements(np.float32([1.0, -2.5]), "bfloat16")
    >>> [hex(b) for b in bits]
    ['0x3f80', '0xc020']
    >>> convert_elements(bits, "float32", source_dtype="bfloat16").tolist()
    [1.0, -2.5]
    """
    given, said = array_in(values, None if source_dtype is None else dtype_name(source_dtype))
    _, shape = _core.describe_array(given, said)
    output = np.empty(shape, numpy_type(dtype_name(dtype)))
    _core.convert_elements(given, said, dtype_name(dtype), output)
    return output
