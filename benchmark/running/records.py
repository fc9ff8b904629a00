"""Builds records from edits and observations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.records import EditRecord, Failure, Observation, ProbeRecord, Record, Timings
from ..core.schema import Case
from ..editing import Edit
from .attempts import Attempt


def make_record(
    index: int,
    case: Case,
    attempt: Attempt,
    before: Sequence[Observation] | None,
    after: Sequence[Observation] | None,
    failure: Failure | None,
    *,
    probe_seconds: float | None = None,
    state: str | None = None,
) -> Record:
    """Build the record of a case.

    Args:
        index: position of the case in the run.
        case: the case.
        attempt: its edit, or the failure to compute one.
        before: observations of the unedited model, one per probe; None if the case could not be measured.
        after: observations of the edited model; None if they were not taken.
        failure: the error that prevented edit or measurement.
        probe_seconds: time of the measurement after the edit.
        state: for sequential runs, the fingerprint of the weights after the edit.
    """
    missing: Sequence[Observation | None] = [None] * len(case.probes)
    edit = attempt.edit or Edit()
    return Record(
        index=index,
        case_id=case.id,
        source=case.source,
        request=case.request,
        edit=EditRecord(
            parameters=tuple(sorted(edit.weights)),
            parameters_touched=sum(tensor.numel() for tensor in edit.weights.values()),
            modules=tuple(sorted(edit.outputs)),
            prefix=edit.prefix,
            diagnostics=json_values(edit.diagnostics),
            state=state,
        ),
        probes=tuple(
            ProbeRecord(**vars(probe), before=b, after=a)
            for probe, b, a in zip(case.probes, before or missing, after or missing, strict=True)
        ),
        failure=failure,
        timings=Timings(
            edit_seconds=attempt.seconds, probe_seconds=probe_seconds, peak_memory_mb=attempt.peak_memory_mb
        ),
    )


def json_values(value: Any) -> Any:
    """Return a value in a form that JSON can hold. Infinite and NaN floats, as divergent losses have, become text."""
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
