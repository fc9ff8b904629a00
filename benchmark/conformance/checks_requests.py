"""Checks of how an editor treats its requests: batches, mutation and requests that cannot be edited."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping

from tokenizers import normalizers

from ..core.schema import EditRequest
from ..editing import Edit
from ..running.attempts import seeded
from .edits import application_errors, fingerprint, fingerprint_differences, relative_distance
from .fixtures import OTHER_REQUEST, REQUEST, ModelFixture, describe_exception
from .harness import Note
from .snapshots import Snapshot, join_names, preserved_weights

BATCH_TOLERANCE = 1e-3
"""Maximum distance between an edit from a batch and the single edit, relative to the norm of the change."""
SOFT_HYPHEN = "\u00ad"


def batch_of_one(fixture: ModelFixture) -> Iterator[str]:
    """edit_each() of one request returns exactly the edit of edit(); of two requests, the two single edits in order.

    Joint processing of requests saves time and must not change the results.
    """
    single = {}
    for request in (REQUEST, OTHER_REQUEST):
        lm = fixture.model()
        single[request] = fixture.edit(fixture.editor(lm), lm, request)
    lm = fixture.model()
    one = fixture.edit_each(fixture.editor(lm), lm, REQUEST)
    if len(one) != 1:
        yield f"edit_each() of one request returns {len(one)} edits"
    elif (expected := fingerprint(single[REQUEST], lm)) != (actual := fingerprint(one[0], lm)):
        yield f"edit_each() of one request differs from edit() in {fingerprint_differences(expected, actual)}"
    lm = fixture.model()
    editor = fixture.editor(lm)
    with preserved_weights(lm):
        two = fixture.edit_each(editor, lm, REQUEST, OTHER_REQUEST)
    if len(two) != 2:
        yield f"edit_each() of two requests returns {len(two)} edits"
        return
    if reason := _reason_not_comparable(fixture, single):
        yield Note(f"edits of two requests are not compared: {reason}")
        return
    lm = fixture.model()
    pairs = ((REQUEST, OTHER_REQUEST), (OTHER_REQUEST, REQUEST))
    for number, (edit, (request, other)) in enumerate(zip(two, pairs, strict=True), 1):
        own, foreign = relative_distance(edit, single[request], lm), relative_distance(edit, single[other], lm)
        if own > BATCH_TOLERANCE and foreign < own:
            yield f"edit {number} of two belongs to the other request"
        elif own > BATCH_TOLERANCE:
            yield f"edit {number} of two differs from the single edit (relative distance {own:.1e})"


def _reason_not_comparable(fixture: ModelFixture, single: Mapping[EditRequest, Edit]) -> str | None:
    """Return why an edit from a batch may differ from the single edit without a defect of the batch, or None."""
    lm = fixture.model()
    if any(any(application_errors(edit, lm)) for edit in single.values()):
        return "they do not fit the model"
    if fixture.state_left_changed:
        return "edit() leaves the model changed"
    fixture.unmanaged_seed = 1
    repeated = fixture.edit(fixture.editor(lm), lm, REQUEST, case="another")
    fixture.unmanaged_seed = 0
    same = fingerprint(repeated, lm) == fingerprint(single[REQUEST], lm)
    return None if same else "the method draws random numbers"


def leaves_the_requests_alone(fixture: ModelFixture) -> Iterator[str]:
    """edit() and edit_each() do not change the list of requests.

    The runner measures and records the requests afterwards and passes them to the next editor.
    """
    for each in (False, True):
        lm = fixture.model()
        editor = fixture.editor(lm)
        requests = [REQUEST]
        original = copy.deepcopy(requests)
        with seeded(0):
            editor.edit_each(lm, requests) if each else editor.edit(lm, requests)
        if requests != original:
            yield f"{'edit_each' if each else 'edit'}() changed the requests"
            return


def refuses_with_reason(fixture: ModelFixture) -> Iterator[str]:
    """A request that cannot be edited raises ValueError with a reason.

    This concerns a subject or a target without tokens, and several requests at once; each is edited or refused. The
    model stays unchanged and the editor remains usable. lm.subject_span, lm.split and lm.token_queries raise ValueError
    for texts without tokens.
    """
    cases = {
        "a subject without tokens": [dataclasses.replace(REQUEST, subject=SOFT_HYPHEN)],
        "a target without tokens": [dataclasses.replace(REQUEST, target_new=SOFT_HYPHEN)],
        "two requests at once": [REQUEST, OTHER_REQUEST],
    }
    lm = fixture.model()
    # Many real tokenizers drop soft hyphens; the tokenizers of the tiny models keep all characters.
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(SOFT_HYPHEN, "")
    editor = fixture.editor(lm)
    for label, requests in cases.items():
        before = Snapshot(lm)
        try:
            edit: object = fixture.edit(editor, lm, *requests)
            if not isinstance(edit, Edit):
                yield f"{label}: edit() returns {type(edit).__name__}, not an Edit or ValueError"
        except ValueError as error:
            if not str(error).strip():
                yield f"{label}: ValueError without a message; state the reason"
        except Exception as error:
            yield f"{label}: edit() raises {describe_exception(error, fixture.cls)}, not ValueError"
        changed = [name for name in before.differences(Snapshot(lm)) if name not in fixture.state_left_changed]
        if changed:
            yield f"{label}: edit() left changed: {join_names(changed)}"
            return
    fixture.edit(editor, lm, REQUEST)


def partial_requests(fixture: ModelFixture) -> Iterator[str]:
    """A request without a subject, or without a true answer, is edited unless the class declares that it is needed.

    Set needs_subject = True if the method edits at the tokens of a subject, and needs_rival = True if it reads
    target_true. The runner then refuses such requests with a clear error.
    """
    plain = EditRequest(REQUEST.text, "", REQUEST.target_new, REQUEST.target_true, REQUEST.support)
    cases = (
        ("needs_subject", "a subject", plain),
        ("needs_rival", "a true answer", dataclasses.replace(REQUEST, target_true="", support=())),
    )
    for flag, part, request in cases:
        lm = fixture.model()
        editor = fixture.editor(lm)
        if getattr(fixture.cls, flag):
            continue
        try:
            fixture.edit(editor, lm, request)
        except Exception as error:
            yield (
                f"without {part}: edit() raises {describe_exception(error, fixture.cls)}; "
                f"set {flag} = True if the method cannot edit such a request"
            )
