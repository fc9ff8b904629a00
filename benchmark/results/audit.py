"""Checks that records belong to the task that their result names. Needs no model.

A version that only adds criteria keeps the results of earlier versions valid: without the probes of the added criteria,
its cases have the content hash of the earlier version, and records are compared with these cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..core.documents import Result
from ..core.errors import KnbenchError
from ..core.extra_probes import extra_probes
from ..core.records import ProbeRecord, Record, RequestRecord
from ..core.schema import Case, Probe, Task
from ..core.split import ordered_cases

_ADDED = {"generation": "fluency", "passages": "integrity"}
"""Kinds of probes that a run adds to those of its task, with their criteria."""


def check_task(where: str, result: Result, records: Sequence[Record], task: Task) -> Task:
    """Check that a result was taken on a known version of a task, and that its records ask the task's questions.

    Args:
        where: path of the result, for messages.
        result: the result.
        records: its records.
        task: the registered task.

    Returns:
        The task in the version that was run.

    Raises:
        KnbenchError: the version is unknown, or the content, a request or a probe differs.
    """
    version, content_hash = result.task.version, result.task.content_hash
    asked = task if version == task.version else earlier_version(task, version, result.task.criteria)
    if asked.content_hash() != content_hash:
        if version == task.version:
            raise KnbenchError(
                f"{where}: task '{task.name}' version {version} had another content; one of them was changed"
            )
        raise KnbenchError(
            f"{where}: taken on version {version} of task '{task.name}', which is now version {task.version}; run it "
            "again, or score it as it is with --any-version"
        )
    if (result.task.kind, result.task.cases_total) != (task.kind, len(task.cases)):
        raise KnbenchError(
            f"{where}: task '{task.name}' is of kind '{task.kind}' with {len(task.cases)} cases; /task states another "
            "kind or number"
        )
    cases = {case.id: case for case in asked.cases}
    for record in records:
        if record.case_id not in cases:
            raise KnbenchError(f"{where}: task '{task.name}' has no case '{record.case_id}'")
        case = cases[record.case_id]
        case = replace(case, probes=(*case.probes, *extra_probes(case, result.protocol.probes or ())))
        flaw = _flaw(record, case, known_only=result.protocol.known_only) or _added(record, result)
        if flaw:
            raise KnbenchError(f"{where}: case '{record.case_id}' {flaw}; the records were changed")
    return asked


def earlier_version(task: Task, version: int, criteria: Sequence[str]) -> Task:
    """Return a task without the probes of criteria that an earlier version did not have, in the order of that version.

    The content hash shows whether the earlier version had these cases.
    """
    kept = frozenset(criteria)
    cases = [replace(case, probes=tuple(p for p in case.probes if p.criterion in kept)) for case in task.cases]
    return replace(task, version=version, cases=ordered_cases(task.name, version, cases))


def _flaw(record: Record, case: Case, *, known_only: bool) -> str | None:
    """Return how a record differs from its case, or None."""
    if (record.request, *(record.further or ())) != tuple(map(RequestRecord.of, case.requests)):
        return "has another edit request than the task"
    # Left out are probes whose condition the unedited model does not fulfil and, under known-only, unchanged probes
    # that it gets wrong. All others are required.
    conditional = {number for condition in case.conditions for number in condition.probes}
    optional = [n in conditional or (known_only and probe.expect == "unchanged") for n, probe in enumerate(case.probes)]
    left = list(zip(case.probes, optional, strict=True))
    for number, probe in enumerate(record.probes):
        if probe.kind in _ADDED:
            continue  # added by the run, not by the task
        while left and not _asks(probe, left[0][0]):
            if not left[0][1]:
                return f"has another probe {number} than the task"
            left.pop(0)
        if not left:
            return f"has a probe {number} that the task does not have"
        left.pop(0)
    missing = [probe for probe, may_be_missing in left if not may_be_missing]
    return f"lacks {len(missing)} of the task's probes" if missing else None


def _added(record: Record, result: Result) -> str | None:
    """Return how the probes that a run adds to those of a task differ from its protocol, or None."""
    added = [(probe.kind, probe.criterion) for probe in record.probes if probe.kind in _ADDED]
    if any(_ADDED[kind] != criterion for kind, criterion in added) or len(added) != len(set(added)):
        return "has an added probe of another criterion, or twice"
    measured = {criterion for _, criterion in added}
    protocol = result.protocol
    for criterion, wanted in (("fluency", protocol.fluency_tokens > 0), ("integrity", protocol.integrity is not None)):
        if wanted != (criterion in measured) and record.failure is None:
            return f"lacks the probe of {criterion}" if wanted else f"has a probe of {criterion}, unlike its protocol"
    return None


def _asks(record: ProbeRecord, probe: Probe) -> bool:
    return all(getattr(record, name) == value for name, value in vars(probe).items())
