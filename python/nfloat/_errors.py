# SPDX-License-Identifier: Apache-2.0
"""Errors by code, each also the builtin exception that fits."""
from __future__ import annotations

from . import _core


class Error(Exception):
    """Every failure of the library: one sentence naming the file, the tensor, the place, what was found and expected."""

    code: str = "internal"


class InvalidArgumentError(Error, ValueError):
    """An option, shape or value that is not valid."""

    code = "invalid_argument"


class NotFoundError(Error, FileNotFoundError, LookupError):
    """A file, tensor or name that does not exist."""

    code = "not_found"


class AlreadyExistsError(Error, FileExistsError):
    """An output that would be overwritten."""

    code = "already_exists"


class IoError(Error, OSError):
    """The operating system refused: disk full, permission, read error."""

    code = "io"


class MalformedFileError(Error, ValueError):
    """A file that breaks its format's rules."""

    code = "malformed_file"


class UnsupportedError(Error, NotImplementedError):
    """A valid input that this version cannot handle; the message says what is missing."""

    code = "unsupported"


class NotFiniteError(Error, ValueError):
    """NaN or infinity where a finite number is needed."""

    code = "not_finite"


class OutOfMemoryError(Error, MemoryError):
    """Reported before the work begins, with the numbers, where they are known."""

    code = "out_of_memory"


class CancelledError(Error):
    """The caller cancelled the work (`Control.cancel`)."""

    code = "interrupted"


class InternalError(Error, RuntimeError):
    """An exception that is none of the library's own: a bug to report."""

    code = "internal"


_core.set_errors(
    [
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        IoError,
        MalformedFileError,
        UnsupportedError,
        NotFiniteError,
        OutOfMemoryError,
        CancelledError,
        InternalError,
    ]
)
