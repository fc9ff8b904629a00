"""Computes edits: seeded, timed, and with an editor's exceptions turned into recorded failures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import first_line
from ..core.records import Failure, Phase
from ..core.schema import Case, EditRequest, derived_seed
from ..editing import Edit, Editor
from ..models.language_model import LanguageModel
from ..probing.baseline import Baseline
from .environment import PeakMemory

MAX_MESSAGE_LENGTH = 500


@dataclass(frozen=True)
class Attempt:
    """Outcome of computing an edit.

    Attributes:
        edit: the edit, or None if it failed.
        failure: the error, or None.
        seconds: time to compute the edit; for edits that are computed together, an equal share.
        peak_memory_mb: highest memory use meanwhile, in MiB; for edits that are computed together, of all.
    """

    edit: Edit | None = None
    failure: Failure | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None


def failure_of(phase: Phase, error: BaseException) -> Failure:
    """Return the record of an error."""
    return Failure(phase=phase, type=type(error).__name__, message=first_line(error)[:MAX_MESSAGE_LENGTH])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """``with seeded(1): ...`` draws from a seeded torch generator and restores the surrounding one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def edit_block(
    editor: Editor[Any], lm: LanguageModel, baseline: Baseline, block: range, seed: int
) -> dict[int, Attempt]:
    """Compute the single edits of some cases: together if the method can, one by one if that fails.

    Args:
        editor: the method.
        lm: the unedited model.
        baseline: the cases, and why some of them cannot be tokenised.
        block: indices of the cases.
        seed: seed of the run.

    Returns:
        One attempt per index.
    """
    cases = {i: baseline.cases[i] for i in block}
    attempts = {
        i: Attempt(failure=failure_of("tokenise", ValueError(baseline.unreadable[case.id])))
        for i, case in cases.items()
        if case.id in baseline.unreadable
    }
    remaining = [i for i in block if i not in attempts]
    if editor.joint_batch_size > 1 and len(remaining) > 1:
        with contextlib.suppress(Exception):  # trying each edit alone shows which one fails, and why
            peak, start = PeakMemory(str(lm.device)), time.perf_counter()
            with seeded(derived_seed(seed, editor.name, *(cases[i].id for i in remaining))):
                edits = editor.edit_each(lm, [cases[i].request for i in remaining])
            seconds, megabytes = (time.perf_counter() - start) / len(remaining), round(peak.megabytes(), 1)
            joint = {i: Attempt(e, None, seconds, megabytes) for i, e in zip(remaining, edits, strict=True)}
            return {**attempts, **joint}
    return {**attempts, **{i: _edit_alone(editor, lm, cases[i], seed) for i in remaining}}


def _edit_alone(editor: Editor[Any], lm: LanguageModel, case: Case, seed: int) -> Attempt:
    return _attempt(lm, derived_seed(seed, editor.name, case.id), lambda: editor.edit(lm, [case.request]))


def edit_cases(
    editor: Editor[Any],
    lm: LanguageModel,
    cases: Sequence[Case],
    baseline: Baseline,
    seed: int,
    earlier: Sequence[EditRequest] | None = None,
) -> Attempt:
    """Compute one edit for all of some cases.

    Args:
        editor: the method.
        lm: the model, with the ``earlier`` edits applied.
        cases: the cases.
        baseline: says why some cases cannot be tokenised.
        seed: seed of the run.
        earlier: for sequential runs, the requests of the edits that are applied.
    """
    for case in cases:
        if case.id in baseline.unreadable:
            return Attempt(failure=failure_of("tokenise", ValueError(baseline.unreadable[case.id])))
    requests = [case.request for case in cases]
    case_seed = derived_seed(seed, editor.name, *(case.id for case in cases))
    if earlier is None:
        return _attempt(lm, case_seed, lambda: editor.edit(lm, requests))
    return _attempt(lm, case_seed, lambda: editor.edit_next(lm, requests, earlier))


def _attempt(lm: LanguageModel, seed: int, compute: Callable[[], Edit]) -> Attempt:
    try:
        peak, start = PeakMemory(str(lm.device)), time.perf_counter()
        with seeded(seed):
            edit = compute()
        return Attempt(edit, None, time.perf_counter() - start, round(peak.megabytes(), 1))
    except Exception as error:
        return Attempt(failure=failure_of("edit", error))
