# SPDX-License-Identifier: Apache-2.0
"""Models and sessions."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from types import TracebackType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._checkpoint import resolve_model_path
from ._codebook import CodebookLike, codebook_of
from ._control import Control, ProgressFunction, control_handle, progress_function, thread_count
from ._errors import InvalidArgumentError, UnsupportedError
from ._generation import Generation, SamplerOptions, TokenProbability
from ._text import ChatTemplate, Tokenizer
from ._types import (
    HeadFormat,
    KvCacheType,
    Message,
    Path,
    Precision,
    Tokens,
    array_of,
    float_array,
    instance,
    sequence,
    text_list,
    token_array,
)


@dataclass(frozen=True)
class ModelMemory:
    """The memory of a model, in bytes."""

    projection_bytes: int  # packed weights of the layers
    head_bytes: int  # the head's own copy
    embedding_bytes: int  # rows looked up; mapped, so only rows that are used are resident
    other_bytes: int  # norms, biases
    read_per_token_bytes: int  # of weights that one decoded token reads

    @property
    def resident_bytes(self) -> int:
        """What stays in memory."""
        return self.projection_bytes + self.head_bytes + self.other_bytes


class Model:
    """A decoder-only transformer, its weights packed for the kernels. Immutable: any number of sessions run on one."""

    def __init__(self, handle: Any, path: str) -> None:
        self._handle = handle
        self._path = path
        config, memory, precision, device = _core.model_info(handle)
        self._config: dict[str, Any] = json.loads(config)
        self._memory = ModelMemory(**json.loads(memory))
        self._precision = cast(Precision, precision)
        self._device = str(device)
        self._defaults: Any = _core.make_defaults(path, handle) if path else None
        self._tokenizer: Tokenizer | None = None
        self._chat_template: ChatTemplate | None = None
        self._chat_template_read = False

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        quantize: CodebookLike | None = None,
        block_size: int = 64,
        double_quantization: bool = False,
        head: HeadFormat = "keep",
        precision: Precision = "bf16",
        threads: int = 0,
        device: str | None = None,
        progress: ProgressFunction | None = None,
        control: Control | None = None,
    ) -> Model:
        """From a Hugging Face folder (plain or bitsandbytes 4-bit), a GGUF file, or `org/model` of the local cache.

        `quantize`: a code for the projections of a plain checkpoint, quantized while loading. `precision`: of sessions
        that say nothing else. `device`: where the weights are and the layers run: "cpu"; "cuda" or "cuda:N", an NVIDIA
        card; "vulkan" or "vulkan:N", a card by its Vulkan driver, which computes every product in float32; "auto", the
        first card, else the CPU; None, what the environment variable NFLOAT_DEVICE names, else the CPU. Progress in
        bytes. Raises NotFoundError (a device that is not there, too: it names those there are), MalformedFileError
        naming all that is missing, UnsupportedError,
        OutOfMemoryError before loading.
        """
        found = resolve_model_path(path)
        book = None if quantize is None else codebook_of(quantize, block_size)._handle
        handle = _core.load_model(
            found, book, block_size, double_quantization, head, precision, thread_count(threads), device,
            progress_function(progress, "bytes"), control_handle(control, "bytes"),
        )  # fmt: skip
        return cls(handle, found)

    @property
    def config(self) -> dict[str, Any]:
        """The shape: "family", "layers", "hidden", "heads", "vocabulary", "context", "parameters", ..."""
        return dict(self._config)

    @property
    def memory(self) -> ModelMemory:
        """In bytes."""
        return self._memory

    @property
    def vocabulary(self) -> int:
        """Logits a token."""
        return int(self._config["vocabulary"])

    @property
    def context(self) -> int:
        """Most positions of a session."""
        return int(self._config["context"])

    @property
    def precision(self) -> Precision:
        """Of sessions that say nothing else."""
        return self._precision

    @property
    def device(self) -> str:
        """Where the weights are and the layers run: "cpu", "vulkan:0"."""
        return self._device

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the weights, loaded at first use. Raises NotFoundError, UnsupportedError (synthetic
        models have none)."""
        if self._tokenizer is None:
            if not self._path:
                raise UnsupportedError("a synthetic model has no tokenizer")
            self._tokenizer = Tokenizer.load(self._path)
        return self._tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The template beside the weights, loaded at first use, else ChatML where the vocabulary has its tokens, else
        None."""
        if self._path and not self._chat_template_read:
            handle = _core.chat_template_of(self._path, self.tokenizer._handle)
            self._chat_template = None if handle is None else ChatTemplate(handle)
            self._chat_template_read = True
        return self._chat_template

    @property
    def sampler_options(self) -> SamplerOptions:
        """Sampling as the generation_config.json beside the model asks for; the most likely token where it does not."""
        return SamplerOptions(*_core.sampler_defaults(self._defaults)) if self._path else SamplerOptions()

    def session(
        self,
        *,
        context: int = 0,
        kv_cache: KvCacheType = "auto",
        precision: Precision | None = None,
        threads: int = 0,
    ) -> Session:
        """A sequence of its own. `context`: positions to keep room for; 0: the model's, which may be gigabytes. Raises
        InvalidArgumentError, OutOfMemoryError with the numbers."""
        return Session(self, _core.make_session(self._handle, context, kv_cache, precision, thread_count(threads)))

    def logits(
        self, tokens: Tokens, *, precision: Precision | None = None, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits of every token, [tokens, vocabulary] in float32; `out`: where to write them."""
        ids = token_array(tokens)
        if ids.size == 0:
            raise InvalidArgumentError("no tokens: at least one is needed")
        result = np.empty((len(ids), self.vocabulary), np.float32) if out is None else out
        session = _core.make_session(self._handle, len(ids), "auto", precision, thread_count(0))
        _core.prefill(session, ids, result, None)
        return result

    def generate(
        self,
        prompt: str | Tokens | Sequence[Message],
        *,
        max_tokens: int = 128,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        ignore_end: bool = False,
        top_logprobs: int = 0,
        session: Session | None = None,
        control: Control | None = None,
    ) -> Generation:
        """Continues a text, tokens, or a conversation (a list of {"role", "content"}): an iterator of `Token`.

        Settings of sampling that are None come from the model's generation_config.json; `seed` None: another text each
        time. `stop`: ends before one of these texts. `session`: what is read and generated goes behind what it holds.
        Leaving the loop early keeps what was made; Ctrl-C works, also while the prompt is read.
        """
        stops = text_list(stop, "stop")
        ids = self._prompt(prompt)
        if self._handle is None:
            raise InvalidArgumentError("nfloat.Model is closed")
        if session is not None:
            if instance(session, Session, "session").model is not self:
                raise InvalidArgumentError("the session runs on another model")
        else:
            session = self.session(context=max(1, min(self.context, len(ids) + index(max_tokens))))
        sampling = (temperature, top_k, top_p, min_p, repetition_penalty, seed)
        return Generation(
            session, self.tokenizer, self._defaults, ids, max_tokens, sampling, stops, ignore_end, top_logprobs, control
        )

    def _prompt(self, prompt: str | Tokens | Sequence[Message]) -> npt.NDArray[np.int32]:
        if isinstance(prompt, str):
            return self.tokenizer.encode_array(prompt)
        if isinstance(prompt, (list, tuple)) and len(prompt) > 0 and isinstance(prompt[0], Mapping):
            template = self.chat_template
            if template is None:
                raise UnsupportedError("the model has no chat template: give a text")
            text = template.render(cast("Sequence[Message]", prompt))
            return self.tokenizer.encode_array(text, add_special_tokens=False)
        return token_array(cast(Tokens, prompt))

    def close(self) -> None:
        """Gives the weights up: they are freed when the sessions, and calls of other threads, that use them end. Later use
        raises ValueError."""
        self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        shape = f"{self._config['family']}, {self._config['layers']} layers, {self._config['hidden']} wide"
        return f"<nfloat.Model {self._path!r}: {shape}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Model holds weights laid out for this processor: pickle its path")


