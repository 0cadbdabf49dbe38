# SPDX-License-Identifier: Apache-2.0
"""Tokenizers and chat templates."""
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from ._types import Message, Path, Tokens, array_of, path_text, sequence, token_array


_PIECE = 1 << 20


class Tokenizer:
    """Text to token ids and back, as the model's files define it. Immutable: any number of threads may use one."""

    __slots__ = ("_handle", "_info", "__weakref__")

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._info: tuple[int, int | None, int | None] = _core.tokenizer_info(handle)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """From a model folder, or its tokenizer.json or tokenizer.model. Raises NotFoundError, MalformedFileError,
        UnsupportedError."""
        return cls(_core.load_tokenizer(path_text(path)))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._info[0]

    @property
    def bos_id(self) -> int | None:
        """Of the token that begins a text."""
        return self._info[1]

    @property
    def eos_id(self) -> int | None:
        """Of the token that ends one."""
        return self._info[2]

    def encode(
        self, text: str | bytes, *, add_special_tokens: bool = True, parse_special_tokens: bool = True
    ) -> list[int]:
        """Token ids. `add_special_tokens`: what the model expects around a text. `parse_special_tokens`: False for text
        that is not trusted, whose "<|im_start|>" is then plain characters."""
        array = self.encode_array(text, add_special_tokens=add_special_tokens, parse_special_tokens=parse_special_tokens)
        ids: list[int] = []
        for begin in range(0, len(array), _PIECE):  # Ctrl-C is seen between pieces
            ids += array[begin : begin + _PIECE].tolist()
        return ids

    def encode_array(
        self, text: str | bytes, *, add_special_tokens: bool = True, parse_special_tokens: bool = True
    ) -> npt.NDArray[np.int32]:
        """The same as an array of int32."""
        return array_of(_core.encode(self._handle, text, add_special_tokens, parse_special_tokens), np.int32)

    def decode(self, tokens: Tokens, *, skip_special_tokens: bool = False) -> str:
        """Text; bytes that form no characters become U+FFFD. Raises InvalidArgumentError naming an id that is none."""
        return str(_core.decode(self._handle, token_array(tokens), skip_special_tokens))

    def token_text(self, token: int) -> str:
        """The token as the file spells it."""
        return str(_core.token_text(self._handle, token))

    def token_bytes(self, token: int) -> bytes:
        """What the token adds to a text that has begun: perhaps a part of a character."""
        return bytes(_core.token_bytes(self._handle, token))

    def token_id(self, text: str) -> int | None:
        """The id of a token as the file spells it."""
        result: int | None = _core.token_id(self._handle, text)
        return result

    def is_special(self, token: int) -> bool:
        """Whether it stands for no text."""
        return bool(_core.is_special(self._handle, token))

    def __repr__(self) -> str:
        return f"<nfloat.Tokenizer, {self.vocab_size} tokens>"


class ChatTemplate:
    """A model's chat template: the part of Jinja that such templates use.

    >>> chat = ChatTemplate.parse("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    >>> chat.render([{"role": "user", "content": "Hello"}])
    '[user] Hello'
    """

    __slots__ = ("_handle", "__weakref__")

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def parse(cls, text: str) -> ChatTemplate:
        """From its text. Raises MalformedFileError with the line, UnsupportedError."""
        return cls(_core.parse_chat_template(text))

    @classmethod
    def load(cls, folder: Path, name: str = "") -> ChatTemplate | None:
        """From a model folder; None where it has no template of this name."""
        handle = _core.load_chat_template(path_text(folder), name)
        return None if handle is None else cls(handle)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text that the model reads. `variables`: others that the template knows, as tools. Raises
        InvalidArgumentError with the template's line."""
        given = {"messages": sequence(messages, "messages"), "add_generation_prompt": add_generation_prompt, **variables}
        return str(_core.render(self._handle, json.dumps(given)))
