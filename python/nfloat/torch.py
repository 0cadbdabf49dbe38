# SPDX-License-Identifier: Apache-2.0
"""nfloat for PyTorch on the CPU: tensors in, tensors out, sharing memory; a drop-in `Linear4bit` whose state_dict is that
of bitsandbytes, in both directions."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from . import _core
from ._checkpoint import Checkpoint
from ._codebook import CodebookLike
from ._control import thread_count
from ._errors import InvalidArgumentError, UnsupportedError
from ._linear import PackedMatrix
from ._quantize import QuantizedTensor, dequantize_into
from ._quantize import quantize_blockwise as _quantize
from ._types import DType, Path, Precision, ScaleMethod, instance, text_list

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def _name(dtype: torch.dtype) -> str:
    if dtype not in _NAMES:
        raise InvalidArgumentError(f"{dtype}: torch.float32, torch.float16 or torch.bfloat16")
    return _NAMES[dtype]


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    instance(tensor, torch.Tensor, "a tensor")
    if tensor.device.type != "cpu":
        raise UnsupportedError(f"a tensor on {tensor.device}: nfloat works on the CPU; bitsandbytes loads the state dict there")
    return tensor.detach().contiguous()


def _bits(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The memory of a contiguous tensor of the CPU as numpy has it; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return cast("npt.NDArray[Any]", tensor.view(torch.int16).numpy().view(np.uint16))
    return cast("npt.NDArray[Any]", tensor.numpy())


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    """The reverse, sharing memory. torch has no read-only tensors: those of mapped files are copied."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def quantize_blockwise(
    weights: torch.Tensor,
    codebook: CodebookLike = "nf4",
    *,
    block_size: int = 64,
    scale: ScaleMethod = "absmax",
    double_quantization: bool = False,
    allow_nonfinite: bool = False,
    threads: int = 0,
) -> QuantizedTensor:
    """`nfloat.quantize_blockwise` of a tensor (float32, float16, bfloat16), which may require a gradient."""
    given = _on_cpu(weights)
    said: DType | None = "bfloat16" if given.dtype == torch.bfloat16 else None
    return _quantize(
        _bits(given), codebook, block_size=block_size, scale=scale, double_quantization=double_quantization,
        allow_nonfinite=allow_nonfinite, dtype=said, threads=threads,
    )  # fmt: skip


def dequantize_blockwise(
    tensor: QuantizedTensor, dtype: torch.dtype | None = None, *, out: torch.Tensor | None = None, threads: int = 0
) -> torch.Tensor:
    """level * scale in float32, rounded once to `dtype` (None: the type of the weights, or of `out`)."""
    instance(tensor, QuantizedTensor, "tensor")
    if out is not None:
        instance(out, torch.Tensor, "out")
    if out is None:
        out = torch.empty(tensor.shape, dtype=_TYPES[tensor.dtype] if dtype is None else dtype)
    elif dtype is not None and out.dtype != dtype:
        raise InvalidArgumentError(f"out is {out.dtype}, not {dtype}")
    elif out.shape != tensor.shape:
        raise InvalidArgumentError(f"out has the shape {list(out.shape)}, not {list(tensor.shape)}")
    elif not out.is_contiguous():
        raise InvalidArgumentError("out is not contiguous")
    dequantize_into(tensor, _name(out.dtype), _bits(out.detach()), threads)
    return out


def to_state_dict(tensor: QuantizedTensor, name: str = "weight") -> dict[str, torch.Tensor]:
    """`QuantizedTensor.to_state_dict` in torch tensors, copies."""
    state = instance(tensor, QuantizedTensor, "tensor").to_state_dict(name)
    return {key: torch.from_numpy(values.copy()) for key, values in state.items()}


def from_state_dict(state: Mapping[str, torch.Tensor], name: str = "weight") -> QuantizedTensor:
    """`QuantizedTensor.from_state_dict` of what bitsandbytes or `to_state_dict` stored, sharing memory."""
    parts = {
        key: _bits(_on_cpu(value)) if instance(value, torch.Tensor, f"'{key}'").dtype in (torch.uint8, torch.float32)
        else _bits(_on_cpu(value)).view(np.uint8)
        for key, value in instance(state, Mapping, "state").items()
        if key == name or key.startswith(name + ".")
    }
    return QuantizedTensor.from_state_dict(parts, name)


def linear(
    x: torch.Tensor,
    matrix: PackedMatrix,
    bias: torch.Tensor | None = None,
    *,
    precision: Precision = "bf16",
    threads: int = 0,
) -> torch.Tensor:
    """y[..., out] = x[..., in] times the matrix transposed (+ bias), in x's type. Differentiable in x and bias."""
    instance(x, torch.Tensor, "x")
    instance(matrix, PackedMatrix, "matrix")
    if bias is not None:
        instance(bias, torch.Tensor, "bias")
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return cast(torch.Tensor, _Product.apply(x, matrix, bias, precision, threads))
    return _product(x, matrix, bias, precision, threads)