class Session:
    """One sequence of tokens with its keys and values. One thread at a time: RuntimeError when a second one is inside."""

    def __init__(self, model: Model, handle: Any) -> None:
        self._model = model
        self._handle = handle

    @property
    def model(self) -> Model:
        """That it runs on."""
        return self._model

    @property
    def context(self) -> int:
        """Positions that there is room for."""
        return int(_core.session_info(self._handle)[0])

    @property
    def position(self) -> int:
        """Tokens read so far."""
        return int(_core.session_info(self._handle)[1])

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """Those that were read."""
        return array_of(_core.session_tokens(self._handle), np.int32)

    @property
    def logits(self) -> npt.NDArray[np.float32] | None:
        """Of the last token read, a copy; None at the start and after a rewind."""
        memory = _core.session_logits(self._handle)
        return None if memory is None else array_of(memory, np.float32)

    def prefill(self, tokens: Tokens, *, control: Control | None = None) -> npt.NDArray[np.float32]:
        """Reads tokens, at least one; logits of the last. Ctrl-C and `control` end it between pieces of 64, and the
        session is then as before. Raises InvalidArgumentError: a token out of range, more than there is room for."""
        memory = _core.prefill(self._handle, token_array(tokens), None, control_handle(control, "tokens"))
        return array_of(memory, np.float32)

    def decode(self, token: int) -> npt.NDArray[np.float32]:
        """Reads one token; its logits."""
        return self.prefill([token])

    def rewind(self, position: int) -> None:
        """Forgets every token from `position` on."""
        _core.rewind(self._handle, position)

    def fork(self) -> Session:
        """A second session with the same past."""
        return Session(self._model, _core.fork(self._handle))

    def close(self) -> None:
        """Frees keys and values. Later use raises ValueError, and so does the next step of a generation on it. A call that
        another thread has at work ends between two pieces, with that error."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _core.close_session(handle)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Session holds keys and values in this process: pickle its tokens")


class Sampler:
    """Chooses tokens. The same options and logits give the same tokens; `seed` None counts as 0."""

    def __init__(self, options: SamplerOptions = SamplerOptions()) -> None:
        instance(options, SamplerOptions, "options")
        self._handle: Any = _core.make_sampler(
            options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty, options.seed or 0
        )

    def sample(self, logits: npt.NDArray[np.float32], history: Tokens = ()) -> int:
        """The next token; `history`: the tokens so far, for the penalty."""
        return int(_core.sample(self._handle, _logits(logits), token_array(history)))


def _logits(logits: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    return float_array(logits, np.float32, "logits", 1)


def most_likely(logits: npt.NDArray[np.float32], count: int = 1) -> list[TokenProbability]:
    """The most likely tokens in order, with natural log-probabilities; `text` is empty (`Tokenizer.token_bytes`).

    >>> import numpy as np
    >>> [one.token for one in most_likely(np.float32([0, 2, 1]), 2)]
    [1, 2]
    """
    return [
        TokenProbability(token, b"", value)
        for token, value in _core.most_likely(_logits(logits), count)
    ]


def log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    """Natural logarithm of softmax(logits)[token]."""
    return float(_core.log_probability(_logits(logits), token))


def forward_batch(sessions: Sequence[Session], tokens: Sequence[Tokens]) -> list[npt.NDArray[np.float32]]:
    """Different sessions of one model read their tokens together, each weight once for all of them. Logits of every
    token, [tokens, vocabulary] a session. Ctrl-C ends it between layers, and leaves the sessions as before."""
    batch = [instance(session, Session, "a session") for session in sequence(sessions, "sessions")]
    ids = [token_array(some) for some in sequence(tokens, "tokens")]
    memories = _core.forward_batch([session._handle for session in batch], ids)
    return [array_of(memory, np.float32, (-1, session.model.vocabulary)) for session, memory in zip(batch, memories)]


def synthetic_model(
    shape: str = "1b", *, seed: int = 1, precision: Precision = "bf16", threads: int = 0
) -> Model:
    """Random 4-bit weights in the shape "1b", "8b" or "moe", for timing. Raises OutOfMemoryError before it begins."""
    return Model(_core.synthetic_model(shape, seed, precision, thread_count(threads)), "")
