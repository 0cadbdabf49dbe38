# SPDX-License-Identifier: Apache-2.0
"""Judging models and number formats."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._control import Control, ProgressFunction, control_handle, progress_function, thread_count
from ._model import Model
from ._types import (
    Array,
    DType,
    KvCacheType,
    Path,
    PerplexityProtocol,
    Precision,
    Record,
    Tokens,
    array_in,
    array_of,
    dtype_name,
    instance,
    path_text,
    sequence,
    token_array,
)


@dataclass(frozen=True)
class PerplexityResult(Record):
    """Of a text. Errors take tokens as independent."""

    tokens: int  # that count
    windows: int
    mean_loss: float  # nats a token
    standard_error: float  # of the mean loss
    perplexity: float
    perplexity_error: float
    protocol: PerplexityProtocol
    context: int


@dataclass(frozen=True)
class DivergenceResult:
    """How far the token distributions of `model` are from those of `reference`."""

    tokens: int
    mean_kl: float  # nats a token
    mean_kl_error: float
    median_kl: float
    kl_99: float  # 99 % of the tokens are at or below
    max_kl: float
    log_ratio: float  # of the perplexities
    same_top: float  # share of tokens with the same most likely token
    rms_delta_p: float
    reference: PerplexityResult
    model: PerplexityResult
    token_kl: npt.NDArray[np.float32]
    token_loss: npt.NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: the arrays as lists."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["reference"], data["model"] = self.reference.to_dict(), self.model.to_dict()
        data["token_kl"], data["token_loss"] = self.token_kl.tolist(), self.token_loss.tolist()
        return data


@dataclass(frozen=True)
class TaskResult(Record):
    """Of a test with known answers."""

    name: str
    questions: int
    accuracy: float
    accuracy_error: float
    low: float  # Wilson's 95 % interval
    high: float
    normalised_accuracy: float | None
    perplexity: float | None
    chance: float


def _tokens(model: Model, text: str | Tokens) -> npt.NDArray[np.int32]:
    instance(model, Model, "model")
    return model.tokenizer.encode_array(text, add_special_tokens=False) if isinstance(text, str) else token_array(text)


def _context(model: Model, protocol: PerplexityProtocol, context: int) -> int:
    return context or min(512 if protocol == "llama.cpp" else 2048, model.context)


def perplexity(
    model: Model,
    text: str | Tokens,
    *,
    protocol: PerplexityProtocol = "paper",
    context: int = 0,
    kv_cache: KvCacheType = "auto",
    precision: Precision | None = None,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> PerplexityResult:
    """Of a text, which is tokenized without special tokens. `protocol`: how the text is cut and which tokens count:
    "paper" (windows of 2048), "llama.cpp" (512, the second half of each), "bos" (all). Progress in tokens. Raises
    InvalidArgumentError: a text too short for one window, a context beyond the model's."""
    ids = _tokens(model, text)
    data = json.loads(
        _core.perplexity(
            model._handle, ids, protocol, context, kv_cache, precision,
            progress_function(progress, "tokens"), control_handle(control, "tokens"),
        )  # fmt: skip
    )
    return PerplexityResult(**data, protocol=protocol, context=_context(model, protocol, context))


def divergence(
    reference: Model,
    model: Model,
    text: str | Tokens,
    *,
    protocol: PerplexityProtocol = "paper",
    context: int = 0,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> DivergenceResult:
    """Of `model` from `reference` on a text, over the tokens that the protocol counts."""
    ids = _tokens(instance(reference, Model, "reference"), text)
    instance(model, Model, "model")
    text_json, kl, loss = _core.divergence(
        reference._handle, model._handle, ids, protocol, context, "auto", None,
        progress_function(progress, "tokens"), control_handle(control, "tokens"),
    )  # fmt: skip
    data = json.loads(text_json)
    length = _context(model, protocol, context)
    for name in ("reference", "model"):
        data[name] = PerplexityResult(**data[name], protocol=protocol, context=length)
    return DivergenceResult(**data, token_kl=array_of(kl, np.float32), token_loss=array_of(loss, np.float32))


def task_names() -> list[str]:
    """Tests that `evaluate_task` knows.

    >>> "lambada" in task_names()
    True
    """
    return list(_core.task_names())


def evaluate_task(
    model: Model,
    task: str,
    data: Path,
    *,
    limit: int = 0,
    add_bos: bool = False,
    progress: ProgressFunction | None = None,
    control: Control | None = None,
) -> TaskResult:
    """Scores answers by likelihood as EleutherAI's harness does. `data`: a file with one JSON object a line. `limit`:
    the first so many questions; 0: all. Progress in questions."""
    instance(model, Model, "model")
    text = _core.evaluate_task(
        model._handle, model.tokenizer._handle, task, path_text(data), limit, add_bos,
        progress_function(progress, "questions"), control_handle(control, "questions"),
    )  # fmt: skip
    return TaskResult(**json.loads(text))


class Format:
    """A number format to compare: replaces weights by the values that its files would give back.

    >>> make_format("nf4:64:dq").bits_per_weight
    4.126953125
    """

    __slots__ = ("_handle", "_info")

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._info: tuple[str, str, float, int] = _core.format_info(handle)

    @property
    def name(self) -> str:
        """As `make_format` takes it."""
        return self._info[0]

    @property
    def summary(self) -> str:
        """One line."""
        return self._info[1]

    @property
    def bits_per_weight(self) -> float:
        """For a large matrix."""
        return self._info[2]

    @property
    def block_size(self) -> int:
        """Weights that share a scale."""
        return self._info[3]

    def round_trip(self, weights: Array, *, threads: int = 0) -> npt.NDArray[np.float32]:
        """What the format gives back, in float32; rows are the last dimension. Raises NotFiniteError,
        InvalidArgumentError for a row length that the format cannot store."""
        given, said = array_in(weights)
        dtype, shape = _core.describe_array(given, said)
        values = np.empty(shape, np.float32)
        if dtype == "uint16":
            raise TypeError("weights are uint16: convert_elements makes float32 of the bits of bfloat16")
        _core.convert_elements(given, said, "float32", values)
        columns = shape[-1] if shape else 1
        rows = values.size // columns if columns else 0
        _core.round_trip(self._handle, values, rows, columns, thread_count(threads))
        return values

    def __repr__(self) -> str:
        return f"<nfloat.Format {self.name!r}, {self.bits_per_weight:.3f} bits a weight>"


def make_format(name: str) -> Format:
    """A format by name: "nf4", "nf4:128:signed:dq", "q4_0", "q4_k", "mxfp4", "nvfp4", ... (`format_list`). Raises
    NotFoundError listing all."""
    return Format(_core.make_format(name))


def format_list() -> list[tuple[str, str]]:
    """Names with their options, and a line about each."""
    return list(_core.format_list())


def default_formats(block_sizes: Sequence[int] = (64,)) -> list[str]:
    """What `nfloat compare` compares."""
    return list(_core.default_formats(sequence(block_sizes, "block_sizes")))


def analyze_weights(weights: Array, *, block_size: int = 64, dtype: DType | None = None) -> dict[str, Any]:
    """How weights are distributed: moments, outliers, fits of the normal distribution and of Student's t."""
    given, said = array_in(weights, None if dtype is None else dtype_name(dtype))
    result: dict[str, Any] = json.loads(_core.analyze_weights(given, said, block_size))
    return result


def measure_machine(*, threads: int = 0) -> dict[str, float]:
    """Limits of this machine in 10^9 bytes or operations a second. Takes two to four seconds and 1 GiB."""
    result: dict[str, float] = json.loads(_core.measure_machine(thread_count(threads)))
    return result
