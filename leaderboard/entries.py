"""What the pages are made from: results, sorted into sections that may share a table, with each case's numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.comparison import Values, case_means
from ..benchmark.results.documents import comparable
from ..benchmark.results.runs import Run
from ..benchmark.results.store import slug
from ..benchmark.scoring.criteria import CRITERIA, MEASURES

BOARD_MEASURES = ("success", "exact", "token_accuracy", "generated", "magnitude")
"""Measures that have boards of their own; never two in one table."""

TASK_KEYS = ("task", "version", "content")
"""What two results of a section may differ in."""

REGIME_NOTES = {
    "single": "single edits",
    "batch": "batches of {batch_edits} edits",
    "sequential": "after {cases} sequential edits",
}
SPLIT_NOTES = {"tune": "tuning cases only", "all": "tuning cases included"}


@dataclass(frozen=True, eq=False)
class Entry:
    """One result with its cases' numbers.

    Attributes:
        run: the result and where it lies.
        values: by measure, then by criterion, each case's mean over its probes.
        badges: what a reader is told of where it comes from.
    """

    run: Run
    values: Mapping[str, Values]
    badges: Sequence[str]

    @property
    def result(self) -> Mapping[str, Any]:
        """The result document."""
        return self.run.result

    @property
    def method(self) -> str:
        """The editor's name."""
        return str(self.run.result["editor"]["name"])

    @property
    def task(self) -> tuple[str, int]:
        """The task's name and version."""
        return self.run.result["task"]["name"], self.run.result["task"]["version"]


@dataclass(frozen=True, eq=False)
class Section:
    """Results of one model that were taken in the same way: what may stand in one table.

    Attributes:
        key: a short name that stays the same as long as the way does.
        entries: by task, then by method.
    """

    key: str
    entries: Mapping[tuple[str, int], Mapping[str, Entry]]

    @property
    def first(self) -> Mapping[str, Any]:
        """Any of its results, for what all have in common."""
        return next(entry.result for members in self.entries.values() for entry in members.values())

    @property
    def model(self) -> Mapping[str, Any]:
        """The model."""
        model: Mapping[str, Any] = self.first["model"]
        return model

    @property
    def methods(self) -> list[str]:
        """All methods, by name."""
        return sorted({name for members in self.entries.values() for name in members})

    @property
    def limited(self) -> bool:
        """Whether somebody chose how many cases to run: nothing in it is ranked."""
        return bool(self.first["protocol"]["limit"])

    def tasks(self, kind: str | None = None) -> list[tuple[str, int]]:
        """Return its tasks, of a kind or all, facts before phenomena."""
        kinds = {task: next(iter(members.values())).result["task"]["kind"] for task, members in self.entries.items()}
        return sorted((t for t in kinds if kind in (None, kinds[t])), key=lambda t: (kinds[t], t))

    def only(self, methods: Collection[str]) -> Section:
        """Return the same section with some methods alone, and the tasks that any of them has."""
        kept = {task: {n: e for n, e in members.items() if n in methods} for task, members in self.entries.items()}
        return Section(self.key, {task: members for task, members in kept.items() if members})

    def of(self, method: str) -> list[Entry]:
        """Return a method's entries, in the order of the tasks."""
        return [self.entries[task][method] for task in self.tasks() if method in self.entries[task]]


def values_of(records: Sequence[Mapping[str, Any]], table: Mapping[tuple[str, str], Any]) -> dict[str, Values]:
    """Return each case's numbers by measure and criterion, from what :func:`case_table` gives."""
    ids = [record["case_id"] for record in records]
    return {
        measure: {
            criterion: found
            for criterion in CRITERIA
            if (criterion, measure) in table and (found := case_means(ids, table[criterion, measure]))
        }
        for measure in BOARD_MEASURES
    }


def sections_of(entries: Iterable[Entry]) -> list[Section]:
    """Sort results into sections, the largest first.

    Raises:
        KnbenchError: two results would stand in the same row.
    """
    groups: dict[str, dict[tuple[str, int], dict[str, Entry]]] = {}
    for entry in entries:
        members = groups.setdefault(section_key(entry.result), {}).setdefault(entry.task, {})
        other = members.get(entry.method)
        if other:
            raise KnbenchError(
                f"two results of editor '{entry.method}' on task '{entry.task[0]}': {other.run.where} and "
                f"{entry.run.where}; name only one of them"
            )
        members[entry.method] = entry
    sections = [Section(key, tasks) for key, tasks in groups.items()]
    return sorted(sections, key=lambda s: (s.limited, -sum(map(len, s.entries.values())), s.key))


def section_key(result: Mapping[str, Any]) -> str:
    """Return a short name of how a result was taken, the same for all that may stand in one table."""
    how = {key: value for key, value in comparable(result).items() if key not in TASK_KEYS}
    regime = result["protocol"]["regime"]
    if regime != "sequential":
        how.pop("cases", None)  # how many cases a model knows differs from task to task
    digest = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:6]
    protocol = result["protocol"]
    number = {"single": "", "batch": protocol.get("batch_edits"), "sequential": protocol["cases"]}[regime]
    words = [result["model"]["name"], f"{regime}-{number}" if number else ""]
    words += [protocol.get("subset") or "", f"limit-{protocol['limit']}" if protocol["limit"] else ""]
    return slug("-".join(filter(None, words)) + "-" + digest)


def notes_of(section: Section) -> list[str]:
    """Say in words how a section's numbers were taken."""
    result = section.first
    protocol, model = result["protocol"], result["model"]
    notes = [REGIME_NOTES[protocol["regime"]].format(**protocol)]
    split = protocol.get("split", "all")  # results from before the split were taken on all cases
    notes.append(SPLIT_NOTES.get(split, ""))
    if protocol.get("subset") == "lite":
        notes.append("lite: a fixed draw of cases")
    if protocol["limit"]:
        notes.append(f"limited to {protocol['limit']} cases, not ranked")
    if protocol["known_only"]:
        notes.append("only what the unedited model gets right")
    notes.append("BOS first" if protocol["bos_prepended"] else "no BOS")
    return [note for note in [*notes, model["dtype"], f"seed {result['seed']}"] if note]


def share_of(measure: str) -> bool:
    """Whether a measure lies between 0 and 1."""
    return MEASURES[measure].share
