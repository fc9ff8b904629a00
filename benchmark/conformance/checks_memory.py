"""Checks of memories and recalled texts, which editors keep beside the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..core.schema import Probe
from ..editing import Edit, Memory, Reading, Recall
from ..models.hooks import Side, capture
from ..models.language_model import LanguageModel
from ..models.reading import make_reading
from ..probing.prober import make_prober
from .edits import application_errors
from .fixtures import OTHER_REQUEST, REQUEST, ModelFixture

PADDING_TOLERANCE = 1e-4
"""Largest relative difference of logits between paddings, which is rounding."""

ANSWER_TOLERANCE = 1e-3
"""Largest difference in nats of a prediction when another answer follows the prompt, which is rounding."""


def routing_per_row(fixture: ModelFixture) -> Iterator[str]:
    """With a memory, the output of a row depends neither on other rows nor on padding.

    Decide in act() for each row from reading.prompt and reading.end. Do not read the last column, means over padded
    positions, or numbers of the whole batch.
    """
    lm, edit = _edited(fixture)
    if edit is None or not edit.memories:
        return
    rows, ends = _rows(lm)
    with edit.applied(lm):
        alone = [_logits(lm, [row], [end])[0] for row, end in zip(rows, ends, strict=True)]
        for label, side, order in (
            ("the order of the rows", "right", [1, 0, 2]),
            ("right padding", "right", [0, 1, 2]),
            ("left padding", "left", [0, 1, 2]),
        ):
            together = _logits(lm, [rows[i] for i in order], [ends[i] for i in order], left=side == "left")
            for place, i in enumerate(order):
                scale = alone[i].abs().max()
                if float((together[place] - alone[i]).abs().max() / scale) > PADDING_TOLERANCE:
                    yield f"the output of a row changes with {label}"
                    break


def one_decision_per_text(fixture: ModelFixture) -> Iterator[str]:
    """With a memory, the first generated token is the most probable one, and scored answers do not steer the memory.

    The decision is taken where the prompt ends and kept in reading.notes for the passes that continue the text.
    """
    lm, edit = _edited(fixture)
    if edit is None or not (edit.memories or edit.recall) or not lm.causal:
        return
    prober = make_prober(lm, new_tokens=3)
    # The second answer begins with the first one, whose tokens must be as probable in both.
    probes = [
        Probe("reliability", "completion", request.text, answer, "", "new")
        for request in (REQUEST, OTHER_REQUEST)
        for begin in (f"{request.target_new} {request.target_true}",)
        for answer in (begin, f"{begin} {request.target_new}")
    ]
    with edit.applied(lm):
        # One by one: texts that are read together share their common beginning.
        observations = [prober.observe([probe])[0] for probe in probes]
        for probe, observation in zip(probes, observations, strict=True):
            generated = observation.generated or ""
            if not generated.startswith(observation.top or ""):
                yield f"after {probe.prompt!r}, {generated!r} is generated and {observation.top!r} is most probable"
        for first, second in (observations[:2], observations[2:]):
            tokens = zip(first.target.token_logprobs, second.target.token_logprobs, strict=False)
            if any(abs(a - b) > ANSWER_TOLERANCE for a, b in tokens):
                yield "the predictions after a prompt change with the end of the answer that is scored"


def pure_memory(fixture: ModelFixture) -> Iterator[str]:
    """Memory.act() leaves its arguments unchanged, and a text without a prompt bit-identical.

    A sentence that is scored as a whole has no prompt: reading.end is -1 and reading.prompt is empty.
    """
    lm, edit = _edited(fixture)
    if edit is None:
        return
    for name, memory in edit.memories.items():
        module = lm.model.get_submodule(name)
        sides: dict[str, tuple[torch.nn.Module, Side]] = {"in": (module, "input"), "out": (module, "output")}
        rows, ends = _rows(lm)
        batch = lm.pad(rows)
        with torch.no_grad(), capture(sides) as captured:
            lm.model(input_ids=batch.ids, attention_mask=batch.mask)
        inputs, outputs = captured["in"], captured["out"]
        copies = inputs.clone(), outputs.clone()
        with torch.no_grad():
            memory.act(inputs, outputs, _reading(lm, batch.mask, ends))
            silent = memory.act(inputs, outputs, _reading(lm, batch.mask, None))
        if not (torch.equal(inputs, copies[0]) and torch.equal(outputs, copies[1])):
            yield f"act() of the memory at '{name}' changes its arguments"
        elif not torch.equal(silent, outputs):
            yield f"the memory at '{name}' changes texts without a prompt"


def grows_by_its_requests(fixture: ModelFixture) -> Iterator[str]:
    """A memory or recall after two edits holds the facts of both, at most one entry per request.

    The next edit replaces the memory: it continues from lm.memories or lm.recall, which it leaves unchanged.
    """
    lm, first = _edited(fixture)
    if first is None or not (first.memories or first.recall):
        return
    editor = fixture.editor(lm)
    stores: list[Memory | Recall] = [*first.memories.values(), *([first.recall] if first.recall else [])]
    digests = [store.digest() for store in stores]
    with first.applied(lm):
        second = fixture.edit_next(editor, lm, OTHER_REQUEST, [REQUEST], first.state)
    if [store.digest() for store in stores] != digests:
        yield "the second edit changed the memory of the first one"
    if not first.size.entries <= second.size.entries <= 2:
        yield f"the memory has {first.size.entries} entries after one request and {second.size.entries} after two"
    if set(second.memories) < set(first.memories) or (first.recall and not second.recall):
        yield "the second edit has no memory"


def recalls_from_the_prompt_alone(fixture: ModelFixture) -> Iterator[str]:
    """Recall.preface() depends on the prompt alone, and an empty prompt recalls nothing.

    The preface is computed once per prompt and edit. It must not depend on the prompts that were asked before.
    """
    lm, edit = _edited(fixture)
    if edit is None or edit.recall is None:
        return
    prompts = [REQUEST.text, OTHER_REQUEST.text]
    found = []
    for order in (prompts, prompts[::-1]):
        with edit.applied(lm):
            found.append({prompt: lm.preface(prompt) for prompt in order})
            if lm.preface("") or lm.preface(" "):
                yield "an empty prompt recalls a text"
    if found[0] != found[1]:
        yield "the recalled text depends on earlier prompts"


def _edited(fixture: ModelFixture) -> tuple[LanguageModel, Edit | None]:
    """Return a model and an edit of it, or None if the edit does not fit, which other checks report."""
    lm = fixture.model()
    edit = fixture.edit(fixture.editor(lm), lm, REQUEST)
    return lm, None if any(application_errors(edit, lm)) else edit


def _rows(lm: LanguageModel) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return three texts with answers, and the columns at which memories decide."""
    pairs = ((REQUEST.text, REQUEST.target_new), (OTHER_REQUEST.text, "Mexico City"), ("The", "Rome"))
    queries = [lm.token_queries(prompt, answer, ".") for prompt, answer in pairs]
    return [(q[-1] if lm.causal else q[0]).ids for q in queries], [q[0].position for q in queries]


def _reading(lm: LanguageModel, mask: Tensor, ends: Sequence[int] | None) -> Reading:
    prompts = [0] * len(mask) if ends is None else [end + int(lm.causal) for end in ends]
    return make_reading(mask, prompts, lm.leading_tokens, ends)


def _logits(
    lm: LanguageModel, rows: Sequence[tuple[int, ...]], ends: Sequence[int], *, left: bool = False
) -> list[Tensor]:
    """Return the logits of each row, without padding."""
    batch = lm.pad(rows, side="left" if left else "right")
    positions = (batch.mask.cumsum(1) - 1).clamp_min(0)
    prompts = [end + int(lm.causal) for end in ends]
    with torch.no_grad(), lm.reading(batch, prompts, ends):
        logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions).logits
    return [logits[i][batch.mask[i].bool()] for i in range(len(rows))]
