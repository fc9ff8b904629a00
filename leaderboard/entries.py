"""Results grouped into sections that share tables, with the values of each case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..benchmark.core.documents import ModelCard, Result, TaskCard
from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.records import Record
from ..benchmark.core.schema import TaskKind
from ..benchmark.results.comparison import Values, case_means
from ..benchmark.results.documents import comparable, optional_conditions
from ..benchmark.results.layout import slug
from ..benchmark.results.method_names import describe_differences, differing_settings
from ..benchmark.results.runs import Run
from ..benchmark.results.trust import Trust
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.edit_score import CaseValues
from ..benchmark.scoring.formatting import SPLIT_NOTES, format_regime
from ..benchmark.scoring.summary import Table

BOARD_MEASURES = ("success", "exact", "token_accuracy", "generated", "magnitude")
"""Measures that have boards. A board shows one measure."""

TASK_KEYS = ("task", "version", "content")
"""Keys of :func:`comparable` that may differ between the results of a section."""

TaskKey = tuple[str, int]
"""Name and version of a task."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One result with the values of its cases.

    Attributes:
        run: the result and its location.
        values: by measure and criterion, the mean of each case over its probes.
        case_values: what the edit score is computed from.
        trust: how far the result was verified.
    """

    run: Run
    values: Mapping[str, Values]
    case_values: CaseValues
    trust: Trust

    @property
    def result(self) -> Result:
        """The result document."""
        return self.run.result

    @property
    def method(self) -> str:
        """Name of the editor."""
        return self.result.editor.name

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
    """

    key: str
    entries: Mapping[TaskKey, Mapping[str, Entry]]

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
        """Whether the runs were limited to some cases. Limited results are not ranked."""
        return bool(self.first.protocol.limit)

    def task_card(self, task: TaskKey) -> TaskCard:
        """Return the card of a task."""
        return next(iter(self.entries[task].values())).result.task

    def tasks(self, kind: TaskKind | None = None) -> list[TaskKey]:
        """Return all tasks, or the tasks of one kind; facts come before phenomena."""
        kinds = {task: self.task_card(task).kind for task in self.entries}
        return sorted((t for t in kinds if kind in (None, kinds[t])), key=lambda t: (kinds[t], t))

    def only(self, methods: Collection[str]) -> Section:
        """Return the section reduced to some methods and to the tasks that any of them has."""
        kept = {task: {n: e for n, e in members.items() if n in methods} for task, members in self.entries.items()}
        return Section(self.key, {task: members for task, members in kept.items() if members})

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


def sections_of(entries: Iterable[Entry]) -> list[Section]:
    """Group results into sections: unlimited sections first, then the largest.

    Raises:
        KnbenchError: two results have the same method, task, model and protocol, or the results of a section have
            different tokenizers or configurations of the model.
    """
    groups: dict[str, dict[TaskKey, dict[str, Entry]]] = {}
    conditions: dict[tuple[str, str], tuple[str, Entry]] = {}
    for entry in entries:
        for name, value in optional_conditions(entry.result).items():
            first, where = conditions.setdefault((section_key(entry.result), name), (value, entry))
            if first != value:
                raise KnbenchError(
                    f"model '{entry.result.model.name}' has another {name} in {where.run.result_path} than in "
                    f"{entry.run.result_path}; pass only one of them"
                )
        members = groups.setdefault(section_key(entry.result), {}).setdefault(entry.task, {})
        other = members.get(entry.method)
        if other:
            different = describe_differences(differing_settings([other.result, entry.result]))
            raise KnbenchError(
                f"two results of editor '{entry.method}' on task '{entry.task[0]}': {other.run.result_path} and "
                f"{entry.run.result_path}{f' ({different})' if different else ''}; pass only one of them"
            )
        members[entry.method] = entry
    sections = [Section(key, tasks) for key, tasks in groups.items()]
    return sorted(sections, key=lambda s: (s.limited, -sum(map(len, s.entries.values())), s.key))


def section_key(result: Result) -> str:
    """Return a short name of a result's model and protocol, equal for all results that can share a table."""
    conditions = {key: value for key, value in comparable(result).items() if key not in TASK_KEYS}
    protocol = result.protocol
    if protocol.regime != "sequential":
        conditions.pop("cases", None)  # the number of known cases differs between tasks
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:6]
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
        f"limited to {protocol.limit} cases, not ranked" if protocol.limit else "",
        "known cases only" if protocol.known_only else "",
        "BOS first" if protocol.bos_prepended else "no BOS",
        result.model.dtype,
        f"seed {result.seed}",
    ]
    return [note for note in notes if note]


def is_share(measure: str) -> bool:
    """Return whether a measure lies between 0 and 1."""
    return MEASURES[measure].share
