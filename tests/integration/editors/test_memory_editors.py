"""GRACE, WISE, MEMOIR, memory prompts and IKE: what the methods claim, on tiny models."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.benchmark.editing import Edit, Reading
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing.prober import make_prober
from knbench.editors import ike, wise
from knbench.editors.grace import Codebook, Grace, GraceConfig
from knbench.editors.ike import InContextDemonstrations, InContextDemonstrationsConfig, demonstration
from knbench.editors.in_context import InContext
from knbench.editors.memoir import Memoir, MemoirConfig, packed, unpacked
from knbench.editors.memory_prompt import MemoryPrompt, MemoryPromptConfig
from knbench.editors.none import NoEdit
from knbench.editors.shared.calibration import ScopeCase, best_threshold, low_quantile
from knbench.editors.shared.fact_memory import lexical_score, stems, word_weights
from knbench.editors.shared.side_rows import prompt_mean
from knbench.editors.wise import Margins, SideMemory, Wise, WiseConfig, merged_copies

CANADA = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
ITALY = EditRequest("The capital of {} is", "Italy", "Paris", "Rome")
SUSAN = EditRequest("Susan saw {}", "this", "sketches", "that")
OTHERS = ("Because it was late, nobody", "The sisters usually bake", "Albert Einstein works in the field of")
IRRELEVANT = [("The sisters usually", "bake"), ("Because it was late, nobody", "came")]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request):
    return untrained(request.param, 0)


@pytest.fixture(scope="module")
def llama():
    return untrained("llama", 0)


def logits(lm, prompts):
    """Return the logits behind each prompt, read alone."""
    found = []
    for prompt in prompts:
        batch = lm.pad([lm.encode(lm.preface(prompt) + prompt).ids])
        with torch.no_grad(), lm.reading(batch, batch.lengths.tolist()):
            found.append(lm.model(input_ids=batch.ids, attention_mask=batch.mask).logits[0])
    return found


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


def sequence(lm, editor, requests):
    """Return the edit after one edit per request."""
    edit = editor.edit(lm, requests[:1])
    for number in range(1, len(requests)):
        with edit.applied(lm):
            edit = editor.edit_next(lm, [requests[number]], requests[:number], None)
    return edit


# --- GRACE -----------------------------------------------------------------------------------------------------------


def grace(**values):
    return Grace(GraceConfig(**{"layer": 2, "radius": 2.0, "steps": 5, **values}))


def book_of(edit):
    (book,) = edit.memories.values()
    return book


def test_grace_leaves_other_prompts_and_values_bit_identical(lm):
    editor = grace(radius=1e-6)
    before = logits(lm, [CANADA.text, *OTHERS])
    one, two = sequence(lm, editor, [CANADA]), sequence(lm, editor, [CANADA, SUSAN])
    with two.applied(lm):
        assert same(before, logits(lm, [CANADA.text, *OTHERS])) == [False, True, True, True]
    assert torch.equal(book_of(one).tensors["values"][0], book_of(two).tensors["values"][0])
    assert (one.size.entries, two.size.entries, two.size.weights) == (1, 2, 0)
    assert two.size.memory == 2 * 4 * (48 + 32 + 1)


def test_grace_returns_the_value_bit_for_bit_at_the_last_token_of_the_prompt(lm):
    book = book_of(grace().edit(lm, [CANADA]))
    inputs = torch.randn(2, 4, 48)
    inputs[0, 2] = book.tensors["keys"][0]
    inputs[1, 3] = book.tensors["keys"][0]  # at a padded position: the row is not edited
    outputs = torch.randn(2, 4, 32)
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    reading = Reading(mask, mask, torch.tensor([2, 2]))
    found = book.act(inputs, outputs, reading)
    assert torch.equal(found[0, 2], book.tensors["values"][0])
    expected = outputs.clone()
    expected[0, 2] = book.tensors["values"][0]
    assert torch.equal(found, expected)
    # A decision holds for the text: the same key at a later token is not looked up.
    later = Reading(mask[:, :1], ~mask[:, :1], torch.tensor([-1, -1]), False, reading.notes)
    assert torch.equal(book.act(inputs[:, 2:3], outputs[:, 2:3], later), outputs[:, 2:3])


def test_grace_compares_answers_by_their_tokens():
    # The released code compares means of padded label tensors: (2, 4) would equal (3, 3).
    editor, key = grace(), torch.zeros(3)
    book, change, _ = editor.placed(None, "m", key, [2, 4], torch.zeros(2), 2.0)
    assert change == "add"
    near = torch.tensor([1.0, 0.0, 0.0])
    split, change, number = editor.placed(book, "m", near, [3, 3], torch.ones(2), 2.0)
    assert (change, number, split.entries) == ("split", 1, 2)
    radii = split.tensors["radii"]
    assert float(radii.sum()) < 1.0  # the balls do not overlap
    kept, change, number = editor.placed(split, "m", key, [2, 4], torch.ones(2), 2.0)
    assert (change, number) == ("none", 0)
    assert torch.equal(kept.tensors["radii"], radii)


def test_a_sequence_of_grace_edits_equals_their_batch(lm):
    editor = grace()
    requests = [CANADA, SUSAN, ITALY]
    assert book_of(sequence(lm, editor, requests)).digest() == book_of(editor.edit(lm, requests)).digest()


def test_grace_fills_the_first_mask_of_a_masked_model():
    bert = untrained("bert", 0)
    edit = grace(layer=1, steps=30).edit(bert, [CANADA])
    prober = make_prober(bert, new_tokens=0)
    probe = Probe("p", "completion", CANADA.text, "Rome", "", "new")
    before = prober.observe([probe])[0].target.logprob
    with edit.applied(bert):
        assert prober.observe([probe])[0].target.logprob > before + 1


def test_the_radius_is_a_quantile_of_distances():
    assert low_quantile(torch.tensor([[0.0], [1.0], [3.0]]), 0.0) == 1.0
    assert low_quantile(torch.tensor([[0.0], [1.0], [3.0]]), 1.0) == 3.0
    assert best_threshold([0.5], [0.5])[1] == 0.5
    with pytest.raises(ValueError, match="inside and outside"):
        best_threshold([], [0.1])


# --- WISE ------------------------------------------------------------------------------------------------------------


def made_wise(lm, **values):
    config = {"layer": 2, "contexts": ("{}", "It is late. {}"), "steps": 6, "learning_rate": 0.5}
    margins = {"alpha": 0.5, "beta": 2.0, "gamma": 1.0}
    editor = Wise(WiseConfig(**{**config, **margins, "weight_decay": 0.1, **values}))
    editor._margins[lm] = Margins(*margins.values()), IRRELEVANT
    return editor


def test_wise_changes_the_entries_of_its_mask_alone(lm):
    editor = made_wise(lm)
    memory = book_of(editor.edit(lm, [CANADA]))
    original = editor._original(lm)
    changed = memory.copies[-1] != original
    mask = editor.mask(original.shape, 0)
    assert bool(changed.any())
    assert not bool((changed & ~mask).any())  # weight decay does not reach them
    assert 0.1 < float(mask.float().mean()) < 0.3


def test_wise_is_silent_below_its_threshold(lm):
    edit = made_wise(lm, act_ratio=1.0).edit(lm, [CANADA])
    before = logits(lm, [CANADA.text, *OTHERS])
    (name,) = edit.memories
    memory = edit.memories[name]
    loud = dataclasses.replace(memory, settings={**memory.settings, "act_ratio": 0.0})
    silent = dataclasses.replace(memory, settings={**memory.settings, "act_ratio": 1e6})
    with Edit(memories={name: silent}).applied(lm):
        assert all(same(before, logits(lm, [CANADA.text, *OTHERS])))
    with Edit(memories={name: loud}).applied(lm):
        assert not any(same(before, logits(lm, [CANADA.text, *OTHERS])))


def test_wise_stores_copies_and_merges_them(llama):
    editor = made_wise(llama, steps=2, save_every=1, merge_every=2)
    memory = None
    counts = []
    for request in (CANADA, SUSAN, ITALY, CANADA):
        memory = editor.trained(llama, request, memory or editor._empty(llama, "m"))[0]
        counts.append(len(memory.copies))
    assert counts == [1, 2, 2, 3]
    assert memory.entries == 4
    assert all(activation < wise.NO_ACTIVATION for activation in memory.settings["activations"])
    original = editor._original(llama)
    one = original + torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(merged_copies(original, [one], 1.0), one, atol=1e-6)
    assert torch.allclose(merged_copies(original, [one, one], 1.0), one, atol=1e-6)


def test_a_merge_keeps_the_largest_changes_and_the_common_sign():
    original = torch.zeros(1, 4)
    copies = [torch.tensor([[4.0, 3.0, 0.1, -1.0]]), torch.tensor([[2.0, -5.0, 0.2, 0.0]])]
    # Of each copy two entries are kept: (4, 3) and (2, -5). The signs of the sums are + and -.
    assert merged_copies(original, copies, 0.5).tolist() == [[3.0, -5.0, 0.0, 0.0]]


def test_wise_takes_the_copy_that_differs_most():
    tensors = {"copy 0": torch.eye(2), "copy 1": 3 * torch.eye(2)}
    settings = {"activations": [0.1, 0.1], "act_ratio": 1.0, "function": "relu", "module": "m"}
    memory = SideMemory(tensors, settings, 2)
    inputs = torch.ones(1, 2, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    reading = Reading(mask, mask, torch.tensor([1]))
    assert torch.equal(memory.act(inputs, 0.9 * inputs, reading), 3 * inputs)
    none = Reading(mask, ~mask, torch.tensor([-1]))
    assert torch.equal(memory.act(inputs, 0.9 * inputs, none), 0.9 * inputs)


# --- MEMOIR ----------------------------------------------------------------------------------------------------------


def memoir(**values):
    config = {"layer": 2, "columns": 6, "threshold": 0.99, "steps": 4, "contexts": ("{}", "It is late. {}")}
    return Memoir(MemoirConfig(**{**config, "calibration": 4, **values}))


def test_memoir_writes_its_columns_alone_and_finds_its_prompt(lm):
    editor = memoir(weight_decay=0.5)
    one, two = sequence(lm, editor, [CANADA]), sequence(lm, editor, [CANADA, SUSAN])
    masks = book_of(two).stored()
    assert masks.sum(1).tolist() == [6, 6]
    residual, earlier = (book_of(edit).tensors["residual"] for edit in (two, one))
    assert not bool(residual[:, ~masks.any(0)].any())
    untouched = masks[0] & ~masks[1]
    assert torch.equal(residual[:, untouched], earlier[:, untouched])  # weight decay stays in the edit's own columns
    before = logits(lm, [CANADA.text, SUSAN.text, *OTHERS])
    with two.applied(lm):
        assert same(before, logits(lm, [CANADA.text, SUSAN.text, *OTHERS])) == [False, False, True, True, True]


def test_memoir_edits_with_disjoint_columns_commute(llama):
    editor = memoir(columns=2)
    forward, backward = (book_of(sequence(llama, editor, order)) for order in ([CANADA, SUSAN], [SUSAN, CANADA]))
    assert not bool((forward.stored()[0] & forward.stored()[1]).any())
    assert torch.allclose(forward.tensors["residual"], backward.tensors["residual"], atol=1e-5)


def test_the_order_of_columns_leaves_overlaps_unchanged(llama):
    memory = memoir().empty(llama, "m")
    other = dataclasses.replace(memory, tensors={**memory.tensors, "order": torch.arange(48)})
    means = torch.randn(2, 48, generator=torch.Generator().manual_seed(1))
    overlaps = [int((m.mask(means)[0] & m.mask(means)[1]).sum()) for m in (memory, other)]
    assert overlaps[0] == overlaps[1]
    masks = torch.rand(3, 13) > 0.5
    assert torch.equal(unpacked(packed(masks), 13), masks)


def test_padding_and_answers_do_not_enter_the_mean_of_a_prompt():
    values = torch.tensor([[[1.0], [3.0], [torch.inf], [9.0]]])
    prompt = torch.tensor([[True, True, False, False]])
    reading = Reading(torch.ones(1, 4, dtype=torch.bool), prompt, torch.tensor([1]))
    assert prompt_mean(values, reading).tolist() == [[2.0]]
    assert prompt_mean(values[..., 0], reading).tolist() == [2.0]


# --- memory prompt and IKE -------------------------------------------------------------------------------------------


def memory_prompt(**values):
    return MemoryPrompt(MemoryPromptConfig(**{"layer": 2, "calibration": 20, **values}))


def observe(lm, editor, probes):
    with editor.edit(lm, [CANADA]).applied(lm):
        return [o.target for o in make_prober(lm, new_tokens=0).observe(probes)]


def test_a_memory_prompt_lies_between_none_and_in_context(lm):
    probes = [Probe("p", "completion", prompt, "Rome", "", "new") for prompt in (CANADA.text, *OTHERS)]
    none, context = (observe(lm, editor, probes) for editor in (NoEdit(None), InContext(None)))
    assert observe(lm, memory_prompt(threshold=float("inf")), probes) == none
    assert observe(lm, memory_prompt(threshold=float("-inf")), probes) == context
    for score in ("lexical", "hidden"):
        found = observe(lm, memory_prompt(threshold=0.6, score=score), probes)
        assert found[0].logprob == pytest.approx(context[0].logprob, abs=1e-4)
    outside = observe(lm, memory_prompt(threshold=0.6), probes)[1:]
    assert [answer.logprob for answer in outside] == pytest.approx([answer.logprob for answer in none[1:]], abs=1e-4)


def test_the_best_fact_is_recalled_whatever_the_order(llama):
    editor = memory_prompt(threshold=0.3)
    facts = [CANADA, ITALY, SUSAN]
    for order in (facts, facts[::-1]):
        with sequence(llama, editor, order).applied(llama):
            assert llama.preface("The capital city of Italy is") == "The capital of Italy is Paris. "
            assert llama.preface("Susan saw") == "Susan saw this sketches. "
            assert llama.preface("") == ""
    newer = dataclasses.replace(CANADA, target_new="Paris")
    edit = sequence(llama, editor, [CANADA, ITALY, newer])
    assert edit.recall.texts == ("The capital of Italy is Paris", "The capital of Canada is Paris")
    assert edit.size.entries == 2
    hidden = memory_prompt(threshold=0.3, score="hidden")
    together, apart = hidden.edit(llama, facts), sequence(llama, hidden, facts)
    assert together.recall.digest() == apart.recall.digest()


def test_rare_words_weigh_more():
    weights = word_weights(["The capital of Canada is", "The capital of Italy is", "The river of Spain is"])
    fact = stems("The capital of Canada is")
    canada, italy = (lexical_score(stems(f"In {name} the capitals"), fact, weights) for name in ("Canada's", "Italy"))
    assert 0 < italy < 0.5 < canada < 1
    assert lexical_score(fact, fact, weights) == 1


def test_demonstrations_show_the_roles_without_the_subject_of_the_fact(llama):
    inside, outside = (Probe("p", "completion", f"{kind} is", "Bern", "", "new") for kind in ("Inside", "Outside"))
    case = ScopeCase(ITALY, (inside,), (outside,))
    assert [demonstration(case, role).split("Prompt: ")[1] for role in ("copy", "update", "retain")] == [
        "The capital of Italy is Paris\n\n",
        "Inside is Paris\n\n",
        "Outside is Bern\n\n",
    ]
    editor = InContextDemonstrations(InContextDemonstrationsConfig(demonstrations=2))
    same_subject = dataclasses.replace(case, request=dataclasses.replace(ITALY, subject="Canada"))
    editor._cases[llama] = [case, same_subject]
    edit = sequence(llama, editor, [CANADA, SUSAN])
    with edit.applied(llama):
        preface = llama.preface("The capital of Canada is")
    assert preface.endswith("New fact: The capital of Canada is Rome.\nPrompt: ")
    assert preface.count("New fact") == 2
    assert edit.size.entries == 2
    assert ike.ROLES.count("retain") == 4


@pytest.mark.slow
@pytest.mark.parametrize("cls", [Grace, Wise, Memoir, MemoryPrompt, InContextDemonstrations])
def test_tuning_cases_calibrate_each_method(llama, cls):
    editor = cls(cls.Config(**cls.generic(llama)))
    prepared = editor.prepare(llama, Reporter())
    assert prepared == cls(cls.Config(**cls.generic(llama))).prepare(llama, Reporter())
    assert prepared.get("balanced_accuracy", 1) >= 0.5


def test_codebooks_of_two_modules_do_not_share_decisions(llama):
    first = grace(layer=1).edit(llama, [CANADA])
    with first.applied(llama):
        second = grace(layer=2).edit(llama, [SUSAN])
        with second.applied(llama):
            assert {type(m) for stacked in llama.memories.values() for m in stacked} == {Codebook}
            changed = logits(llama, [CANADA.text, SUSAN.text])
    assert not any(same(changed, logits(llama, [CANADA.text, SUSAN.text])))
