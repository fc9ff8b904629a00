"""Results grouped into sections that share tables, with the values of each case.

A section of a board contains the results that have its model, tasks and protocol. Results of no board are grouped by
model and protocol.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

from ..benchmark.core.documents import ModelCard, Result, TaskCard
from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.records import Record
from ..benchmark.core.schema import TaskKind
from ..benchmark.results.board_places import Place, places_of, unlike
from ..benchmark.results.boards import Board, BoardTable, Questions
from ..benchmark.results.comparison import Values, case_means
from ..benchmark.results.documents import OnBroken, comparable, optional_conditions, reraise
from ..benchmark.results.layout import slug
from ..benchmark.results.method_names import describe_differences, differing_settings
from ..benchmark.results.runs import Run
from ..benchmark.results.trust import Trust
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.edit_score import CaseValues, Scores, score
from ..benchmark.scoring.formatting import SPLIT_NOTES, format_regime
from ..benchmark.scoring.summary import Table

BOARD_MEASURES = ("success", "exact", "token_accuracy", "generated", "magnitude")
"""Measures that have boards. A board shows one measure."""

TASK_KEYS = ("task", "version", "content")
"""Keys of :func:`comparable` that may differ between the results of a section."""

MAX_REASONS = 6
"""Maximum number of reasons that a section states why its results belong to no board."""

TaskKey = tuple[str, int]
"""Name and version of a task."""


@dataclass(frozen=True)
class EditSize:
    """Size of the edits of a result: medians over its cases.

    Attributes:
        changed: bytes of the replaced parameters.
        memory: bytes kept beside the weights, texts for prompts included.
        facts: number of facts kept beside the weights.
    """

    changed: float
    memory: float
    facts: float

    @classmethod
    def of(cls, records: Iterable[Record]) -> EditSize | None:
        """Return the size of the edits of some records; None if no record states it."""
        sizes = [record.edit.size for record in records if record.edit.size is not None]
        if not sizes:
            return None
        memories = [size.memory + size.recall for size in sizes]
        return cls(median(s.weights for s in sizes), median(memories), median(s.entries for s in sizes))


@dataclass(frozen=True, eq=False)
class Entry:
    """One result with the values of its cases.

    Attributes:
        run: the result and its location.
        values: by measure and criterion, the mean of each case over its probes.
        case_values: what the edit score is computed from.
        trust: how far the result was verified.
        questions: its cases and probes.
        deviation: how cases or probes differ from those of the section's board, in words; empty if they are equal.
        size: size of its edits; None in results that do not state it.
    """

    run: Run
    values: Mapping[str, Values]
    case_values: CaseValues
    trust: Trust
    questions: Questions
    deviation: str = ""
    size: EditSize | None = None

    @property
    def result(self) -> Result:
        """The result document."""
        return self.run.result

    @property
    def method(self) -> str:
        """Name of the editor."""
        return self.result.editor.name

    @cached_property
    def score(self) -> Scores | None:
        """The edit score of all cases and its parts; None where it is undefined."""
        return score(self.case_values)

    @property
    def task(self) -> TaskKey:
        """Name and version of the task."""
        return self.result.task.name, self.result.task.version


@dataclass(frozen=True, eq=False)
class Section:
    """Results of one model that were measured with the same protocol and can share a table.

    Attributes:
        key: short name that depends only on model and protocol.
        entries: by task, then by method.
        board: the board that the section is a table of, with its ``table``; None for results of no board.
        reasons: for results of no board, how they differ from the boards, in words.
    """

    key: str
    entries: Mapping[TaskKey, Mapping[str, Entry]]
    board: Board | None = None
    table: BoardTable | None = None
    reasons: Sequence[str] = ()

    @property
    def first(self) -> Result:
        """One of the results, to read common properties from."""
        return next(entry.result for members in self.entries.values() for entry in members.values())

    @property
    def model(self) -> ModelCard:
        """The model."""
        return self.first.model

    @property
    def methods(self) -> list[str]:
        """Names of all methods, sorted."""
        return sorted({name for members in self.entries.values() for name in members})

    @property
    def limited(self) -> bool:
        """Whether the runs were limited to some cases, which no board demands. Limited results are not ranked."""
        return self.board is None and bool(self.first.protocol.limit)

    @property
    def required(self) -> list[TaskKey]:
        """Tasks that a row of the section's board must have; empty for results of no board."""
        if self.board is None or self.table is None:
            return []
        return [(name, self.board.tasks[name].version) for name in self.table.tasks]

    @property
    def has_one_task(self) -> bool:
        """Whether the overview of the section is the table of its only task."""
        return len(self.required or self.entries) == 1

    def task_card(self, task: TaskKey) -> TaskCard:
        """Return the card of a task."""
        return next(iter(self.entries[task].values())).result.task

    def tasks(self, kind: TaskKind | None = None) -> list[TaskKey]:
        """Return all tasks, or the tasks of one kind; facts come before phenomena."""
        kinds = {task: self.task_card(task).kind for task in self.entries}
        return sorted((t for t in kinds if kind in (None, kinds[t])), key=lambda t: (kinds[t], t))

    def only(self, tasks: Collection[TaskKey]) -> Section:
        """Return the section reduced to some tasks."""
        return replace(self, entries={task: members for task, members in self.entries.items() if task in tasks})

    def of(self, method: str) -> list[Entry]:
        """Return the entries of a method in the order of :meth:`tasks`."""
        return [self.entries[task][method] for task in self.tasks() if method in self.entries[task]]


