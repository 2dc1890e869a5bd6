"""The exceptions that gbdnn raises on purpose.

::

    GbdnnError
    ├── InputError            (ValueError)    an argument has a value that cannot be used
    │   ├── ShapeError                        ... its dimensions do not fit
    │   ├── SparseFormatError                 ... its indptr, indices or data contradict each other
    │   ├── NonFiniteError                    ... it holds NaN or infinity
    │   ├── UnknownNameError                  ... a name that is not in the list of choices
    │   └── FileFormatError                   ... a file's content is not what its format says
    ├── DtypeError            (TypeError)     an argument has a type that cannot be used
    ├── MemoryBudgetError     (MemoryError)   the request would allocate more than is allowed
    ├── DataUnavailableError  (OSError)       data could neither be found nor downloaded
    ├── MissingDependencyError(ImportError)   an optional package is not installed
    ├── BackendError          (RuntimeError)  a library below failed; says layer, shapes, dtypes
    │   └── WorkerError                       ... or a worker, or a rank, of several processes
    └── DivergenceError       (ArithmeticError) a training left the finite numbers

    TrainingInterrupted       (KeyboardInterrupt) Ctrl-C during a training

Every message has the same four parts: the argument, what was expected, what came, the way out.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BackendError",
    "DataUnavailableError",
    "DivergenceError",
    "DtypeError",
    "FileFormatError",
    "GbdnnError",
    "InputError",
    "MemoryBudgetError",
    "MissingDependencyError",
    "NonFiniteError",
    "ShapeError",
    "SparseFormatError",
    "TrainingInterrupted",
    "UnknownNameError",
    "WorkerError",
    "choose",
]


class GbdnnError(Exception):
    """Base of all errors of gbdnn.

    Parameters
    ----------
    argument : str
        The argument (or file) that is at fault.
    expected, got : str
        What would have been accepted, and what came instead.
    fix : str, optional
        The way out, as a full sentence.
    """

    def __init__(self, argument: str, expected: str, got: str, fix: str = "") -> None:
        self.argument, self.expected, self.got, self.fix = argument, expected, got, fix
        super().__init__(argument, expected, got, fix)

    def __reduce__(self) -> tuple[Any, ...]:  # between processes; Dask would guess otherwise
        return type(self), (self.argument, self.expected, self.got, self.fix), self.__dict__

    def __str__(self) -> str:
        text = f"{self.argument}: expected {self.expected}, got {self.got}."
        return f"{text} {self.fix}" if self.fix else text


class InputError(GbdnnError, ValueError):
    """An argument has a value that cannot be used."""


class ShapeError(InputError):
    """The dimensions of an argument do not fit."""


class SparseFormatError(InputError):
    """The parts of a sparse matrix contradict each other."""


class NonFiniteError(InputError):
    """An argument holds NaN or infinity."""


class UnknownNameError(InputError):
    """A name that is not in the list of choices."""


class FileFormatError(InputError):
    """The content of a file is not what its format says."""


class DtypeError(GbdnnError, TypeError):
    """An argument has a type that cannot be used."""


class MemoryBudgetError(GbdnnError, MemoryError):
    """The request would allocate more memory than is allowed."""


class DataUnavailableError(GbdnnError, OSError):
    """Data could neither be found nor downloaded."""

    def __str__(self) -> str:  # OSError brings its own __str__
        return GbdnnError.__str__(self)


class MissingDependencyError(GbdnnError, ImportError):
    """An optional package is not installed."""

    def __str__(self) -> str:  # ImportError brings its own __str__
        return GbdnnError.__str__(self)


class BackendError(GbdnnError, RuntimeError):
    """A library underneath failed."""


class WorkerError(BackendError):
    """Workers of an executor, or ranks of a training, were lost.

    Attributes
    ----------
    done : tuple of (int, int)
        The rows, from .. to, of which there are results.
    """

    def __init__(
        self, argument: str, expected: str, got: str, fix: str = "", *,
        done: Iterable[tuple[int, int]] = (),
    ) -> None:  # fmt: skip
        super().__init__(argument, expected, got, fix)
        self.done = tuple(done)


class DivergenceError(GbdnnError, ArithmeticError, ValueError):
    """A loss or gradient is not finite; `result` is the training before that step."""

    def __init__(
        self, argument: str, expected: str, got: str, fix: str = "", *, result: Any = None
    ) -> None:
        super().__init__(argument, expected, got, fix)
        self.result = result


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during a training; `result` is the training after its last whole step.

    Attributes
    ----------
    signal : int
        SIGINT or SIGTERM.
    """

    def __init__(self, result: Any = None, *, signal: int = signal.SIGINT) -> None:
        super().__init__("training interrupted; the exception's `result` has what was reached")
        self.result, self.signal = result, signal


def choose(argument: str, name: object, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`, else raise `UnknownNameError` with the list."""
    known = sorted(known)
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(argument, "one of " + ", ".join(map(repr, known)), repr(name))
    return name
