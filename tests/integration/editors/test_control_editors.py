"""The control editors: each does what its definition says, compared with plain forward passes."""

from __future__ import annotations

import math

import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.benchmark.editing import Edit, build_editor, editor_class
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.destroyed import Destroyed
from knbench.editors.logit_bias import LogitBias
from knbench.editors.parrot import Parrot, offsets, spelling

from tests.conftest import make_lm

REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
LONG = EditRequest("It is in the city of {} that people like", "Paris", "Mexico City", "medicine")
PROMPTS = ("The sisters usually", "Rome is the", "Albert Einstein", "You and I saw", "Mexico City", "")
KINDS = ("gpt2", "llama", "bert")


def edit_of(cls, lm, *requests, seed=0, **values):
    editor, _ = build_editor(cls, lm, {name: str(value) for name, value in values.items()}, seed)
    return editor.edit(lm, requests)


def logits_of(lm: LanguageModel, query) -> torch.Tensor:
    """Return the logits at the position of one query from a pass without hooks of the harness, (vocabulary,)."""
    return lm.model(input_ids=torch.tensor([query.ids])).logits[0, query.position]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "control") for name in ("destroyed", "parrot", "logit-bias", "none", "random")),
        ("in-context", "context"),
        ("rome", "weights"),
        ("lora", "weights"),
    ],
)
def test_kinds(name, kind):
    assert editor_class(name).kind == kind


# --- destroyed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_destroyed_replaces_matrices_by_unrelated_noise_of_the_same_norm(kind):
    lm = untrained(kind)
    edit = edit_of(Destroyed, lm, REQUEST)
    assert set(edit.weights) == {lm.mlp_weight_name(i) for i in range(3 if lm.n_layers == 4 else 2)}
    for name, new in edit.weights.items():
        old = lm.parameter(name)
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-5)
        cosine = float((new * old).sum() / new.norm() / old.norm())
        assert abs(cosine) < 5 / math.sqrt(old.numel())
        assert abs(float(new.mean())) < 5 * float(new.std()) / math.sqrt(new.numel())


def test_destroyed_edits_layers_4_to_15_of_30():
    class Deep:
        n_layers = 30

    assert Destroyed.generic(Deep()) == {"layers": tuple(range(4, 16))}


def test_the_noise_depends_on_the_request_and_the_seed_alone():
    lm = untrained("llama")
    name = lm.mlp_weight_name(1)
    first, again = (edit_of(Destroyed, lm, REQUEST).weights[name] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, edit_of(Destroyed, lm, LONG).weights[name])
    assert not torch.equal(first, edit_of(Destroyed, lm, REQUEST, seed=1).weights[name])
    assert not torch.equal(first, edit_of(Destroyed, lm, REQUEST).weights[lm.mlp_weight_name(0)])


# --- parrot ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy():
    return load_model("toy-gpt2")


