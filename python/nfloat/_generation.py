# SPDX-License-Identifier: Apache-2.0
"""Text in the making."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._control import Control, control_handle
from ._errors import CancelledError
from ._text import Tokenizer
from ._types import FinishReason, Record, array_of

if TYPE_CHECKING:
    from ._model import Session


@dataclass(frozen=True)
class SamplerOptions:
    """How the next token is chosen: repetition penalty, temperature, top-k, top-p, min-p in this order."""

    temperature: float = 0.0  # 0: the most likely token, always
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class TokenProbability:
    """One token with its natural log-probability."""

    token: int
    text: bytes
    log_probability: float


@dataclass(frozen=True)
class Token:
    """One step of a generation. `token` is -1 for text that was held back until the end; `text` is complete UTF-8, often
    empty; `top`: the most likely tokens, where they were asked for."""

    token: int
    text: str
    log_probability: float
    top: list[TokenProbability]


@dataclass(frozen=True)
class GenerationResult(Record):
    """What a generation made."""

    text: str
    tokens: list[int]
    prompt_tokens: list[int]
    finish_reason: FinishReason | None  # None: it was left early
    prefill_seconds: float
    decode_seconds: float


class Generation(Iterator[Token]):
    """One text in the making: an iterator of `Token`. Leaving the loop early keeps what was made; the session then holds
    the tokens read so far. One thread at a time."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        defaults: Any,
        prompt: npt.NDArray[np.int32],
        max_tokens: int,
        sampling: tuple[Any, ...],
        stop: list[str],
        ignore_end: bool,
        top_logprobs: int,
        control: Control | None,
    ) -> None:
        self._session = session
        self._prompt: list[int] = prompt.tolist()
        self._text: list[str] = []
        self._control = control
        self._cancelled = False
        # Log-probabilities of the chosen tokens are always there.
        self._handle: Any = _core.make_generation(
            defaults, session._handle, tokenizer._handle, prompt, max_tokens, *sampling, stop, ignore_end, top_logprobs,
            control_handle(control, "tokens"),
        )  # fmt: skip

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Token:
        piece = None if self._cancelled else _core.generation_next(self._handle)
        if piece is None:
            if self._control is not None and self._control.cancelled:
                raise CancelledError("cancelled by the caller")
            raise StopIteration
        token, text, value, top = piece
        if text:
            self._text.append(text)
        return Token(token, text, value, [TokenProbability(*one) for one in top] if top else [])

    @property
    def session(self) -> Session:
        """That it runs on."""
        return self._session

    @property
    def text(self) -> str:
        """So far."""
        return "".join(self._text)

    @property
    def tokens(self) -> list[int]:
        """Generated so far, without an end token."""
        return cast("list[int]", array_of(_core.generation_info(self._handle)[3], np.int32).tolist())

    @property
    def finish_reason(self) -> FinishReason | None:
        """"end": the model ended its text; "stop": a stop text appeared; "length": max_tokens; "context": no room.
        None while it goes on, and when it was left early."""
        reason = _core.generation_info(self._handle)[0]
        return None if reason == "cancelled" else cast("FinishReason | None", reason)

    def cancel(self) -> None:
        """Ends it, also from another thread, after the token at work."""
        self._cancelled = True
        _core.generation_cancel(self._handle)

    def close(self) -> None:
        """The same: for contextlib.closing."""
        self.cancel()

    def result(self) -> GenerationResult:
        """Runs to the end, and gives everything."""
        for _ in self:
            pass
        reason, read, decode, tokens = _core.generation_info(self._handle)
        return GenerationResult(
            self.text,
            array_of(tokens, np.int32).tolist(),
            list(self._prompt),
            None if reason == "cancelled" else reason,
            read,
            decode,
        )