def _rows(x: torch.Tensor) -> tuple[npt.NDArray[Any], str | None]:
    given = _on_cpu(x)
    return _bits(given), "bfloat16" if given.dtype == torch.bfloat16 else None


def _product(
    x: torch.Tensor, matrix: PackedMatrix, bias: torch.Tensor | None, precision: Precision, threads: int
) -> torch.Tensor:
    bits, said = _rows(x)
    y = torch.empty((*x.shape[:-1], matrix._rows), dtype=x.dtype)
    floats = None if bias is None else _bits(_on_cpu(bias).to(torch.float32))
    _core.linear(matrix._handle, bits, said, floats, precision, _name(x.dtype), _bits(y), thread_count(threads))
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, matrix: PackedMatrix, bias: torch.Tensor | None, precision: Precision, threads: int
    ) -> torch.Tensor:
        ctx.matrix, ctx.precision, ctx.threads = matrix, precision, threads
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _product(x, matrix, bias, precision, threads)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        dx = dbias = None
        if ctx.needs_input_grad[0]:
            bits, said = _rows(dy)
            dx = torch.empty((*dy.shape[:-1], ctx.matrix._cols), dtype=dy.dtype)
            _core.linear_transposed(
                ctx.matrix._handle, bits, said, ctx.precision, _name(dy.dtype), _bits(dx), thread_count(ctx.threads)
            )
        if ctx.needs_input_grad[2]:
            dbias = dy.reshape(-1, dy.shape[-1]).sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return dx, None, dbias, None, None


