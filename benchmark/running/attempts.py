"""Computes edits: seeded, timed, and with an editor's exceptions turned into recorded failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..core.errors import KnbenchError
from ..core.records import Failure
from ..core.schema import Case, EditRequest, derived_seed, digest
from ..editing import Edit, Editor, Memory, NonFiniteEditError, Recall, State
from ..models.device_state import synchronise
from ..models.language_model import LanguageModel
from ..probing.positions import position_guard
from .environment import PeakMemory
from .failures import failed_edit

T = TypeVar("T")


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """``with seeded(1): ...`` draws from a seeded torch generator and restores the surrounding one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def edit_block(
    editor: Editor[Any],
    lm: LanguageModel,
    cases: Mapping[int, Case],
    failures: Mapping[str, Failure],
    seed: int,
    started: Callable[[Sequence[str]], None] = lambda _: None,
    *,
    alone: bool = False,
) -> dict[int, Attempt]:
    """Compute the single edits of some cases: together if the method can, one by one if that fails.

    Args:
        editor: the method.
        lm: the unedited model.
        cases: the cases by their index in the run.
        failures: failures that are known before the edit, by case id.
        seed: seed of the run.
        started: receives the ids of the cases before each call of the editor.
        alone: whether to edit one by one at once.

    Returns:
        One attempt per index.

    Raises:
        KnbenchError: the editor returned something else than an :class:`Edit` per request.
    """
    attempts = {i: Attempt(failure=failures[case.id]) for i, case in cases.items() if case.id in failures}
    remaining = [i for i in cases if i not in attempts]
    several = any(cases[i].further for i in remaining)  # edit_each() makes one edit per request
    if editor.joint_batch_size > 1 and len(remaining) > 1 and not alone and not several:
        ids = [cases[i].id for i in remaining]
        started(ids)
        try:
            peak, start = PeakMemory(str(lm.device)), time.perf_counter()
            requests = [cases[i].request for i in remaining]
            editor.check_requests(requests)
            edits = _call(lm, derived_seed(seed, editor.name, *ids), lambda: editor.edit_each(lm, requests))
        except (Exception, SystemExit) as error:
            _raise_unless_recorded(error)
        else:
            _check_edits(editor, edits, len(remaining))
            seconds, megabytes = (time.perf_counter() - start) / len(remaining), round(peak.megabytes(), 1)
            joint = {i: Attempt(e, None, seconds, megabytes) for i, e in zip(remaining, edits, strict=True)}
            return {**attempts, **joint}
    for i in remaining:  # shows which one fails, and why
        started([cases[i].id])
        attempts[i] = _edit_alone(editor, lm, cases[i], seed)
    return attempts


def _edit_alone(editor: Editor[Any], lm: LanguageModel, case: Case, seed: int) -> Attempt:
    case_seed = derived_seed(seed, editor.name, case.id)
    return _attempt(editor, "edit", lm, case_seed, case.requests, lambda requests: editor.edit(lm, requests))


def edit_cases(
    editor: Editor[Any],
    lm: LanguageModel,
    cases: Sequence[Case],
    failures: Mapping[str, Failure],
    seed: int,
    earlier: Sequence[EditRequest] | None = None,
    state: State | None = None,
) -> Attempt:
    """Compute one edit for all of some cases.

    Args:
        editor: the method.
        lm: the model, with the ``earlier`` edits applied.
        cases: the cases.
        failures: failures that are known before the edit, by case id. One of them fails the edit.
        seed: seed of the run.
        earlier: for sequential runs, the requests of the edits that are applied.
        state: for sequential runs, the state of the last of them.

    Raises:
        KnbenchError: the editor returned something else than an :class:`Edit`.
    """
    for case in cases:
        if case.id in failures:
            return Attempt(failure=failures[case.id])
    requests = [request for case in cases for request in case.requests]
    case_seed = derived_seed(seed, editor.name, *(case.id for case in cases))
    if earlier is None:
        return _attempt(editor, "edit", lm, case_seed, requests, lambda new: editor.edit(lm, new))
    return _attempt(editor, "edit_next", lm, case_seed, requests, lambda new: editor.edit_next(lm, new, earlier, state))


def _attempt(
    editor: Editor[Any],
    method: str,
    lm: LanguageModel,
    seed: int,
    requests: Sequence[EditRequest],
    compute: Callable[[Sequence[EditRequest]], Edit],
) -> Attempt:
    try:
        editor.check_requests(requests)
        peak, start = PeakMemory(str(lm.device)), time.perf_counter()
        edit = _call(lm, seed, lambda: compute(requests))
    except (Exception, SystemExit) as error:
        _raise_unless_recorded(error)
        return Attempt(failure=failed_edit(editor.name, "edit", error))
    check_edit(editor, method, edit)
    return Attempt(edit, None, time.perf_counter() - start, round(peak.megabytes(), 1))


