"""What a run's process and its workers say to each other. Everything here can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..plan import OutputLine, Plan, WorkItem

if TYPE_CHECKING:
    from ..evaluator import Evaluator


@dataclass(frozen=True)
class Ready:
    """The worker has its model; ``pid`` is its process there."""

    pid: int


@dataclass(frozen=True)
class Doing:
    """A stage begins."""

    what: str


@dataclass(frozen=True)
class Done:
    """What was asked for is done."""


@dataclass(frozen=True)
class Failed:
    """It cannot be done, anywhere."""

    error: Exception


Message = Ready | Doing | Done | Failed | OutputLine | Plan
Emit = Callable[[Message], None]


class Command(Protocol):
    """What a worker can be asked."""

    def answer(self, evaluator: Evaluator, emit: Emit) -> None:
        """Let a workbench do it."""


@dataclass(frozen=True)
class LoadModel:
    """Have the model ready."""

    def answer(self, evaluator: Evaluator, emit: Emit) -> None:
        """Do nothing: a workbench has its model."""


@dataclass(frozen=True)
class MakePlan:
    """Say what the run comes to."""

    environment: Mapping[str, Any]

    def answer(self, evaluator: Evaluator, emit: Emit) -> None:
        """Tell the plan."""
        emit(evaluator.plan(self.environment))


@dataclass(frozen=True)
class MeasureItem:
    """Measure a unit."""

    order: WorkItem

    def answer(self, evaluator: Evaluator, emit: Emit) -> None:
        """Tell every line."""
        evaluator.measure(self.order, emit)