class Linear4bit(torch.nn.Module):
    """A linear layer whose weight is in 4 bits: bitsandbytes' class of that name on the CPU.

    The positional arguments, `weight` ([ceil(out * in / 2), 1], uint8, no gradient) and the keys, order and bytes of
    `state_dict()` are those of bitsandbytes. `load_state_dict` takes its own output, that of bitsandbytes, and a plain
    `weight` [out, in], which is quantized. Different: `quant_type` is "nf4" unless said, weights are quantized at once,
    and block size and scales can be chosen. Autograd reaches the input and the bias, never the weight; no copy of the
    weight in float is made in either direction. `compute_dtype`: what x is rounded to before the product; None: x's own.

    `keep_codes=False` keeps the packed matrix alone, half the memory: `weight` is then empty, and `state_dict()` unpacks
    it. `.to("cuda")` raises UnsupportedError: the state dict loads in bitsandbytes there. FSDP, torch.compile and the
    attributes of PEFT's Params4bit are not provided.
    """

    in_features: int
    out_features: int
    weight: torch.nn.Parameter
    bias: torch.nn.Parameter | None
    compute_dtype: torch.dtype | None
    precision: Precision

    def __init__(
        self,
        input_features: int,
        output_features: int,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        compress_statistics: bool = True,
        quant_type: str = "nf4",
        quant_storage: torch.dtype = torch.uint8,
        device: torch.device | str | None = None,
        *,
        block_size: int = 64,
        scale: ScaleMethod = "absmax",
        precision: Precision = "bf16",
        keep_codes: bool = True,
        threads: int = 0,
    ) -> None:
        super().__init__()
        if quant_storage != torch.uint8:
            raise UnsupportedError(f"quant_storage {quant_storage}: torch.uint8")
        if device is not None and torch.device(device).type not in ("cpu", "meta"):
            raise UnsupportedError(f"device {device}: nfloat works on the CPU")
        plain = torch.nn.Linear(input_features, output_features, bias)
        self._begin(plain.in_features, plain.out_features, precision, keep_codes, threads)
        self.compute_dtype = compute_dtype
        self._quantize_options(quant_type, compress_statistics, block_size, scale)
        if bias:
            self.bias = plain.bias
        self._set(self._quantized_from(plain.weight))

    def _begin(self, input_features: int, output_features: int, precision: Precision, keep_codes: bool, threads: int) -> None:
        self.in_features, self.out_features = input_features, output_features
        self.precision, self.keep_codes, self.threads = precision, keep_codes, threads
        self.compute_dtype = None
        # In the order of bitsandbytes' state dict.
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self._matrix: PackedMatrix | None = None
        self._packed_of: tuple[torch.Tensor, torch.Tensor, int] | None = None  # weight, its memory, its version
        self._state: QuantizedTensor | None = None

    def _quantize_options(self, quant_type: str, double: bool, block_size: int, scale: ScaleMethod) -> None:
        self.quant_type, self.compress_statistics = quant_type, double
        self.block_size, self.scale = block_size, scale

    def _quantized_from(self, weight: torch.Tensor) -> QuantizedTensor:
        return quantize_blockwise(
            weight, self.quant_type, block_size=self.block_size, scale=self.scale,
            double_quantization=self.compress_statistics, threads=self.threads,
        )  # fmt: skip

    def _set(self, tensor: QuantizedTensor) -> None:
        """Takes a quantized weight. The codes become the parameter; the tensor keeps its scales."""
        if tensor.shape != (self.out_features, self.in_features):
            raise InvalidArgumentError(
                f"a weight of shape {list(tensor.shape)}, [{self.out_features}, {self.in_features}] expected"
            )
        self.quant_type, self.block_size = tensor.codebook.name, tensor.block_size
        self.compress_statistics = tensor.double_quantized
        self._matrix, self._packed_of = None, None
        arguments = list(tensor.__reduce__()[1])
        codes = torch.empty((0, 1), dtype=torch.uint8)
        if self.keep_codes:
            codes = _tensor(arguments[4].reshape(-1, 1))
        else:
            self._matrix = PackedMatrix.pack(tensor, threads=self.threads)
        arguments[4] = np.empty(0, np.uint8)
        self._state = QuantizedTensor(*arguments)
        self.weight = torch.nn.Parameter(codes, requires_grad=False)

    @classmethod
    def _empty(cls, out: int, inside: int, precision: Precision, keep_codes: bool, threads: int) -> Linear4bit:
        layer = cls.__new__(cls)
        torch.nn.Module.__init__(layer)
        layer._begin(inside, out, precision, keep_codes, threads)
        return layer

    @classmethod
    def from_linear(
        cls,
        linear: torch.nn.Linear,
        *,
        quant_type: str = "nf4",
        compress_statistics: bool = True,
        block_size: int = 64,
        scale: ScaleMethod = "absmax",
        precision: Precision = "bf16",
        keep_codes: bool = True,
        threads: int = 0,
    ) -> Linear4bit:
        """Of a plain layer, sharing nothing with it. The bias keeps its type."""
        instance(linear, torch.nn.Linear, "linear")
        layer = cls._empty(linear.out_features, linear.in_features, precision, keep_codes, threads)
        layer._quantize_options(quant_type, compress_statistics, block_size, scale)
        if linear.bias is not None:
            layer.bias = torch.nn.Parameter(linear.bias.detach().clone(), linear.bias.requires_grad)
        layer._set(layer._quantized_from(linear.weight))
        return layer.train(linear.training)

    @classmethod
    def from_quantized(
        cls,
        tensor: QuantizedTensor,
        bias: torch.Tensor | None = None,
        *,
        precision: Precision = "bf16",
        keep_codes: bool = True,
        threads: int = 0,
    ) -> Linear4bit:
        """Of a 4-bit weight of shape [out, in], as `Checkpoint.quantized` gives one."""
        if len(instance(tensor, QuantizedTensor, "tensor").shape) != 2:
            raise InvalidArgumentError(f"a weight has the shape [out, in], not {list(tensor.shape)}")
        layer = cls._empty(tensor.shape[0], tensor.shape[1], precision, keep_codes, threads)
        layer._quantize_options(tensor.codebook.name, tensor.double_quantized, tensor.block_size, "absmax")
        if bias is not None:
            instance(bias, torch.Tensor, "bias")
            layer.bias = torch.nn.Parameter(bias.detach().clone())
        layer._set(tensor)
        return layer

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight; its codes share memory with `weight`."""
        state = self._state
        assert state is not None
        arguments = list(state.__reduce__()[1])
        if self.keep_codes:
            arguments[4] = _bits(_on_cpu(self.weight)).view(np.uint8).reshape(-1)
        else:
            assert self._matrix is not None
            arguments[4] = self._matrix.unpack()
        return QuantizedTensor(*arguments)

    @property
    def matrix(self) -> PackedMatrix:
        """The weight as the kernels want it: packed at first use, and again when `weight` was replaced or written."""
        if not self.keep_codes:
            assert self._matrix is not None
            return self._matrix
        # Objects that are kept cannot come again as others at the same address.
        weight, of = self.weight, self._packed_of
        same = of is not None and of[0] is weight and of[1].data_ptr() == weight.data_ptr() and of[2] == weight._version
        if self._matrix is None or not same:
            version = weight._version
            self._matrix = PackedMatrix.pack(self.quantized, threads=self.threads)
            self._packed_of = (weight, weight.detach(), version)
        return self._matrix

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The weight [out, in]; None: the type that it was made from."""
        return dequantize_blockwise(self.quantized, dtype, threads=self.threads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """y[..., out] of x[..., in], in x's type."""
        given = instance(x, torch.Tensor, "x").dtype
        if self.compute_dtype is not None and given != self.compute_dtype:
            x = x.to(self.compute_dtype)
        y = linear(x, self.matrix, self.bias, precision=self.precision, threads=self.threads)
        return y if y.dtype == given else y.to(given)

    def extra_repr(self) -> str:
        """For print."""
        double = ", 8-bit scales" if self.compress_statistics else ""
        bias = self.bias is not None
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}, "
            f"{self.quant_type}, blocks of {self.block_size}{double}, {self.precision}"
        )

    def _apply(self, fn: Any) -> Linear4bit:
        refused = "nfloat works on the CPU: its state dict loads in bitsandbytes on other devices"
        try:
            probe = fn(torch.empty(0, dtype=torch.uint8))
        except (AssertionError, RuntimeError) as error:
            raise UnsupportedError(refused) from error
        if probe.device.type != "cpu":
            raise UnsupportedError(refused)
        return cast("Linear4bit", super()._apply(fn))  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        stored = to_state_dict(self.quantized, "weight")
        for key, value in stored.items():
            if key != "weight":
                destination[prefix + key] = value
            elif not self.keep_codes:
                destination[prefix + key] = value

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = prefix + "weight"
        own = [key for key in state_dict if key == name or key.startswith(name + ".")]
        if name not in state_dict:
            if strict:
                missing_keys.append(name)
        else:
            try:
                weight = state_dict[name]
                if len(own) == 1 and weight.dtype in _NAMES:
                    self._set(self._quantized_from(weight))
                else:
                    self._set(_own(from_state_dict({key: state_dict[key] for key in own}, name)))
            except Exception as error:
                error_msgs.append(f"{name}: {error}")
        bias = prefix + "bias"
        if self.bias is not None:
            if bias not in state_dict:
                if strict:
                    missing_keys.append(bias)
            elif state_dict[bias].shape != self.bias.shape:
                error_msgs.append(f"{bias}: shape {list(state_dict[bias].shape)}, {list(self.bias.shape)} expected")
            else:
                with torch.no_grad():
                    self.bias.copy_(state_dict[bias])
        elif bias in state_dict and strict:
            unexpected_keys.append(bias)
        if strict:
            unexpected_keys += [
                key for key in state_dict if key.startswith(prefix) and key[len(prefix) :].split(".")[0] not in ("weight", "bias")
            ]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.update(_matrix=None, _packed_of=None, _state=self.quantized)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        tensor = self._state
        assert tensor is not None
        self._set(tensor)


