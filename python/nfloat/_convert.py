# SPDX-License-Identifier: Apache-2.0
"""Whole checkpoints: quantize, dequantize, convert, check, compare. Memory does not grow with the model; outputs appear
whole or not at all."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10
from operator import index
from typing import Any, Literal, Union

from . import _core
from ._checkpoint import Checkpoint, checkpoint_of
from ._control import Control, ProgressFunction, control_handle, progress_function, thread_count
from ._types import DType, Path, Record, ScaleMethod, dtype_name, instance, path_text, text_list

Format = Literal["nf4", "fp4"]
Storage = Literal["uint8", "bfloat16", "float16", "float32"]
CheckpointLike = Union[Checkpoint, Path]


@dataclass(frozen=True)
class TensorPlan(Record):
    """What happens to one tensor, and why."""

    name: str
    quantize: bool
    reason: str  # why it stays unchanged
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class QuantizationPlan(Record):
    """What `quantize_checkpoint` would do."""

    tensors: list[TensorPlan]
    bytes_before: int
    bytes_after: int
    parameters: int
    quantized_parameters: int

    def records(self) -> list[dict[str, Any]]:
        """One row a tensor, for pandas.DataFrame."""
        return [tensor.to_dict() for tensor in self.tensors]


@dataclass(frozen=True)
class ConvertResult(Record):
    """What a conversion wrote."""

    files: list[str]
    seconds: float
    sync_seconds: float  # until the data was on the disk; not in `seconds`
    bytes_before: int
    bytes_after: int
    plan: QuantizationPlan | None  # of quantize_checkpoint and dequantize_checkpoint
    notes: list[str]  # what the output cannot represent, besides precision


@dataclass(frozen=True)
class Finding:
    """A fault of a checkpoint (`error`), or a warning about it."""

    error: bool
    tensor: str
    text: str


@dataclass(frozen=True)
class TensorError(Record):
    """The error of a weight against its original."""

    name: str
    elements: int
    squared_error: float  # sum
    squared_original: float  # sum
    max_error: float
    sqnr_db: float  # infinite when equal


def _plan(data: dict[str, Any]) -> QuantizationPlan:
    data["tensors"] = [TensorPlan(**tensor) for tensor in data["tensors"]]
    return QuantizationPlan(**data)


def _result(text: str) -> ConvertResult:
    data: dict[str, Any] = json.loads(text)
    plan = data.pop("plan", None)
    data.pop("tensors", None)
    return ConvertResult(**data, plan=None if plan is None else _plan(plan))


def _last(overwrite: bool, threads: int, progress: ProgressFunction | None, control: Control | None) -> tuple[Any, ...]:
    return overwrite, thread_count(threads), progress_function(progress, "bytes"), control_handle(control, "bytes")


def plan_quantization(
    input: CheckpointLike,
    *,
    format: Format = "nf4",
    block_size: int = 64,
    scale: ScaleMethod = "absmax",
    double_quantization: bool = False,
    storage: Storage = "uint8",
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    quantize_experts: bool = False,
    shard_bytes: int = 5_000_000_000,
) -> QuantizationPlan:
    """Which tensors `quantize_checkpoint` would quantize, with the bytes before and after. Nothing is written."""
    text = _core.plan_quantization(
        checkpoint_of(input)._handle, format, block_size, scale, double_quantization, storage,
        text_list(skip, "skip"), text_list(only, "only"), quantize_experts, False, shard_bytes,
    )  # fmt: skip
    return _plan(json.loads(text))


def quantize_checkpoint(
    input: CheckpointLike,
    output: Path,
    *,
    format: Format = "nf4",
    block_size: int = 64,
    scale: ScaleMethod = "absmax",
    double_quantization: bool = False,
    storage: Storage = "uint8",
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    quantize_experts: bool = False,
    allow_nonfinite: bool = False,
    shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    threads: int = 0,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> ConvertResult:
    """Writes a checkpoint that Transformers loads with bitsandbytes: the linear layers in 4 bits, all else as it is.

    `skip`, `only`: regular expressions searched in tensor names. `progress` is called in the caller's thread, with
    bytes; its exceptions and Ctrl-C end the work, and no output is left. Raises AlreadyExistsError unless `overwrite`,
    NotFiniteError naming tensor and index, UnsupportedError for what is quantized already, IoError, CancelledError.
    """
    text = _core.quantize_checkpoint(
        checkpoint_of(input)._handle, path_text(output), format, block_size, scale, double_quantization, storage,
        text_list(skip, "skip"), text_list(only, "only"), quantize_experts, allow_nonfinite, shard_bytes,
        *_last(overwrite, threads, progress, control),
    )  # fmt: skip
    return _result(text)


def dequantize_checkpoint(
    input: CheckpointLike,
    output: Path,
    dtype: DType = "bfloat16",
    *,
    shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    threads: int = 0,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> ConvertResult:
    """The reverse: 4-bit weights become plain ones of `dtype`. Raises as `quantize_checkpoint` does."""
    text = _core.dequantize_checkpoint(
        checkpoint_of(input)._handle, path_text(output), dtype_name(dtype), shard_bytes,
        *_last(overwrite, threads, progress, control),
    )  # fmt: skip
    return _result(text)


def write_gguf(
    input: CheckpointLike,
    output: Path,
    *,
    type: str | None = None,
    lora: Path | None = None,
    part_bytes: int = 0,
    check: bool = False,
    overwrite: bool = False,
    threads: int = 0,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> ConvertResult:
    """Writes a GGUF file that llama.cpp runs. `type`: of the matrices ("q4_0", "q8_0", "bf16", ...); None: unchanged.
    `lora`: folder of an adapter (PEFT) to add to the weights. `part_bytes`: largest file; 0: one file. `check`: reads
    the result again and compares. Raises UnsupportedError for a model that llama.cpp does not have."""
    return _bridge(
        _core.write_gguf, input, output, type, lora, False, "absmax", part_bytes, check, overwrite, threads, progress, control
    )


def write_folder(
    input: CheckpointLike,
    output: Path,
    *,
    type: DType | None = None,
    lora: Path | None = None,
    keep_packed: bool = False,
    scale: ScaleMethod = "absmax",
    part_bytes: int = 0,
    check: bool = False,
    overwrite: bool = False,
    threads: int = 0,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> ConvertResult:
    """A Hugging Face folder of a GGUF file or of another folder. `keep_packed`: 4-bit weights stay 4-bit; those that
    an adapter changes are quantized again, `scale` choosing their scales."""
    kind = None if type is None else dtype_name(type)
    return _bridge(
        _core.write_folder, input, output, kind, lora, keep_packed, scale, part_bytes, check, overwrite, threads, progress, control
    )


_GGUF_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def _bridge(
    write: Any, input: CheckpointLike, output: Path, type: str | None, lora: Path | None, keep_packed: bool,
    scale: str, part_bytes: int, check: bool, overwrite: bool, threads: int,
    progress: ProgressFunction | None, control: Control | None,
) -> ConvertResult:  # fmt: skip
    # What is lost is measured against the values that blocks decode to in float32.
    source = input if isinstance(input, Checkpoint) else Checkpoint(input, decoded="float32")
    text = write(
        source._handle, path_text(output), None if type is None else _GGUF_NAMES.get(instance(type, str, "type"), type),
        None if lora is None else path_text(lora), keep_packed, scale, part_bytes, check,
        *_last(overwrite, threads, progress, control),
    )  # fmt: skip
    return _result(text)


def check_checkpoint(
    checkpoint: CheckpointLike, *, progress: ProgressFunction | None = None, control: Control | None = None
) -> list[Finding]:
    """Companions complete and consistent, tables those that loaders use, scales finite, config.json in agreement."""
    text = _core.check_checkpoint(checkpoint_of(checkpoint)._handle, *_last(False, 0, progress, control))
    return [Finding(**finding) for finding in json.loads(text)]


def compare_checkpoints(
    checkpoint: CheckpointLike,
    original: CheckpointLike,
    *,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> list[TensorError]:
    """The error of every weight against its original, worst signal over noise first. Raises MalformedFileError when
    names or shapes disagree."""
    text = _core.compare_checkpoints(
        checkpoint_of(checkpoint)._handle, checkpoint_of(original)._handle, *_last(False, 0, progress, control)
    )
    errors = []
    for row in json.loads(text):
        noise = row["squared_error"]
        ratio = row["squared_original"] / noise if noise else inf
        errors.append(TensorError(**row, sqnr_db=10 * log10(ratio) if 0 < ratio < inf else (inf if ratio else -inf)))
    return errors


def plan_memory(path: Path, *, memory_bytes: int = 0, context: int = 0) -> list[dict[str, Any]]:
    """The memory that a model needs, one row a format: from its config.json alone. `context`: tokens; 0: the model's, at
    most 4096.
    `memory_bytes`: what there is, for "largest_context"; 0: no limit."""
    rows: list[dict[str, Any]] = json.loads(_core.plan_memory(path_text(path), memory_bytes, index(context)))
    return rows
