"""Checks that records belong to the task that their result names. Needs no model."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.documents import Result
from ..core.errors import KnbenchError
from ..core.records import ProbeRecord, Record
from ..core.schema import Case, Probe, Task


def check_task(where: str, result: Result, records: Sequence[Record], task: Task) -> None:
    """Check that a result was taken on the current version of a task, and that its records ask the task's questions.

    Args:
        where: path of the result, for messages.
        result: the result.
        records: its records.
        task: the registered task.

    Raises:
        KnbenchError: the version, the content, a request or a probe differs.
    """
    if result.task.version != task.version:
        raise KnbenchError(
            f"{where}: taken on version {result.task.version} of task '{task.name}', which is now version "
            f"{task.version}; run it again, or score it as it is with --any-version"
        )
    if result.task.content_hash != task.content_hash():
        raise KnbenchError(
            f"{where}: task '{task.name}' version {task.version} had another content; one of them was changed"
        )
    cases = {case.id: case for case in task.cases}
    for record in records:
        if record.case_id not in cases:
            raise KnbenchError(f"{where}: task '{task.name}' has no case '{record.case_id}'")
        flaw = _flaw(record, cases[record.case_id], known_only=result.protocol.known_only)
        if flaw:
            raise KnbenchError(f"{where}: case '{record.case_id}' {flaw}; the records were changed")


def _flaw(record: Record, case: Case, *, known_only: bool) -> str | None:
    """Return how a record differs from its case, or None."""
    if record.request != case.request:
        return "has another edit request than the task"
    left = list(case.probes)
    for number, probe in enumerate(record.probes):
        if probe.kind in ("generation", "passages"):
            continue  # added by the run, not by the task
        # Under known-only, unchanged probes that the unedited model gets wrong are left out. All others are required.
        while left and not _asks(probe, left[0]):
            if not (known_only and left[0].expect == "unchanged"):
                return f"has another probe {number} than the task"
            left.pop(0)
        if not left:
            return f"has a probe {number} that the task does not have"
        left.pop(0)
    missing = [probe for probe in left if not (known_only and probe.expect == "unchanged")]
    return f"lacks {len(missing)} of the task's probes" if missing else None


def _asks(record: ProbeRecord, probe: Probe) -> bool:
    return all(getattr(record, name) == value for name, value in vars(probe).items())
