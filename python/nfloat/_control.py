# SPDX-License-Identifier: Apache-2.0
"""Progress and cancellation of long calls, and what is said about the library."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any, Literal

from . import _core
from ._errors import InvalidArgumentError
from ._types import instance

Unit = Literal["bytes", "tokens", "questions", "formats"]


@dataclass(frozen=True)
class Progress:
    """How far a long call is."""

    done: int
    total: int  # 0: not known yet
    unit: Unit

    @property
    def fraction(self) -> float:
        """0 to 1; 0 while the total is not known."""
        return self.done / self.total if self.total else 0.0


ProgressFunction = Callable[[Progress], object]


class Control:
    """Watches and cancels a long call from another thread: give it as `control=`. Cancelled calls raise CancelledError.

    >>> control = Control()
    >>> control.cancel()
    >>> control.cancelled
    True
    >>> control.reset()
    """

    def __init__(self) -> None:
        self._handle: Any = _core.make_control()
        self._unit: Unit = "bytes"

    def cancel(self) -> None:
        """The call at work ends soon, and so does every later one until `reset()`."""
        _core.control_cancel(self._handle)

    def reset(self) -> None:
        """As new."""
        _core.control_reset(self._handle)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel()` was called."""
        return bool(_core.control_state(self._handle)[0])

    @property
    def progress(self) -> Progress:
        """Of the call at work, or of the last one."""
        _, done, total = _core.control_state(self._handle)
        return Progress(done, total, self._unit)


def control_handle(control: Control | None, unit: Unit) -> Any:
    """What the core takes for `control=`."""
    if control is None:
        return None
    instance(control, Control, "control")._unit = unit
    return control._handle


def progress_function(progress: ProgressFunction | None, unit: Unit) -> Any:
    """What the core takes for `progress=`: called in the caller's own thread, 20 times a second at most."""
    if progress is None:
        return None
    if not callable(progress):
        raise TypeError(f"progress is of type {type(progress).__name__}, a function is needed")
    function = progress
    return lambda done, total: function(Progress(done, total, unit))


_chosen_threads = 0


def version() -> str:
    """Of the library, as "0.1.0"."""
    return str(_core.version())


def target() -> str:
    """The kernels at work, as "avx2"; the environment variable NFLOAT_TARGET chooses others."""
    return str(_core.target())


def processor() -> str:
    """The processor's name."""
    return str(_core.processor())


def threads() -> int:
    """The number of threads where an option `threads` is 0: what `set_threads` said, else OMP_NUM_THREADS, else the
    processors that this process may use."""
    return _chosen_threads or int(_core.threads())


def set_threads(threads: int) -> None:
    """Sets what `threads()` says; 0: as at the start.

    >>> set_threads(1)
    >>> threads()
    1
    >>> set_threads(0)
    """
    global _chosen_threads
    threads = index(threads)
    if not 0 <= threads <= 4096:
        raise InvalidArgumentError(f"threads is {threads}: 1 to 4096, or 0 for the default")
    _chosen_threads = threads


def thread_count(threads: int) -> int:
    """What the core gets for an option `threads`."""
    return index(threads) or _chosen_threads