def values_of(records: Sequence[Record], table: Table) -> dict[str, Values]:
    """Return the mean of each case over its probes, by measure and criterion.

    Args:
        records: the records.
        table: the result of :func:`case_table` for these records.
    """
    ids = [record.case_id for record in records]
    return {
        measure: {
            criterion: means
            for criterion in CRITERIA
            if (criterion, measure) in table and (means := case_means(ids, table[criterion, measure]))
        }
        for measure in BOARD_MEASURES
    }


def sections_of(
    entries: Iterable[Entry], boards: Mapping[str, Board] | None = None, on_broken: OnBroken = reraise
) -> list[Section]:
    """Group results into sections: tables of boards first, then unlimited results of no board; the largest first.

    The size of a table of a board is its number of ranked results, so that nobody else changes the order.

    Args:
        entries: the results.
        boards: definitions of boards by their keys.
        on_broken: called with the error of each result that is left out, because another one has the same method, task,
            model and protocol, or the model has another tokenizer or configuration than in other results.
    """
    groups = _Groups(on_broken)
    listed = sorted(entries, key=lambda entry: not entry.trust.ranked)
    places = [places_of(entry.result, entry.questions, boards or {}) for entry in listed]
    alone: list[tuple[Entry, list[Place]]] = []
    for entry, found in zip(listed, places, strict=True):
        for place in found:
            if place.exact:
                groups.add_to_board(entry, place)
    for entry, found in zip(listed, places, strict=True):
        near = [place for place in found if place.questions and not place.settings]
        shown = [place for place in near if groups.has_room(entry, place)]
        for place in shown:
            groups.add_to_board(replace(entry, deviation=place.questions), place)
        if not shown and not any(place.exact for place in found):
            alone.append((entry, found))
    for entry, found in alone:
        groups.add_alone(entry, found)
    return sorted(
        groups.sections(),
        key=lambda s: (s.board is None, s.limited, -_ranked_results(s), -sum(map(len, s.entries.values())), s.key),
    )


def _ranked_results(section: Section) -> int:
    """Return the number of results of a board's table that can be ranked; 0 for results of no board."""
    members = [entry for found in section.entries.values() for entry in found.values()] if section.board else []
    return sum(entry.trust.ranked and not entry.deviation for entry in members)


