"""The plan of a run: units of work that give the same numbers wherever and in whatever order they are measured.

A *block* is :data:`BLOCK` consecutive cases of a task. The unedited model is measured block by block, so that the cases
that share a batch do not depend on the worker. A *unit* is one editor on consecutive cases. It has at least the size of
a block and never separates cases that are edited together. A sequential run is one unit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..core.documents import Manifest
from ..core.records import CheckpointLine, DriftLine, Failure, Record
from ..core.settings import RunSettings

BLOCK = 8
"""Cases whose unedited model is measured at once, and minimum number of cases in a unit.

ROME optimises as many requests together. The number is small enough for a dozen workers to share a task, and large
enough to fill batches of probes.
"""

RunKey = tuple[str, str]
"""Editor and task: identifies a run folder."""
BlockKey = tuple[str, int]
"""Task and number of a block."""
FileName = Literal["records", "checkpoints", "drift"]


@dataclass(frozen=True)
class Unit:
    """One editor on the cases of a task from index ``first`` to ``end`` (exclusive)."""

    editor: str
    task: str
    first: int
    end: int

    def __str__(self) -> str:
        return f"{self.editor} on {self.task}, cases {self.first + 1} to {self.end}"

    @property
    def run(self) -> RunKey:
        """The editor and the task."""
        return self.editor, self.task

    @property
    def indices(self) -> range:
        """Indices of its cases in the run."""
        return range(self.first, self.end)

    @property
    def block(self) -> BlockKey:
        """The first block of its cases; units with the same block need the same answers of the unedited model."""
        return self.task, self.first // BLOCK


@dataclass(frozen=True)
class Plan:
    """A run that is ready to be measured.

    Attributes:
        manifests: manifest of each run folder.
        cases: by task, the ids of the cases in their order.
        joint_batch_sizes: by editor, the number of cases that are edited together.
        digests: by editor, a digest of the model's weights, the hyper-parameters and the prepared values. A worker with
            another digest would give other numbers.
        warnings: sentences for the user, for example on cases whose edits contradict each other.
    """

    manifests: Mapping[RunKey, Manifest]
    cases: Mapping[str, Sequence[str]]
    joint_batch_sizes: Mapping[str, int]
    digests: Mapping[str, str]
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class OutputLine:
    """A measured line of one of a run folder's files."""

    file: FileName
    line: Record | CheckpointLine | DriftLine


@dataclass(frozen=True)
class CasesStarted:
    """Cases whose edit or measurement starts; the loss of the worker after it is attributed to them."""

    case_ids: tuple[str, ...]


@dataclass(frozen=True)
class LinesWithdrawn:
    """Keys, by file, of emitted lines that are not valid, because the model was found changed after them."""

    keys: Mapping[FileName, Collection[Any]]


@dataclass(frozen=True)
class EditState:
    """A recorded sequential edit: whether it failed, and the fingerprint of the weights and of the state after it."""

    failed: bool
    weights: str | None


@dataclass(frozen=True)
class Completed:
    """The part of a unit that was measured before.

    Attributes:
        keys: keys of the lines in each file.
        states: for sequential runs, the state after each recorded edit by case id.
    """

    keys: Mapping[FileName, Collection[Any]]
    states: Mapping[str, EditState] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkItem:
    """A unit to be measured.

    Attributes:
        unit: the unit.
        case_ids: ids of the cases in all blocks that the unit covers, by their index in the run.
        completed: the part that was measured before.
        digest: the value of :attr:`Plan.digests` that the worker must have; None skips the check.
        lost: failures of cases that ended several workers, by case id. They are recorded without an attempt.
        alone: whether each case is edited on its own, because joint edits ended several workers.
    """

    unit: Unit
    case_ids: Mapping[int, str]
    completed: Completed
    digest: str | None = None
    lost: Mapping[str, Failure] = field(default_factory=dict)
    alone: bool = False


def covered_blocks(indices: range, cases: int) -> range:
    """Return the indices of all cases in the blocks that some cases lie in.

    >>> covered_blocks(range(9, 12), 100), covered_blocks(range(9, 12), 14)
    (range(8, 16), range(8, 14))
    """
    return range(indices.start // BLOCK * BLOCK, min(-(-indices.stop // BLOCK) * BLOCK, cases))


def units_of(plan: Plan, settings: RunSettings) -> list[Unit]:
    """Return the units of a run in the order in which to start them. Units that share a block are adjacent."""
    units = []
    for number, (task, ids) in enumerate(plan.cases.items()):
        for editor, joint_batch_size in plan.joint_batch_sizes.items():
            size = unit_size(len(ids), (settings.sequential and len(ids)) or settings.batch_edits or joint_batch_size)
            for first in range(0, len(ids), size):
                units.append((number, first, Unit(editor, task, first, min(first + size, len(ids)))))
    return [unit for _, _, unit in sorted(units, key=lambda entry: entry[:2])]


def unit_size(cases: int, joint_batch_size: int) -> int:
    """Return the number of cases in a unit, a multiple of the number that is edited together.

    >>> unit_size(100, 1), unit_size(100, 8), unit_size(100, 3), unit_size(100, 50), unit_size(5, 1)
    (8, 8, 9, 50, 5)
    """
    return min(cases, -(-BLOCK // joint_batch_size) * joint_batch_size)


class WorkQueue:
    """Units that no worker has taken. Units that need the same answers of the unedited model go to one worker.

    >>> a, b, c = (Unit("rome", "capital", first, first + 8) for first in (0, 8, 16))
    >>> same = Unit("ft", "capital", 0, 8)
    >>> queue = WorkQueue([a, same, b, c])
    >>> queue.take(worker=0) == a, queue.take(worker=1) == b, queue.take(worker=0) == same, bool(queue)
    (True, True, True, True)
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._groups: dict[BlockKey, list[Unit]] = {}
        for unit in units:
            self._groups.setdefault(unit.block, []).append(unit)
        self._last: dict[int, BlockKey] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def take(self, worker: int) -> Unit:
        """Remove and return the next unit for a worker.

        The order of preference is: a unit of the block that the worker has measured, a unit of a block that no other
        worker has measured, any unit.
        """
        own, others = self._last.pop(worker, None), set(self._last.values())
        block = next((key for key in self._groups if key not in others), next(iter(self._groups)))
        if own in self._groups:
            block = own
        unit = self._groups[block].pop(0)
        if not self._groups[block]:
            del self._groups[block]
        self._last[worker] = block
        return unit

    def put_back(self, unit: Unit, worker: int) -> None:
        """Return a unit to the front of the queue, because its worker was lost."""
        self._last.pop(worker, None)
        self._groups = {unit.block: [unit, *self._groups.pop(unit.block, [])], **self._groups}
