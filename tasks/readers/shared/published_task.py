"""Builds the task of a published data set, and the reader object that entry points refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ....benchmark.core.errors import KnbenchError
from ....benchmark.core.schema import Case, JsonObject, Task, TaskKind, digest
from ....benchmark.scoring.criteria import CRITERIA
from .cases import EditFields, build_cases, build_edit_case
from .recognition import suggestion
from .rows import Row, load_rows, resolve_file
from .skips import SkipReport

TASK_VERSION = 3
"""Version of the tasks of a reader without a version of its own.

Since version 2, portability probes have a rival of their own or none. Since version 3, records without a true answer
are cases.
"""
ORDER_SEED = 1
"""Seed of the order of cases. It differs from the version because the order is the same in all versions."""


@dataclass(frozen=True)
class PublishedReader:
    """Reads one published data set as a task. Entry points of the group ``knbench.readers`` refer to instances.

    Attributes:
        name: the name of the reader, equal to the name of its entry point.
        load: maps a selection (a relation, a paradigm, or None) and a source to the task and the report of skips.
        default_source: the Hub id that is read when no source is given; None if the Hub has no copy in a supported
            format.
    """

    name: str
    load: Callable[[str | None, str], tuple[Task, SkipReport]]
    default_source: str | None = None

    def read(self, selection: str | None = None, source: str | None = None) -> tuple[Task, SkipReport]:
        """Return the task, and a report of the records and probes that were skipped.

        Args:
            selection: the part to read: a relation, a paradigm.
            source: a file, a folder, a Hub id (``owner/name``) or a file on the Hub
                (``owner/name:path/in/repository.json``); ``default_source`` if None.

        Raises:
            KnbenchError: the selection or the source does not exist, or no record can be read.
        """
        source = source or self.default_source
        if source is None:
            raise KnbenchError(
                f"{self.name} has no default source; give a file, a folder or owner/name:file on the Hub"
            )
        return self.load(selection, source)

    def __call__(self, name: str, selection: str | None, source: str | None) -> tuple[Task, list[str]]:
        """Return the task, and a one-line note if anything was skipped: the protocol of the entry-point group.

        Raises:
            KnbenchError: see :meth:`read`.
        """
        del name  # the protocol passes it because one plug-in function may serve several entry points
        task, report = self.read(selection, source)
        if not report.reasons:
            return task, []
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.reasons.items())
        return task, [
            f"{task.name}: read {len(task.cases)} records, skipped {report.skipped} ({reasons}); "
            f"first skip: {report.first}"
        ]


@dataclass(frozen=True)
class TaskCard:
    """The version and provenance of a task; each field is the field of ``Task`` of the same name."""

    name: str
    kind: TaskKind
    title: str
    description: str
    licence: str
    citation: str
    source: str
    relation: str
    version: int = TASK_VERSION


def reject_selection(reader: str, selection: str | None) -> None:
    """Check that no selection is given to a reader of a data set without parts.

    Raises:
        KnbenchError: a selection is given.
    """
    if selection is not None:
        raise KnbenchError(f"{reader} has no selections; use '{reader}' instead of '{reader}:{selection}'")


def edit_reader(
    card: TaskCard, parse: Callable[[Row, SkipReport], EditFields], default_source: str | None = None
) -> PublishedReader:
    """Return the reader of an editing data set that is one file. Its name is that of the task.

    Args:
        card: the provenance of the task.
        parse: see :func:`build_edit_task`.
        default_source: see :class:`PublishedReader`.
    """

    def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
        reject_selection(card.name, selection)
        source = resolve_file(source, card.name)
        report = SkipReport()
        return build_edit_task(load_rows(source, report), parse, report, source, card)

    return PublishedReader(card.name, load, default_source)


def build_edit_task(
    rows: Sequence[Row],
    parse: Callable[[Row, SkipReport], EditFields],
    report: SkipReport,
    source: str,
    card: TaskCard,
) -> tuple[Task, SkipReport]:
    """Return the task of an editing data set.

    Case ids end with the record's ``case_id`` if that is an integer, and with the index of the record otherwise.

    Args:
        rows: the records.
        parse: converts a record; raises ``SkipRecord`` if that is impossible, and reports skipped probes.
        report: counts the skipped records and probes.
        source: the source as error messages name it.
        card: the provenance of the task.

    Raises:
        KnbenchError: no record can become a case.
    """

    def make(row: Row) -> Case:
        number = row.value.get("case_id")
        if isinstance(number, str) and number.isdecimal():  # a cell of a CSV file
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool):
            number = row.location.index
        case_id, case_source = f"{card.name}-{number:05d}", f"{card.title}, entry {number}"
        return build_edit_case(parse(row, report), case_id, case_source, row.location, report)

    cases = build_cases(rows, lambda row: row.location, make, report)
    return build_task(cases, report, source, card, records=[row.value for row in rows])


def build_task(
    cases: Sequence[Case],
    report: SkipReport,
    source: str,
    card: TaskCard,
    pairs: Sequence[JsonObject] = (),
    records: Iterable[Any] = (),
) -> tuple[Task, SkipReport]:
    """Return the task with its cases in a fixed shuffled order, and the report.

    Args:
        cases: the cases.
        report: counts the skipped records and probes.
        source: the source as error messages name it.
        card: the provenance of the task. Its name begins with the name of the reader.
        pairs: minimal pairs.
        records: the records of the source, which an error message identifies if no reader of theirs was used.

    Raises:
        KnbenchError: there are neither cases nor minimal pairs.
    """
    if not cases and not pairs:
        raise _no_records(source, report, list(records), card.name.partition("-")[0])
    # The order is a fixed shuffle: the first cases are then a fair sample, not the beginning of the file.
    ordered = tuple(sorted(cases, key=lambda case: digest([card.name, ORDER_SEED, case.id])))
    probed = {probe.criterion for case in ordered for probe in case.probes}
    criteria = tuple(name for name in CRITERIA if name in probed)
    return Task(**vars(card), criteria=criteria, cases=ordered, pairs=tuple(pairs)), report


def _no_records(source: str, report: SkipReport, records: Sequence[Any], reader: str) -> KnbenchError:
    if not report.skipped:
        return KnbenchError(f"{source}: the source has no records; check that it is the right file")
    advice = suggestion(records, reader)
    if advice is None:
        fields = ", ".join(list(records[0])[:12]) if records else ""
        advice = "check that the file matches the reader" + (
            f"; fields of the first record: {fields}" if fields else ""
        )
    reasons = report.reasons
    most_frequent = max(reasons, key=lambda reason: reasons[reason])
    return KnbenchError(
        f"{source}: no record can be read: {report.skipped} skipped, most frequent reason: {most_frequent} (first: "
        f"{report.first}); {advice}"
    )
