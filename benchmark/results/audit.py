"""Whether records are of the task that they say they are of. Needs no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..core.errors import KnbenchError
from ..core.schema import Case, Task

Row = Mapping[str, Any]


def check_task(where: str, result: Row, records: Sequence[Row], task: Task) -> None:
    """Make sure that a result was taken on a task as it is now, and that its records ask what the task asks.

    Raises:
        KnbenchError: the version, the content, a case's request or one of its probes is another.
    """
    about = result["task"]
    if about["version"] != task.version:
        raise KnbenchError(
            f"{where}: taken on version {about['version']} of task '{task.name}', which is now version {task.version}; "
            "run it again, or score it as it is with --any-version"
        )
    if about["content_hash"] != task.content_hash():
        raise KnbenchError(
            f"{where}: task '{task.name}' version {task.version} had another content; one of them was changed"
        )
    cases = {case.id: case for case in task.cases}
    for record in records:
        if record["case_id"] not in cases:
            raise KnbenchError(f"{where}: task '{task.name}' has no case '{record['case_id']}'")
        flaw = _flaw(record, cases[record["case_id"]], known_only=result["protocol"]["known_only"])
        if flaw:
            raise KnbenchError(f"{where}: case '{record['case_id']}' {flaw}; the records were changed")


def _flaw(record: Row, case: Case, *, known_only: bool) -> str | None:
    """Return in what a record differs from its case."""
    wanted = _plain(asdict(case.request))
    if {**wanted, **record["request"]} != wanted:
        return "has another edit request than the task"
    left = [_plain(asdict(probe)) for probe in case.probes]
    for number, probe in enumerate(record["probes"]):
        if probe["kind"] == "generation":
            continue  # the run adds it, not the task
        asked = {key: value for key, value in probe.items() if key not in ("before", "after")}
        # What the unedited model gets wrong is left out of unchanged probes; all others must be there, in order.
        while left and {**left[0], **asked} != left[0]:
            if not (known_only and left[0]["expect"] == "unchanged"):
                return f"has another probe {number} than the task"
            left.pop(0)
        if not left:
            return f"has a probe {number} that the task does not have"
        left.pop(0)
    missing = [probe for probe in left if not (known_only and probe["expect"] == "unchanged")]
    return f"lacks {len(missing)} of the task's probes" if missing else None


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value))
