"""The list of conformance checks and the function that runs them on an editor class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.progress import Reporter
from ..editing import Editor
from .checks_declaration import both_layouts, declared, masked_models
from .checks_edit import declared_parameters_only, half_precision, own_tensors, plain_json, reports_its_size
from .checks_memory import (
    grows_by_its_requests,
    one_decision_per_text,
    pure_memory,
    recalls_from_the_prompt_alone,
    routing_per_row,
)
from .checks_model_state import leaves_the_model_alone, restores_exactly, survives_an_exception
from .checks_reproducibility import deterministic, no_state_between_models
from .checks_requests import batch_of_one, leaves_the_requests_alone, partial_requests, refuses_with_reason
from .checks_sequence import a_reverted_edit_leaves_no_trace, first_of_a_sequence, state_is_immutable
from .fixtures import ClassFixture
from .harness import Check, CheckResult, run_check
from .snapshots import temporary_cache_folder

CLASS_CHECKS = (declared, both_layouts, masked_models)
"""Checks that run once."""
MODEL_CHECKS = (
    leaves_the_model_alone,
    restores_exactly,
    survives_an_exception,
    declared_parameters_only,
    plain_json,
    own_tensors,
    half_precision,
    reports_its_size,
    deterministic,
    no_state_between_models,
    batch_of_one,
    leaves_the_requests_alone,
    refuses_with_reason,
    partial_requests,
    first_of_a_sequence,
    state_is_immutable,
    a_reverted_edit_leaves_no_trace,
    routing_per_row,
    one_decision_per_text,
    pure_memory,
    grows_by_its_requests,
    recalls_from_the_prompt_alone,
)
"""Checks that run for each kind of model that the editor can edit."""
CHECKS = (
    *(Check(function, per_model=False) for function in CLASS_CHECKS),
    *(Check(function, per_model=True) for function in MODEL_CHECKS),
)


def check_editor(
    cls: type[Editor[Any]],
    *,
    name: str | None = None,
    overrides: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> list[CheckResult]:
    """Run every check on an editor class.

    The models are tiny and random. A pass means that the editor keeps the rules of the interface, not that its edits
    are effective.

    Args:
        cls: the editor class.
        name: the name under which it is registered; None looks the class up among the registered editors.
        overrides: values of hyper-parameters as text, for those whose generic value does not suit a tiny model.
        reporter: receives the name of the running check.

    Returns:
        One result per check, in the order of :data:`CHECKS`. A check that raises an exception fails; the others still
        run.

    Raises:
        KnbenchError: an override names no field of the editor's Config or has the wrong type.
    """
    reporter = reporter or Reporter()
    fixture = ClassFixture(cls, name, overrides or {})
    reporter.begin(len(CHECKS))
    results = []
    try:
        with temporary_cache_folder():
            for check in CHECKS:
                reporter.doing(check.name)
                results.append(run_check(check, fixture))
                reporter.advance()
    finally:
        fixture.global_state.restore()
    return results
