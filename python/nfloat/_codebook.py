# SPDX-License-Identifier: Apache-2.0
"""Tables of levels."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import inf, log10
from operator import index
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from . import _core
from ._types import Path, array_of, float_array, instance, path_text

NORMAL_FLOAT_OFFSET: float = 929 / 960


class Codebook:
    """A table of levels, each the value of a weight divided by its block's scale. Immutable. `make_codebook`,
    `make_normal_float`, `codebook_from_levels` and `load_codebook` make them.

    >>> nf4 = make_codebook("nf4")
    >>> len(nf4), nf4.bits, float(nf4.levels[0]), float(nf4.levels[15])
    (16, 4, -1.0, 1.0)
    """

    __slots__ = ("_handle", "_parts", "_levels", "__weakref__")

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._parts: tuple[Any, ...] = _core.codebook_parts(handle)
        self._levels: npt.NDArray[np.float32] = array_of(self._parts[2], np.float32)

    @property
    def name(self) -> str:
        """As `make_codebook` takes it."""
        return str(self._parts[0])

    @property
    def bits(self) -> int:
        """Of one code."""
        return int(self._parts[1])

    @property
    def levels(self) -> npt.NDArray[np.float32]:
        """By code, float32: what quantizing and dequantizing use. Read-only."""
        return self._levels

    @property
    def exact(self) -> npt.NDArray[np.float64]:
        """By code, before rounding to float32. Read-only."""
        return array_of(self._parts[3], np.float64)

    @property
    def thresholds(self) -> npt.NDArray[np.float32]:
        """Midpoints of neighbouring levels, ascending, one fewer than levels. Read-only."""
        return array_of(self._parts[4], np.float32)

    @property
    def code_of_rank(self) -> npt.NDArray[np.uint8]:
        """Codes in ascending order of their levels. Read-only."""
        return array_of(self._parts[5], np.uint8)

    @property
    def signed_scale(self) -> bool:
        """Designed for scales that carry the sign of the largest weight."""
        return bool(self._parts[6])

    @property
    def zero_code(self) -> int:
        """The code of level 0; -1 where there is none."""
        return int(self._parts[7])

    def __len__(self) -> int:
        return len(self._levels)

    def _key(self) -> tuple[Any, ...]:
        return (self.name, self.exact.tobytes(), self._levels.tobytes(), self.signed_scale)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Codebook) and self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<nfloat.Codebook {self.name!r}, {len(self)} levels>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self._levels.copy(), np.array(self.exact))


def _restore(name: str, levels: npt.NDArray[np.float32], exact: npt.NDArray[np.float64]) -> Codebook:
    if name in codebook_names():
        known = make_codebook(name)
        if np.array_equal(known.levels, levels):
            return known
    return codebook_from_levels(name, exact if np.array_equal(exact.astype(np.float32), levels) else levels)


def make_codebook(name: str, block_size: int = 64) -> Codebook:
    """A code by name: "nf4", "nf3", "fp4", "int4", "af4", "sf4", "bof4", "bof4-s", ... (`codebook_names`).

    `block_size` (2 to 2**30) matters only to codes that are fitted to it, which takes 0.1 s. "nf4" and "fp4" are
    bitsandbytes' float32 tables bit for bit. Raises NotFoundError listing all codes, InvalidArgumentError.
    """
    return _made(instance(name, str, "name"), index(block_size))


@lru_cache(maxsize=64)
def _made(name: str, block_size: int) -> Codebook:
    return Codebook(_core.make_codebook(name, block_size))


def make_normal_float(bits: int, offset: float = NORMAL_FLOAT_OFFSET) -> Codebook:
    """NormalFloat with 2 to 8 bits: quantiles of the normal distribution between 1 - `offset` and `offset`, and 0.

    >>> len(make_normal_float(3))
    8
    """
    return Codebook(_core.make_normal_float(bits, offset))


def codebook_from_levels(name: str, levels: Sequence[float] | npt.NDArray[np.floating[Any]]) -> Codebook:
    """A table of your own: 2 to 256 finite levels by code, at least two of them distinct.

    >>> codebook_from_levels("ternary", [-1, 0, 1]).thresholds.tolist()
    [-0.5, 0.5]
    """
    return Codebook(_core.codebook_from_levels(name, float_array(levels, np.float64, "levels", 1)))


def load_codebook(path: Path) -> Codebook:
    """A table from a file: a JSON array, a JSON object with "levels", or numbers as text."""
    return Codebook(_core.load_codebook(path_text(path)))


def codebook_names() -> list[str]:
    """Every name that `make_codebook` takes, in the order for a listing."""
    return list(_core.codebook_names())


def codebook_summary(name: str) -> str:
    """One line about the code of that name."""
    return str(_core.codebook_summary(name))


def codebook_is_fitted(name: str) -> bool:
    """Whether the code depends on the block size given to `make_codebook`."""
    return bool(_core.codebook_is_fitted(name))


@lru_cache(maxsize=1)
def dynamic_codebook() -> Codebook:
    """The map of 256 values of bitsandbytes' double quantization."""
    return Codebook(_core.dynamic_codebook())


def generalised_offset(bits: int) -> float:
    """The largest probability of NormalFloat by NF4's formula, for other numbers of bits.

    >>> abs(generalised_offset(4) - NORMAL_FLOAT_OFFSET) < 1e-15
    True
    """
    return float(_core.generalised_offset(bits))


def normal_quantile(probability: float) -> float:
    """Inverse of the standard normal distribution function, for probabilities inside (0, 1).

    >>> round(normal_quantile(0.975), 4)
    1.96
    """
    return float(_core.normal_quantile(probability))


CodebookLike = Union[Codebook, str]


def codebook_of(codebook: CodebookLike, block_size: int = 64) -> Codebook:
    """A codebook itself, or the one of that name."""
    return codebook if isinstance(codebook, Codebook) else make_codebook(codebook, block_size)


@dataclass(frozen=True)
class CodebookErrors:
    """Expected errors of a code, in units of the weights' deviation."""

    mse: float  # over the variance of the weights
    mae: float  # over their standard deviation
    entropy: float  # of the codes, in bits

    @property
    def sqnr_db(self) -> float:
        """Signal over noise in dB."""
        return -10 * log10(self.mse) if self.mse > 0 else inf

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON and pandas."""
        return {**asdict(self), "sqnr_db": self.sqnr_db}


def codebook_errors(codebook: CodebookLike, block_size: int = 64, source: str = "normal") -> CodebookErrors:
    """Expected error on independent weights of a distribution ("normal", "student-t:5", "laplace"), by quadrature.

    >>> round(codebook_errors("nf4").mse, 5)
    0.00846
    """
    return CodebookErrors(*_core.codebook_errors(codebook_of(codebook, block_size)._handle, block_size, source))


def code_frequencies(
    codebook: CodebookLike, block_size: int = 64, source: str = "normal"
) -> npt.NDArray[np.float64]:
    """How often each code occurs under the assumptions of `codebook_errors`; sums to 1."""
    return array_of(
        _core.code_frequencies(codebook_of(codebook, block_size)._handle, block_size, source), np.float64
    )


def expected_block_maximum(block_size: int, source: str = "normal") -> float:
    """Expectation of the largest magnitude in a block, in standard deviations."""
    return float(_core.expected_block_maximum(block_size, source))
