"""Checks that a result has the cases of a task that its protocol selects, and no choice of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.documents import Result
from ..core.records import Record
from ..core.schema import Task
from ..core.split import LITE_CASES, lite_cases, lite_order, split_cases
from ..scoring.summary import in_order
from .plausibility import SAME_MODEL_TOLERANCE

_SELDOM_FIRST = -2.0
"""Log-probability below which rounding hardly makes a token the most probable one."""


def selection_flaw(result: Result, records: Sequence[Record], task: Task) -> str | None:
    """Return how the cases of a result differ from those that a run selects, or None.

    Which cases a model knows is not known here. With ``known_only``, the cases must be test cases in the order of a
    run; results of other methods show whether some are missing.

    Args:
        result: the result.
        records: its records.
        task: the task in the version that was run.
    """
    protocol = result.protocol
    ids = [record.case_id for record in in_order(records)]
    pool = split_cases(task.name, task.cases, protocol.split)
    in_pool = {case.id for case in pool}
    outside = next((case_id for case_id in ids if case_id not in in_pool), None)
    if outside is not None:
        return f"case '{outside}' is not a {protocol.split} case of task '{task.name}'; run the {protocol.split} cases"
    unknown = next(
        (record for record in records if protocol.known_only and _is_unknown(record, protocol.known_by)), None
    )
    if unknown is not None:
        return f"the unedited model does not know case '{unknown.case_id}' by '{protocol.known_by}'"
    if protocol.known_only:
        order = lite_order(task.name, pool) if protocol.subset == "lite" else pool
        position = {case.id: number for number, case in enumerate(order)}
        places = [position[case_id] for case_id in ids]
        if places != sorted(places):
            return "the cases are not in the order of a run; run them again"
        if protocol.subset == "lite" and len(ids) > LITE_CASES:
            return f"the lite subset has {LITE_CASES} cases, and the result has {len(ids)}"
        if protocol.limit is not None and len(ids) > protocol.limit:
            return f"the run is limited to {protocol.limit} cases, and the result has {len(ids)}"
        return None
    selected = lite_cases(task.name, pool) if protocol.subset == "lite" else pool
    expected = [case.id for case in selected][: protocol.limit]
    if protocol.regime == "sequential":
        expected = expected[: protocol.cases]
    if protocol.batch_edits:
        expected = expected[: len(expected) - len(expected) % protocol.batch_edits]
    return None if ids == expected else f"the {len(ids)} cases are not the {len(expected)} that the protocol selects"


def _is_unknown(record: Record, known_by: str | None) -> bool:
    """Whether the unedited model gave another answer than the true one to the edited prompt, beyond rounding."""
    request = record.request
    for probe in record.probes:
        asked = (probe.prompt, probe.target, probe.rival) == (request.text, request.target_new, request.target_true)
        if probe.kind == "completion" and asked and probe.before is not None and probe.before.rival_answer is not None:
            new, true = probe.before.target, probe.before.rival
            if known_by == "success":
                return new.logprob - true.logprob > 2 * SAME_MODEL_TOLERANCE
            if known_by == "exact":
                return min(true.token_logprobs) < _SELDOM_FIRST and any(true.ranks)
    return False
