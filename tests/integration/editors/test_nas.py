"""NAS: the anchor and the scaled values, and its composition with methods that write values."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.core.split import split_cases
from knbench.benchmark.editing import Edit, build_editor, editor_class
from knbench.benchmark.models.hooks import capture
from knbench.benchmark.models.untrained import untrained
from knbench.editors import nas
from knbench.editors.memit import Memit, MemitConfig
from knbench.editors.nas import Nas, NasConfig
from knbench.editors.shared.value_vectors import value_vectors
from knbench.editors.shared.warm_up import WARM_UP_TASKS, warm_up_requests

from tests.integration.editors.test_multi_layer import CONTEXTS, REQUESTS, SMALL, change, stacked

ARGS = {
    "layers": "0|1",
    "ridge": "0.5",
    "steps": "5",
    "learning_rate": "0.1",
    "contexts": "|".join(CONTEXTS),
    "corpus_tokens": "1024",
    "corpus_length": "32",
    "nas_pilots": "20",
}
PLACES = ("Canada", "Italy", "Rome", "Paris", "Mexico")
PILOTS = [
    EditRequest(prompt, place, target, "this")
    for place in PLACES
    for prompt, target in (("The capital of {} is", "Rome"), ("Susan saw {}", "sketches"), ("{} is a", "physics"),
                           ("The sisters left {} for", "Mexico City"))
]  # fmt: skip


@pytest.fixture(autouse=True)
def pilots(request, monkeypatch):
    """Replace the tuning cases, which take seconds to read, except in the test of them."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(nas, "warm_up_requests", lambda _lm, _tasks, count: PILOTS[:count])


def mlp_output(lm, request, layer):
    """Return the output of the MLP at the subject's last token, (d,)."""
    tokens, span = lm.subject_span(request.prompt, request.subject)
    with torch.no_grad(), capture({"v": (lm.mlp(layer), "output")}) as captured:
        lm.model(input_ids=torch.tensor([tokens.ids]))
    return captured["v"][0, span[-1]]


def anchored(anchor, **more):
    """Return the guard with a given anchor of layer 1, and the model."""
    lm = untrained("llama")
    guard = Nas(NasConfig(pilots=1, **more))
    norm = torch.tensor([[anchor, 0.0]])
    guard.prepare_values(lm, 1, lambda pilots: (norm[: len(pilots)] * 0, norm), Reporter())
    return guard, lm


def test_a_value_has_the_norm_of_the_anchor_or_is_not_written():
    start, value = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
    for anchor in (2.5, 5.0, 40.0):
        guard, lm = anchored(anchor)
        found = guard.value(lm, 1, start, value)
        assert float(found.norm()) == pytest.approx(anchor, rel=1e-6)
        torch.testing.assert_close(found / found.norm(), value / 5)
    guard, lm = anchored(5.0)
    assert torch.equal(guard.value(lm, 1, start, value), value)  # the anchor is the norm
    guard, lm = anchored(2.4)
    assert guard.value(lm, 1, start, value) is start
    guard, lm = anchored(2.4, skip_above=3.0)
    assert float(guard.value(lm, 1, start, value).norm()) == pytest.approx(2.4)


def test_the_anchor_is_the_mean_without_the_largest_norms():
    lm = untrained("llama")
    norms = iter(range(1, 41))

    def values(pilots):
        return torch.zeros(len(pilots), 2), torch.tensor([[float(next(norms)), 0.0] for _ in pilots])

    found = Nas(NasConfig(pilots=20, trim=0.05)).prepare_values(lm, 1, values, Reporter())
    assert found == {"anchor": sum(range(1, 20)) / 19, "pilots": 20}