def _call(lm: LanguageModel, seed: int, compute: Callable[[], T]) -> T:
    """Call a method of an editor under a seed. A forward pass beyond the model's positions raises ValueError."""
    with seeded(seed), position_guard(lm):
        result = compute()
        synchronise(lm.device)
        return result


def _raise_unless_recorded(error: BaseException) -> None:
    """Raise errors that are not the editor's own: a full disk, or a corpus that cannot be read."""
    if isinstance(error, KnbenchError | OSError) and not isinstance(error, NonFiniteEditError):
        raise error


def _check_edits(editor: Editor[Any], edits: object, count: int) -> None:
    if not isinstance(edits, list | tuple) or len(edits) != count:
        found = f"{len(edits)} edits" if isinstance(edits, list | tuple) else _kind(edits)
        raise KnbenchError(
            f"editor '{editor.name}': edit_each() returned {found} for {count} requests; return a list of one Edit per "
            "request"
        )
    for edit in edits:
        check_edit(editor, "edit_each", edit)


def check_edit(editor: Editor[Any], method: str, edit: object) -> None:
    """Check that an editor returned an :class:`Edit` whose fields have their types.

    Raises:
        KnbenchError: it did not; names the method and the returned type.
    """
    source = f"editor '{editor.name}': {method}() returned"
    if not isinstance(edit, Edit):
        raise KnbenchError(
            f"{source} {_kind(edit)}, not an Edit; return Edit(weights={{name: tensor}}) and leave the model unchanged"
        )
    # An editor can set other types than those that Edit declares.
    weights, outputs = cast(object, edit.weights), cast(object, edit.outputs)
    prefix, diagnostics = cast(object, edit.prefix), cast(object, edit.diagnostics)
    memory, entries = cast(object, edit.memory), cast(object, edit.entries)
    mappings = (("weights", weights), ("outputs", outputs), ("diagnostics", diagnostics), ("memory", memory))
    for label, mapping in mappings:
        if not isinstance(mapping, Mapping):
            raise KnbenchError(f"{source} an Edit whose {label} is {_kind(mapping)}; use a dict")
    for label, tensors in (("weights", weights), ("memory", memory)):
        for name, tensor in cast("Mapping[object, object]", tensors).items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise KnbenchError(f"{source} an Edit whose {label}[{name!r}] is {_kind(tensor)}; use {{name: tensor}}")
    for name, change in cast("Mapping[object, object]", outputs).items():
        if not isinstance(name, str) or not callable(change):
            raise KnbenchError(f"{source} an Edit whose outputs[{name!r}] is {_kind(change)}; use {{name: function}}")
    if not isinstance(prefix, str):
        raise KnbenchError(f"{source} an Edit whose prefix is {_kind(prefix)}; use a string")
    if not isinstance(entries, int) or isinstance(entries, bool) or entries < 0:
        raise KnbenchError(f"{source} an Edit whose entries is {entries!r}; use a number of facts")
    memories, recall = cast(object, edit.memories), cast(object, edit.recall)
    if not isinstance(memories, Mapping):
        raise KnbenchError(f"{source} an Edit whose memories is {_kind(memories)}; use a dict")
    for name, store in cast("Mapping[object, object]", memories).items():
        if not isinstance(name, str) or not isinstance(store, Memory):
            raise KnbenchError(f"{source} an Edit whose memories[{name!r}] is {_kind(store)}; use {{name: Memory}}")
        if problem := store_error(store, f"memories[{name!r}]"):
            raise KnbenchError(f"{source} an Edit whose {problem}")
    if recall is not None and not isinstance(recall, Recall):
        raise KnbenchError(f"{source} an Edit whose recall is {_kind(recall)}; use a Recall or None")
    if isinstance(recall, Recall) and (problem := store_error(recall, "recall")):
        raise KnbenchError(f"{source} an Edit whose {problem}")
    if problem := state_error(edit.state):
        raise KnbenchError(f"{source} an Edit whose {problem}")


def state_error(state: object) -> str | None:
    """Return why an object cannot be the state of an edit, with the remedy, or None."""
    if state is None:
        return None
    if not isinstance(state, State):
        return f"state is {_kind(state)}; use State(tensors={{name: tensor}}, settings={{name: value}}) or None"
    return store_error(state, "state")


def store_error(store: State | Memory | Recall, label: str) -> str | None:
    """Return why tensors or settings of an immutable object cannot be used, with the remedy, or None."""
    for name, tensor in store.tensors.items():
        if not isinstance(cast(object, tensor), Tensor) or tensor.requires_grad:
            return f"{label}.tensors[{name!r}] is not a detached tensor; use .detach()"
    try:
        digest(dict(store.settings))
    except (TypeError, ValueError) as error:
        return f"{label}.settings cannot be written as JSON: {error}"
    return None


def _kind(value: object) -> str:
    """Return the kind of a value for a message.

    >>> _kind(None), _kind({}), _kind(nn.Identity())
    ('None', 'a dict', 'a model (Identity)')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"a model ({name})" if isinstance(value, nn.Module) else f"a {name}"