def _own(tensor: QuantizedTensor) -> QuantizedTensor:
    """With memory of its own."""
    import copy

    return copy.deepcopy(tensor)


def replace_linear(
    model: torch.nn.Module,
    *,
    skip: Sequence[str] = ("lm_head",),
    quant_type: str = "nf4",
    compress_statistics: bool = True,
    block_size: int = 64,
    scale: ScaleMethod = "absmax",
    precision: Precision = "bf16",
    keep_codes: bool = True,
    threads: int = 0,
) -> list[str]:
    """Swaps every torch.nn.Linear of a model whose qualified name does not end in one of `skip` for a `Linear4bit`,
    sharing nothing with the old layers; returns their names. One layer used in two places stays one."""
    made: dict[int, Linear4bit] = {}
    names: list[str] = []
    endings = text_list(skip, "skip")
    for parent_name, parent in list(instance(model, torch.nn.Module, "model").named_modules(remove_duplicate=False)):
        # named_children() leaves out the second place of a shared layer.
        for child_name, child in list(parent._modules.items()):
            name = f"{parent_name}.{child_name}" if parent_name else child_name
            if type(child) is not torch.nn.Linear or any(name == s or name.endswith("." + s) for s in endings):
                continue
            if id(child) not in made:
                made[id(child)] = Linear4bit.from_linear(
                    child, quant_type=quant_type, compress_statistics=compress_statistics, block_size=block_size,
                    scale=scale, precision=precision, keep_codes=keep_codes, threads=threads,
                )  # fmt: skip
            setattr(parent, child_name, made[id(child)])
            names.append(name)
    return names


def load_checkpoint(model: torch.nn.Module, path: Path, *, strict: bool = True) -> Any:
    """Fills a torch model, with `Linear4bit` layers or without, from a plain or 4-bit checkpoint, read from the mapped
    file. Returns what `load_state_dict` returns; raises as it does."""
    instance(model, torch.nn.Module, "model")
    checkpoint = Checkpoint(path)
    state: dict[str, torch.Tensor] = {}
    for name, info in checkpoint.items():
        values = np.array(checkpoint.tensor(name))
        if info.dtype == "BF16":
            state[name] = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        else:
            state[name] = torch.from_numpy(values)
    return model.load_state_dict(state, strict=strict)