@pytest.mark.slow
def test_pilots_are_tuning_cases():
    lm = untrained("llama")
    tuning = set()
    for name in WARM_UP_TASKS:
        tuning |= {case.request for case in split_cases(name, registry.task(name).cases, "tune")}
    assert set(warm_up_requests(lm, WARM_UP_TASKS, 30)) <= tuning


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_update_of_memit_writes_the_scaled_value(kind):
    """The wanted output of the block is h0 - v0 + v* a / |v*|, with the anchor from whole forward passes."""
    lm = untrained(kind)
    editor, _ = build_editor(editor_class("memit+nas"), lm, {**ARGS, "layers": "1"})
    edit = editor.edit(lm, REQUESTS)
    base = Memit(MemitConfig(layers=(1,), ridge=0.5, **SMALL))
    objective = base.config.objective
    norms = []
    for pilot in PILOTS:
        (vector,) = value_vectors(lm, [pilot], 1, ["{}"], objective, "block")
        norms.append(float((mlp_output(lm, pilot, 1) + vector.value - vector.bare_value).norm()))
    anchor = sum(sorted(norms)[:19]) / 19
    vectors = value_vectors(lm, REQUESTS, 1, CONTEXTS, objective, "block")
    targets = []
    for request, vector in zip(REQUESTS, vectors, strict=True):
        v0 = mlp_output(lm, request, 1)
        torch.testing.assert_close(vector.bare_mlp, v0, rtol=1e-4, atol=1e-5)
        v = v0 + vector.value - vector.bare_value
        v = v0 if v.norm() > 2 * anchor else v * anchor / v.norm()
        targets.append(vector.bare_value - v0 + v)
    keys, outputs = stacked(lm, REQUESTS, 1, 1)
    residual = torch.stack(targets, 1).double() - outputs
    closed = residual @ keys.T @ torch.linalg.inv(0.5 * base.moments.of(lm, 1).double() + keys @ keys.T)
    found = change(lm, edit, 1)
    assert float((found - closed).norm() / closed.norm()) < 1e-3


def test_the_anchor_is_that_of_the_unedited_model():
    """Also if it is needed first when an edit is already applied."""
    lm = untrained("llama")
    expected = build_editor(editor_class("memit+nas"), lm, ARGS)[0].prepare(lm, Reporter())["value_guards"]["nas"]
    name = lm.mlp_weight_name(1)
    editor, _ = build_editor(editor_class("memit+nas"), lm, ARGS)
    with Edit(weights={name: lm.parameter(name).detach() * 3}).applied(lm):
        editor.edit(lm, REQUESTS[:1])
        assert editor.prepare(lm, Reporter())["value_guards"]["nas"]["1"] == pytest.approx(expected["1"])
    assert list(expected) == ["1"]


def test_each_layer_of_blue_has_its_own_anchor():
    lm = untrained("llama")
    prepared = build_editor(editor_class("blue+nas"), lm, ARGS)[0].prepare(lm, Reporter())
    anchors = prepared["value_guards"]["nas"]
    assert list(anchors) == ["0", "1"]
    assert anchors["0"]["anchor"] != anchors["1"]["anchor"]


def test_a_method_without_values_is_refused():
    with pytest.raises(KnbenchError, match=r"guard 'nas' restrains the values that a method solves for, and 'ft' has"):
        editor_class("ft+nas")


@pytest.mark.parametrize("values", [{"nas_pilots": "0"}, {"nas_trim": "1"}, {"nas_skip_above": "0.5"}])
def test_values_are_checked(values):
    with pytest.raises(KnbenchError, match="pilots and skip_above must be at least 1, and trim at least 0 and below 1"):
        build_editor(editor_class("memit+nas"), untrained("llama"), values)


def test_pilots_whose_subject_is_the_first_token_are_left_out(monkeypatch):
    """The first token of a text attracts attention, and its values are many times larger than others."""
    lm = untrained("gpt2")
    first = [EditRequest("{} is a", "S", "physics", "this")] * 20
    assert list(lm.subject_span(first[0].prompt, "S")[1]) == [0]

    def anchor(pilots):
        monkeypatch.setattr(nas, "warm_up_requests", lambda _lm, _tasks, _count: pilots)
        editor, _ = build_editor(editor_class("memit+nas"), lm, {**ARGS, "layers": "1"})
        return editor.prepare(lm, Reporter())["value_guards"]["nas"]

    assert anchor([*PILOTS[:8], *first]) == anchor(PILOTS[:8])
