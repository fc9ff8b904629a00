"""Levels of trust of stored results, which ``status.json`` at the top of a store records.

A store with a verified result is maintained: its results are ranked once they are spot-checked or re-run. In a store
without one, all results are somebody's own and are ranked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.files import write_json
from .layout import RESULT_DEPTH, STATUS
from .runs import Run
from .store import read_status_file

Level = Literal["own run", "self-reported", "spot-checked", "re-run"]
LEVELS: Mapping[Level, str] = {
    "re-run": "The maintainers measured all cases again. Every observation agreed.",
    "spot-checked": "The maintainers measured randomly drawn cases again. Every observation agreed.",
    "self-reported": "Only the authors of the result have run the method. Shown below the ranks and not ranked.",
    "own run": "A run of your own, or of a store in which no result was verified. Nobody else has run it. Ranked.",
}
"""Levels with their meaning, from the highest. The lowest level of its results is that of a row."""
_ORDER = tuple(LEVELS)


@dataclass(frozen=True)
class Trust:
    """How far a result, or a row of several results, was verified.

    Attributes:
        level: one of :data:`LEVELS`.
        checked: number of cases that were measured again.
        cases: number of all cases.
    """

    level: Level
    checked: int
    cases: int

    @property
    def ranked(self) -> bool:
        """Whether results of this level are ranked."""
        return self.level != "self-reported"

    @property
    def words(self) -> str:
        """The level in words.

        >>> Trust("spot-checked", 3, 20).words, Trust("re-run", 20, 20).words
        ('spot-checked (3 of 20 cases)', 're-run')
        """
        return f"{self.level} ({self.checked} of {self.cases} cases)" if self.level == "spot-checked" else self.level


def lowest(parts: Sequence[Trust]) -> Trust:
    """Return the trust in a row of several results: the lowest level, and the sums of the cases."""
    level = max((part.level for part in parts), key=_ORDER.index)
    return Trust(level, sum(part.checked for part in parts), sum(part.cases for part in parts))


def trust_of(run: Run, status: Mapping[Path, Mapping[str, Any]]) -> Trust:
    """Return the trust in a result.

    Args:
        run: a run folder or a stored result.
        status: see :func:`.store.read_status`.
    """
    cases = run.result.records.cases
    verified = any(note["rerun"] or note.get("spot_checked") for note in status.values())
    if not run.stem or not verified or not _status_path(run).is_file():
        return Trust("own run", 0, cases)
    note = status.get(run.result_path.resolve(), {})
    if note.get("sha256") != _digest(run):
        return Trust("self-reported", 0, cases)
    if note["rerun"]:
        return Trust("re-run", cases, cases)
    checked = len(note.get("spot_checked", ()))
    return Trust("spot-checked" if checked else "self-reported", checked, cases)


def mark_verified(run: Run, case_ids: Sequence[str], *, agrees: bool) -> None:
    """Write the outcome of a verification to the status file of a result's store. Other entries are kept.

    Args:
        run: the stored result.
        case_ids: ids of the cases that were measured again. All cases make the result re-run.
        agrees: whether every observation agreed. If not, the result becomes self-reported.

    Raises:
        KnbenchError: the status file is broken.
    """
    path = _status_path(run)
    notes = dict(read_status_file(path)["results"]) if path.exists() else {}
    whole = agrees and len(set(case_ids)) == run.result.records.cases
    note: dict[str, Any] = {"sha256": _digest(run), "rerun": whole}
    if agrees and not whole:
        note["spot_checked"] = sorted(case_ids)
    notes[run.result_path.resolve().relative_to(path.parent).as_posix()] = note
    write_json(path, {"schema_version": 1, "results": dict(sorted(notes.items()))})


def _status_path(run: Run) -> Path:
    """Return the path of the status file of the store that a result is in."""
    return run.result_path.resolve().parents[RESULT_DEPTH - 1] / STATUS


def _digest(run: Run) -> str:
    return hashlib.sha256(run.result_path.read_bytes()).hexdigest()