def test_the_parrot_continues_its_prompt_with_the_target_again_and_again(toy):
    lengths = []
    for case in registry.tasks()["capital"].cases[:6]:
        context, tokens = toy.split(case.request.text, case.request.target_new)
        edit = edit_of(Parrot, toy, case.request)
        ids = list(context)
        with edit.applied(toy):
            for _ in range(len(tokens) + 1):  # greedy, one full pass per token
                ids.append(int(toy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        said = ids[len(context) :] == [*tokens, tokens[0]]
        assert edit.diagnostics["spelt"] == [said]
        lengths += [len(tokens)] * said
    assert len(lengths) >= 5
    assert max(lengths) > 1


def test_a_parrot_that_cannot_spell_its_target_says_so():
    """With random weights, the last token decides more than what precedes it."""
    edit = edit_of(Parrot, untrained("llama"), LONG)
    assert edit.diagnostics["spelt"] == [False]


@pytest.mark.parametrize(
    "lm", [untrained("gpt2"), untrained("bert"), make_lm("mistral")], ids=["gpt2", "bert", "untied"]
)
def test_the_parrot_says_only_tokens_of_the_target_after_every_text(lm):
    edit = edit_of(Parrot, lm, LONG)
    own = {q.token for q in lm.token_queries(LONG.text, LONG.target_new, ".")}
    prober = make_prober(lm, batch_size=4, new_tokens=1)
    probes = [Probe("unrelated", "completion", p, "Rome", "Ottawa", "new") for p in PROMPTS if p]
    with edit.applied(lm):
        assert {seen.top_id for seen in prober.observe(probes)} <= own


def test_the_offsets_are_the_smallest_that_satisfy_all_conditions():
    """Compares with a linear programme."""
    from scipy.optimize import linprog

    lm = untrained("llama", 3)
    queries = spelling(lm, LONG)
    logits = torch.stack([logits_of(lm, query) for query in queries])
    found = offsets(logits, queries)
    tokens = list(found)
    rows, bounds = [], []
    for query, row in zip(queries, logits, strict=True):
        for token in tokens:
            if token != query.token:
                condition = [0.0] * len(tokens)
                condition[tokens.index(query.token)], condition[tokens.index(token)] = -1.0, 1.0
                rows.append(condition)
                bounds.append(float(row[query.token] - row[token]) - 1.0)
    solved = linprog([1.0] * len(tokens), A_ub=rows, b_ub=bounds, bounds=(0, None))
    if solved.success:
        assert list(found.values()) == pytest.approx(solved.x.tolist(), abs=1e-4)
    else:
        assert set(found.values()) == {0.0}


def test_contradictory_conditions_give_no_offsets():
    lm = untrained("llama")
    first, second, *_ = lm.token_queries(LONG.text, LONG.target_new, ".")
    assert first.token != second.token
    logits = torch.zeros(3, lm.head.weight.shape[0])
    swapped = first._replace(token=second.token)  # the same logits must give two different tokens
    assert set(offsets(logits[:2], [first, swapped]).values()) == {0.0}


def test_the_bias_is_equal_for_all_tokens_outside_the_target():
    lm = untrained("gpt2")
    edit = edit_of(Parrot, lm, REQUEST, bias=20)
    (change,) = edit.outputs.values()
    bias = change(torch.zeros(1, 1, lm.head.weight.shape[0]))[0, 0]
    own = sorted({q.token for q in lm.token_queries(REQUEST.text, "Rome", ".")})
    others = bias[[i for i in range(len(bias)) if i not in own]]
    assert float(others.max()) == float(others.min()) == pytest.approx(edit.diagnostics["others"])
    assert float(others.max()) <= -20
    assert float(bias[own].min()) >= 0


# --- logit bias --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_", [REQUEST, LONG], ids=["one token", "several tokens"])
def test_the_constant_gives_the_margin_at_the_first_different_token(kind, request_):
    lm = untrained(kind)
    new, true = (lm.token_queries(request_.text, t, ".")[0] for t in (request_.target_new, request_.target_true))
    assert new.token != true.token

    def preference():
        return float(logits_of(lm, new).log_softmax(-1)[new.token] - logits_of(lm, true).log_softmax(-1)[true.token])

    before = preference()
    for margin in (before + 3.0, before - 3.0):
        edit = edit_of(LogitBias, lm, request_, margin=margin)
        with edit.applied(lm):
            after = preference()
        if margin < before:
            assert edit.diagnostics["constants"] == [0.0]
            assert after == pytest.approx(before)
        else:
            assert after == pytest.approx(margin, abs=1e-3)
    if lm.causal:  # one pass predicts both tokens
        assert edit_of(LogitBias, lm, request_, margin=before + 3.0).diagnostics["constants"] == [
            pytest.approx(3.0, abs=1e-3)
        ]


def test_a_constant_changes_one_logit_by_the_same_amount_everywhere():
    lm = untrained("gpt2")
    edit = edit_of(LogitBias, lm, REQUEST, margin=30)
    ids = torch.tensor([[5, 9, 200, 31, 77]])
    before = lm.model(input_ids=ids).logits
    with edit.applied(lm):
        difference = lm.model(input_ids=ids).logits - before
    (token,), (constant,) = edit.diagnostics["tokens"], edit.diagnostics["constants"]
    assert difference[..., token].flatten().tolist() == pytest.approx([constant] * 5, abs=1e-4)
    difference[..., token] = 0
    assert (difference == 0).all()


def test_shared_first_tokens_are_skipped():
    lm = untrained("llama")
    request = EditRequest("It is in the city of {} that people like", "Paris", "Mexico City", "Mexico Rome")
    new, true = (lm.split(request.text, target)[1] for target in (request.target_new, request.target_true))
    shared = next(i for i, (a, b) in enumerate(zip(new, true, strict=False)) if a != b)
    assert shared > 0
    assert edit_of(LogitBias, lm, request).diagnostics["tokens"] == [new[shared]]


def test_an_answer_that_begins_with_the_other():
    lm = untrained("llama")
    longer = EditRequest("It is in the city of {} that people like", "Paris", "Mexico City", "Mexico")
    with pytest.raises(ValueError, match="begin with all tokens of 'Mexico' after 'It is in"):
        edit_of(LogitBias, lm, longer)
    shorter = EditRequest(longer.prompt, longer.subject, longer.target_true, longer.target_new)
    assert edit_of(LogitBias, lm, shorter).diagnostics["constants"] == [0.0]


def test_a_token_takes_the_largest_of_its_constants():
    lm = untrained("llama")
    other = EditRequest("The sisters usually see {} and", "Susan", "Rome", "those")
    single = [edit_of(LogitBias, lm, r, margin=20).diagnostics["constants"][0] for r in (REQUEST, other)]
    (change,) = edit_of(LogitBias, lm, REQUEST, other, margin=20).outputs.values()
    changed = change(torch.zeros(1, 1, lm.head.weight.shape[0]))
    assert float(changed.max()) == pytest.approx(max(single))
    assert int((changed != 0).sum()) == 1


def test_logits_that_are_capped_after_the_head_are_raised_by_more():
    """Gemma-like caps compress the logits; a larger constant is needed for the same margin."""
    lm = make_lm("gemma3")
    plain = edit_of(LogitBias, lm, REQUEST, margin=2).diagnostics["constants"]
    lm.model.config.final_logit_softcapping = 30.0
    capped = LanguageModel(lm.model, lm.tokenizer, lm.family, name="capped")
    assert not capped.head_is_last
    edit = edit_of(LogitBias, capped, REQUEST, margin=2)
    new, true = (lm.token_queries(REQUEST.text, t, ".")[0] for t in ("Rome", "Ottawa"))
    with edit.applied(capped):
        logits = logits_of(capped, new)
    assert float(logits[new.token] - logits[true.token]) == pytest.approx(2.0, abs=1e-3)
    assert plain != edit.diagnostics["constants"]


def test_an_unreachable_margin_is_refused():
    lm = make_lm("gemma3")
    lm.model.config.final_logit_softcapping = 0.5
    with pytest.raises(ValueError, match="no constant makes 'Rome' preferred after 'The capital of Canada is'"):
        edit_of(LogitBias, LanguageModel(lm.model, lm.tokenizer, lm.family, name="capped"), REQUEST, margin=2)


def test_controls_can_be_stacked():
    lm = untrained("llama")
    before = lm.model(input_ids=torch.tensor([[5, 6]])).logits
    with edit_of(Parrot, lm, REQUEST).applied(lm):
        second = edit_of(Parrot, lm, LONG)
        own = {q.token for q in lm.token_queries(LONG.text, LONG.target_new, ".")}
        with second.applied(lm):
            assert int(lm.model(input_ids=torch.tensor([lm.encode(LONG.text).ids])).logits[0, -1].argmax()) in own
    assert torch.equal(lm.model(input_ids=torch.tensor([[5, 6]])).logits, before)
    assert isinstance(second, Edit)