class _Groups:
    """Sections that are being filled."""

    def __init__(self, on_broken: OnBroken) -> None:
        self._on_broken = on_broken
        self._members: dict[str, dict[TaskKey, dict[str, Entry]]] = {}
        self._tables: dict[str, Place] = {}
        self._reasons: dict[str, list[str]] = {}
        self._conditions: dict[tuple[str, str], tuple[str, Entry]] = {}

    def has_room(self, entry: Entry, place: Place) -> bool:
        """Return whether the method has no result on the task in a table of a board."""
        return entry.method not in self._members.get(_board_key(entry.result, place), {}).get(entry.task, {})

    def add_to_board(self, entry: Entry, place: Place) -> None:
        """Add a result to a table of a board."""
        key = _board_key(entry.result, place)
        self._tables.setdefault(key, place)
        self._add(key, entry)

    def add_alone(self, entry: Entry, places: Sequence[Place]) -> None:
        """Add a result that belongs to no board.

        Args:
            entry: the result.
            places: the tables that it is nearest to.
        """
        key = section_key(entry.result)
        reasons = self._reasons.setdefault(key, [])
        for place in places or ():
            reason = f"{place.board.label}: {place.settings or place.questions}"
            if reason not in reasons:
                reasons.append(reason)
        self._add(key, entry)

    def sections(self) -> list[Section]:
        """Return the sections, in no particular order."""
        found = []
        for key, members in self._members.items():
            place = self._tables.get(key)
            board, table = (place.board, place.table) if place else (None, None)
            if board is not None:
                members = {task: _with_equal_cases(found_by_method) for task, found_by_method in members.items()}
            found.append(Section(key, members, board, table, tuple(self._reasons.get(key, ())[:MAX_REASONS])))
        return found

    def _add(self, key: str, entry: Entry) -> None:
        for name, value in optional_conditions(entry.result).items():
            first, where = self._conditions.setdefault((key, name), (value, entry))
            if first != value:
                error = (
                    f"model '{entry.result.model.name}' has another {name} in {where.run.result_path} than in "
                    f"{entry.run.result_path}; pass only one of them"
                )
                self._on_broken(KnbenchError(error))
                return
        members = self._members.setdefault(key, {}).setdefault(entry.task, {})
        other = members.get(entry.method)
        if other:
            different = describe_differences(differing_settings([other.result, entry.result]))
            error = (
                f"two results of editor '{entry.method}' on task '{entry.task[0]}': {other.run.result_path} and "
                f"{entry.run.result_path}{f' ({different})' if different else ''}; pass only one of them"
            )
            self._on_broken(KnbenchError(error))
            return
        members[entry.method] = entry


def _with_equal_cases(members: Mapping[str, Entry]) -> dict[str, Entry]:
    """Mark the results of a task on a board that have observations of other cases than the first one.

    The first one is that of the method ``none``, or else the first verified one.
    """
    first = members.get("none") or next(iter(members.values()))
    return {
        method: entry if entry.deviation else replace(entry, deviation=unlike(entry.questions, first.questions))
        for method, entry in members.items()
    }


def _board_key(result: Result, place: Place) -> str:
    """Return the key of a table of a board. A board of any model has one table per model and tokenization.

    Names of boards and tables have no dots, so that two tables have different keys whatever their models are called.
    """
    model = result.model
    words = [place.board.key, slug(model.name)]
    if place.board.any_model:
        identity = [model.weight_hash, model.tokenizer_hash, model.config_hash, result.protocol.bos_prepended]
        words[1] += "-" + (hashlib.sha256(json.dumps([model.name, *identity]).encode()).hexdigest()[:16])
    return ".".join([*words, place.table.name])


def section_key(result: Result) -> str:
    """Return a short name of a result's model and protocol, equal for all results that can share a table."""
    conditions = {key: value for key, value in comparable(result).items() if key not in TASK_KEYS}
    protocol = result.protocol
    if protocol.regime != "sequential":
        conditions.pop("cases", None)  # the number of known cases differs between tasks
    # So long that nobody finds settings with the key of others.
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
    size = {"single": "", "batch": protocol.batch_edits, "sequential": protocol.cases}[protocol.regime]
    words = [result.model.name, f"{protocol.regime}-{size}" if size else ""]
    words += [protocol.subset or "", f"limit-{protocol.limit}" if protocol.limit else ""]
    return slug("-".join(filter(None, words)) + "-" + digest)


def protocol_notes(section: Section) -> list[str]:
    """Describe a section's protocol in short notes."""
    result = section.first
    protocol = result.protocol
    notes = [
        format_regime(protocol),
        SPLIT_NOTES[protocol.split],
        "lite: a fixed sample of cases" if protocol.subset == "lite" else "",
        f"limited to {protocol.limit} cases, not ranked" if section.limited else "",
        f"the first {protocol.limit} cases" if protocol.limit and not section.limited else "",
        "known cases only" if protocol.known_only else "",
        "BOS first" if protocol.bos_prepended else "no BOS",
        result.model.dtype,
        f"seed {result.seed}",
    ]
    return [note for note in notes if note]


def is_share(measure: str) -> bool:
    """Return whether a measure lies between 0 and 1."""
    return MEASURES[measure].share
