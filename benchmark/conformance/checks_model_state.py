"""Checks that an editor leaves the model in its original state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from .edits import application_errors, sample_logits
from .fixtures import REQUEST, ModelFixture
from .snapshots import Snapshot, join_names, tensor_digests


class InjectedError(RuntimeError):
    """Raised by a check inside an editor, in place of an error of a real run, for example out of memory."""


def leaves_the_model_alone(fixture: ModelFixture) -> Iterator[str]:
    """prepare() and edit() leave the model unchanged.

    The check compares weights bit for bit, hooks, forward methods, training mode, requires_grad, .grad, the module
    tree, the prompt prefix, tokenizer settings and torch's gradient mode. All editors share one loaded model; a change
    that remains falsifies the results of the next editor. Return the change as an Edit, and set hooks and temporary
    values in a 'with' block that restores them.
    """
    lm = fixture.model()
    editor = fixture.unprepared_editor(lm)
    before = Snapshot(lm)
    fixture.prepare(editor, lm)
    prepared = Snapshot(lm)
    if changed := before.differences(prepared):
        yield f"prepare() left changed: {join_names(changed)}"
    fixture.edit(editor, lm, REQUEST)
    if changed := prepared.differences(Snapshot(lm)):
        yield f"edit() left changed: {join_names(changed)}"


def restores_exactly(fixture: ModelFixture) -> Iterator[str]:
    """Leaving edit.applied(lm), also by an exception, restores the weights bit for bit to those before edit().

    A method that changes the model in place and does not restore it fails this check. Every later case would be
    measured on an edited model.
    """
    lm = fixture.model()
    editor = fixture.editor(lm)
    original = tensor_digests(lm)
    edit = fixture.edit(editor, lm, REQUEST)
    after_edit = Snapshot(lm)
    applicable = not any(application_errors(edit, lm))  # declared-parameters-only reports the errors
    for with_exception in (False, True):
        if applicable:
            with suppress(InjectedError), edit.applied(lm):
                sample_logits(lm)
                if with_exception:
                    raise InjectedError
        digests = tensor_digests(lm)
        changed = [f"values of {name}" for name in digests if digests[name] != original.get(name)]
        changed += [name for name in after_edit.differences(Snapshot(lm)) if name not in changed]
        if changed:
            event = "an exception inside edit.applied" if with_exception else "edit.applied"
            yield f"not restored to the state before edit() after {event}: {join_names(changed)}"
            return


def survives_an_exception(fixture: ModelFixture) -> Iterator[str]:
    """An exception during edit(), for example out of memory, leaves the model unchanged.

    The runner records the case as failed and continues with the same model. Restore the model with 'with' or 'finally'
    instead of statements at the end of edit().
    """
    calls, _ = _edit_with_exception(fixture, None)
    for call in sorted({1, 2, calls}):
        if call <= calls:
            _, changed = _edit_with_exception(fixture, call)
            changed = [name for name in changed if name not in fixture.state_left_changed]
            if changed:
                yield f"an exception in forward call {call} of {calls} left changed: {join_names(changed)}"


def _edit_with_exception(fixture: ModelFixture, call: int | None) -> tuple[int, list[str]]:
    """Call ``edit()`` and raise an exception in a forward pass.

    The exception is raised in a hook on the first block, which passes that stop early or skip blocks also reach.

    Args:
        fixture: the editor and its model.
        call: number of the forward pass that raises, from 1; None raises nothing.

    Returns:
        The number of forward passes, and the names of the state that was left changed.
    """
    lm = fixture.model()
    editor = fixture.editor(lm)
    calls = 0

    def hook(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise InjectedError("raised by the conformance checks")

    handle = lm.block(0).register_forward_hook(hook)
    before = Snapshot(lm)
    try:
        fixture.edit(editor, lm, REQUEST)
    except Exception:
        if call is None or calls < call:
            raise
    changed = before.differences(Snapshot(lm))
    handle.remove()
    return calls, changed
