"""Messages between a run's process and its workers. All of them can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...core.errors import KnbenchError, first_line
from ..plan import CasesStarted, OutputLine, Plan, WorkItem

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
    """The command cannot be executed by any worker."""

    error: Exception


def setup_failed(error: Exception) -> Failed:
    """Return the message of a worker that cannot be set up; errors that the user can fix are kept."""
    if isinstance(error, KnbenchError):
        return Failed(error)
    return Failed(KnbenchError(f"a worker cannot be set up: {type(error).__name__}: {first_line(error)}"))


Message = Ready | Progress | Done | Failed | CasesStarted | OutputLine | Plan
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
