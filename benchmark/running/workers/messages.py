"""What a run's process and its workers say to each other. Everything here can be sent to another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..plan import Line, Order, Plan

if TYPE_CHECKING:
    from ..evaluator import Workbench


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


Message = Ready | Doing | Done | Failed | Line | Plan
Tell = Callable[[Message], None]


class Question(Protocol):
    """What a worker can be asked."""

    def answer(self, bench: Workbench, tell: Tell) -> None:
        """Let a workbench do it."""


@dataclass(frozen=True)
class Load:
    """Have the model ready."""

    def answer(self, bench: Workbench, tell: Tell) -> None:
        """Do nothing: a workbench has its model."""


@dataclass(frozen=True)
class MakePlan:
    """Say what the run comes to."""

    environment: Mapping[str, Any]

    def answer(self, bench: Workbench, tell: Tell) -> None:
        """Tell the plan."""
        tell(bench.plan(self.environment))


@dataclass(frozen=True)
class Measure:
    """Measure a unit."""

    order: Order

    def answer(self, bench: Workbench, tell: Tell) -> None:
        """Tell every line."""
        bench.measure(self.order, tell)
