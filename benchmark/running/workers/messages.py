"""Messages between a run's process and its workers. All of them can be pickled."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import KnbenchError, first_line
from ..plan import CasesStarted, LinesWithdrawn, OutputLine, Plan, WorkItem

if TYPE_CHECKING:
    from ..evaluator import Evaluator


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its model; ``pid`` is its process id."""

    pid: int


@dataclass(frozen=True)
class Progress:
    """The worker starts a stage."""

    stage: str


@dataclass(frozen=True)
class Done:
    """The command is finished."""


@dataclass(frozen=True)
class Failed:
    """The command cannot be executed by any worker.

    Attributes:
        error: the error.
        cause: raised as the cause of the error.
    """

    error: Exception
    cause: Exception | None = None


class WorkerTraceback(Exception):
    """The traceback of an error in a worker, which ``--debug`` prints. A traceback itself cannot be pickled."""


def failed(error: BaseException) -> Failed:
    """Return the message of an error while a command is executed.

    Errors that the user can fix, errors of files and missing modules are sent as themselves, and a missing module also
    as their cause. Any other error is a bug; its message contains the traceback, which would be lost with the worker.
    """
    text = "in a worker:\n" + "".join(traceback.format_exception(error))
    if isinstance(error, SystemExit):
        return Failed(KnbenchError(f"a worker was ended by SystemExit: {first_line(error)}"), WorkerTraceback(text))
    if not isinstance(error, KnbenchError | OSError | ModuleNotFoundError):
        return Failed(RuntimeError(f"{error}\n\n{text}"))
    causes = (cause for cause in _causes(error) if isinstance(cause, ModuleNotFoundError))
    return Failed(_portable(error), next(causes, WorkerTraceback(text)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled: the error itself, or one of the same kind with its message.

    Libraries derive errors of files whose constructors have other arguments, and those cannot be unpickled.
    """
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:  # whatever its own methods raise
        pass
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(first_line(error))
    return KnbenchError(str(error)) if isinstance(error, KnbenchError) else ModuleNotFoundError(str(error))


def setup_failed(error: BaseException) -> Failed:
    """Return the message of a worker that cannot be set up; errors that the user can fix are kept."""
    if isinstance(error, KnbenchError):
        return failed(error)
    return Failed(KnbenchError(f"a worker cannot be set up: {type(error).__name__}: {first_line(error)}"))


Message = Ready | Progress | Done | Failed | CasesStarted | LinesWithdrawn | OutputLine | Plan
Emit = Callable[[Message], None]


class Command(Protocol):
    """A request to a worker."""

    def execute(self, evaluator: Evaluator, emit: Emit) -> None:
        """Execute the command on an evaluator, and emit what it gives."""


@dataclass(frozen=True)
class LoadModel:
    """Load the model."""

    def execute(self, evaluator: Evaluator, emit: Emit) -> None:
        """Do nothing: an evaluator holds its model."""


@dataclass(frozen=True)
class MakePlan:
    """Plan the run."""

    environment: Mapping[str, Any]

    def execute(self, evaluator: Evaluator, emit: Emit) -> None:
        """Emit the plan."""
        emit(evaluator.plan(self.environment))


@dataclass(frozen=True)
class MeasureItem:
    """Measure a unit."""

    item: WorkItem

    def execute(self, evaluator: Evaluator, emit: Emit) -> None:
        """Emit every line."""
        evaluator.measure(self.item, emit)
