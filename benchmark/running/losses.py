"""Attributes lost workers to the cases that they were editing or measuring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..core.errors import KnbenchError
from ..core.records import Failure
from .plan import Unit

MAX_LOSSES = 20
"""Number of workers that may be lost in a row without a case that ended them, before the run stops."""
MAX_ATTEMPTS = 3
"""Number of workers that a case may end before it is recorded as failed."""
Cases = tuple[str, ...]


class Losses:
    """Counts the workers that were lost with each unit.

    Cases that are edited together and end :data:`MAX_ATTEMPTS` workers are edited one by one from then on. A case that
    ends as many workers on its own, or a batch, fails.

    Example: ``losses.started(unit, ["a"]); losses.add(unit, "killed", divisible=True); losses.of(unit)``
    """

    def __init__(self) -> None:
        self._started: dict[Unit | None, Cases] = {}
        self._counts: Counter[tuple[Unit | None, Cases]] = Counter()
        self._failures: dict[Unit | None, dict[str, Failure]] = {}
        self._alone: set[Unit | None] = set()

    def of(self, unit: Unit) -> tuple[Mapping[str, Failure], bool]:
        """Return the failures of a unit's cases by case id, and whether its cases are edited one by one."""
        return self._failures.get(unit, {}), unit in self._alone

    def started(self, unit: Unit, cases: Cases) -> None:
        """Note the cases that a unit's worker starts."""
        self._started[unit] = cases

    def measured(self, unit: Unit) -> None:
        """Note that a line of a unit was measured."""
        for key in ((unit, self._started.pop(unit, ())), (unit, ()), (None, ())):
            self._counts.pop(key, None)

    def add(self, unit: Unit | None, reason: str, *, divisible: bool = False) -> None:
        """Attribute a lost worker.

        Args:
            unit: the unit that it was measuring; None if it was loading or planning.
            reason: how it was lost.
            divisible: whether cases that are edited together can be edited one by one.

        Raises:
            KnbenchError: more than :data:`MAX_LOSSES` workers were lost before they started a case.
        """
        cases = self._started.pop(unit, ())
        self._counts[unit, cases] += 1
        count = self._counts[unit, cases]
        if not cases and count > MAX_LOSSES:
            raise KnbenchError(
                f"{f'{unit}: ' if unit else ''}{count} workers were lost in a row with nothing measured in between "
                f"({reason}); start the same command again to continue, with fewer workers if memory is short"
            )
        if not cases or count < MAX_ATTEMPTS:
            return
        if len(cases) > 1 and divisible and unit not in self._alone:
            self._alone.add(unit)
        else:
            failure = Failure(phase="edit", type="WorkerLost", message=f"{reason}, in {MAX_ATTEMPTS} attempts")
            self._failures.setdefault(unit, {}).update(dict.fromkeys(cases, failure))
