"""How a run is cut into pieces that can be measured anywhere, in any order, and give the same numbers.

A *block* is :data:`BLOCK` cases of a task, always the same ones: the unedited model is measured block by block, so that
what shares a batch does not depend on who measures. A *unit* is one editor on one or more whole blocks' worth of cases;
it never parts cases that are edited together. Sequential edits are one unit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.settings import RunSettings

BLOCK = 8
"""Cases whose unedited model is measured at once, and the fewest in a unit, for they are also what ROME edits at once.

Few enough that a dozen workers share a task, many enough that batches of probes are full.
"""

RunKey = tuple[str, str]
"""An editor and a task: one run folder."""
BlockKey = tuple[str, int]
"""A task and one of its blocks."""
FileName = Literal["records", "checkpoints", "drift"]


@dataclass(frozen=True)
class Unit:
    """One editor on the cases of a task from ``first`` up to, without, ``end``."""

    editor: str
    task: str
    first: int
    end: int

    def __str__(self) -> str:
        return f"{self.editor} on {self.task}, cases {self.first + 1} to {self.end}"

    @property
    def place(self) -> RunKey:
        """The editor and the task."""
        return self.editor, self.task

    @property
    def indices(self) -> range:
        """Places of its cases in the task's selection."""
        return range(self.first, self.end)

    @property
    def start(self) -> BlockKey:
        """What units that need the same answers of the unedited model have in common."""
        return self.task, self.first // BLOCK


@dataclass(frozen=True)
class Plan:
    """What a run comes to, once its model has been asked.

    Attributes:
        manifests: by place, what its folder's manifest says.
        cases: by task, the ids of the cases that are run, in order.
        together: by editor, how many cases it edits at once.
        origins: by editor, a digest of the weights, the hyper-parameters and what the editor prepared: where it
            differs, so may the numbers.
    """

    manifests: Mapping[RunKey, Mapping[str, Any]]
    cases: Mapping[str, Sequence[str]]
    joint_batch_size: Mapping[str, int]
    origins: Mapping[str, str]


@dataclass(frozen=True)
class OutputLine:
    """What was measured: a row of one of a run folder's files."""

    file: FileName
    row: Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """What a sequential run that goes on needs of a record: whether its edit failed, and the weights after it."""

    failed: bool
    weights: str | None


@dataclass(frozen=True)
class Completed:
    """What of a unit was measured before: keys of lines by file, and of sequential edits their states by case id."""

    keys: Mapping[FileName, Collection[Any]]
    states: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkItem:
    """A unit to be measured.

    Attributes:
        unit: which.
        written: what of it was measured before.
        origin: of :attr:`Plan.origins`, what the numbers must come from; None does not ask.
    """

    unit: Unit
    written: Completed
    origin: str | None = None


def units_of(plan: Plan, settings: RunSettings) -> list[Unit]:
    """Cut a run into units, in the order in which they are best begun: what shares a block stands together."""
    units = []
    for number, (task, ids) in enumerate(plan.cases.items()):
        for editor, joint_batch_size in plan.joint_batch_size.items():
            size = unit_size(len(ids), (settings.sequential and len(ids)) or settings.batch_edits or joint_batch_size)
            for first in range(0, len(ids), size):
                units.append((number, first, Unit(editor, task, first, min(first + size, len(ids)))))
    return [unit for _, _, unit in sorted(units, key=lambda found: found[:2])]


def unit_size(cases: int, joint_batch_size: int) -> int:
    """Return how many of a task's cases make a unit, where so many are edited at once.

    >>> unit_size(100, 1), unit_size(100, 8), unit_size(100, 3), unit_size(100, 50), unit_size(5, 1)
    (8, 8, 9, 50, 5)
    """
    return min(cases, -(-BLOCK // joint_batch_size) * joint_batch_size)


class WorkQueue:
    """Units that nobody has taken, so kept that those which ask the same of the unedited model go to one worker.

    >>> a, b, c = (Unit("rome", "capital", first, first + 8) for first in (0, 8, 16))
    >>> waiting = Waiting([a, b, c])
    >>> waiting.take(mine=b.start, theirs=[]) == b, waiting.take(mine=None, theirs=[a.start]) == c, bool(waiting)
    (True, True, True)
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._groups: dict[BlockKey, list[Unit]] = {}
        for unit in units:
            self._groups.setdefault(unit.start, []).append(unit)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, mine: BlockKey | None, theirs: Collection[BlockKey]) -> Unit:
        """Take out the unit that a worker best measures next.

        One for which it has asked the unedited model already, else one that no other worker has asked for, else any.

        Args:
            mine: the start of the unit that the worker measured last.
            theirs: those of the other workers.
        """
        fresh = next((start for start in self._groups if start not in theirs), next(iter(self._groups)))
        start = mine if mine in self._groups else fresh
        unit = self._groups[start].pop(0)
        if not self._groups[start]:
            del self._groups[start]
        return unit

    def put_back(self, unit: Unit) -> None:
        """Put a unit back, before all others."""
        others = self._groups.pop(unit.start, [])
        self._groups = {unit.start: [unit, *others], **self._groups}
