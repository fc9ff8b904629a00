"""Guards: RECT and PRUNE against independent computations, and their composition with editors by name."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import (
    Edit,
    Editor,
    EditStack,
    Guard,
    NoConfig,
    State,
    build_editor,
    editor_class,
    guarded,
)
from knbench.benchmark.models.untrained import untrained
from knbench.editors.guards import PruneConfig, PruneEach, PruneView, Rect, RectConfig

from tests.conftest import SHARED, knbench
from tests.files import load_result

REFERENCE = SHARED / "parity" / "tiny_rect.json"
REQUEST = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")


def matrices(seed=0, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 8, generator=generator)
    return weight, weight + scale * torch.randn(12, 8, generator=generator)


# --- RECT --------------------------------------------------------------------------------------------------


def rect(share, current, proposed):
    return Rect(RectConfig(share)).update(None, "w", current, current, proposed)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.75])
def test_rect_keeps_the_entries_with_the_largest_relative_change(share):
    current, proposed = matrices()
    new = rect(share, current, proposed)
    relative = np.abs(((proposed - current) / current).numpy()).ravel()
    kept = np.flatnonzero((new != current).numpy().ravel())
    assert len(kept) == 96 - int((1 - share) * 96)
    assert relative[kept].min() >= np.delete(relative, kept).max()
    assert torch.equal(new.flatten()[kept], proposed.flatten()[kept])


def test_rect_with_share_1_is_the_identity():
    current, proposed = matrices()
    assert torch.equal(rect(1.0, current, proposed), proposed)


def test_rect_keeps_changes_of_zeros_and_the_first_of_equal_ones():
    current = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]])
    proposed = torch.tensor([[0.1, 0.0, 2.0, 2.0, 2.0]])
    torch.testing.assert_close(rect(0.4, current, proposed), torch.tensor([[0.1, 0.0, 2.0, 1.0, 1.0]]))


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference edits are not beside the checkout")
def test_rect_gives_the_values_of_the_released_code():
    given = json.loads(REFERENCE.read_text())["given"]
    assert given
    for example in given:
        weight, update, written = (torch.tensor(example[key]) for key in ("weight", "proposed", "written"))
        new = rect(example["share"], weight, weight + update)
        torch.testing.assert_close(new - weight, written, rtol=1e-4, atol=1e-6)


# --- PRUNE -------------------------------------------------------------------------------------------------


def prune(original, proposed, base=math.e):
    return PruneEach(PruneConfig(base)).update(None, "w", original, original, proposed)


def test_prune_compresses_the_singular_values_above_the_largest_of_the_weight():
    weight, _ = matrices()
    largest = np.linalg.svd(weight.numpy(), compute_uv=False)[0]
    change = 3 * matrices(1)[0]
    new = prune(weight, weight + change)
    u, before, vh = np.linalg.svd(change.double().numpy(), full_matrices=False)
    assert before[0] > largest
    expected = [math.log(s / largest) + largest if s >= largest else s for s in before]
    np.testing.assert_allclose((new - weight).numpy(), u @ np.diag(expected) @ vh, atol=1e-4)
    assert sorted(expected, reverse=True) == expected  # monotone
    after = np.linalg.svd((new - weight).double().numpy(), compute_uv=False)
    assert after[0] == pytest.approx(math.log(before[0]) - math.log(largest) + largest, rel=1e-5)


def test_prune_leaves_small_changes_bit_for_bit():
    weight, proposed = matrices(scale=0.01)
    assert torch.equal(prune(weight, proposed), proposed)


def test_prune_is_refused_where_it_would_raise_singular_values():
    weight, proposed = (matrix / 100 for matrix in matrices())
    with pytest.raises(ValueError, match="set a higher base"):
        prune(weight, proposed)
    with pytest.raises(ValueError, match="base must be above 1"):
        PruneConfig(1.0)


# --- composition -------------------------------------------------------------------------------------------


class Push(Editor[NoConfig]):
    """Adds a number to one matrix and counts its edits in the state."""

    name, summary, Config = "push", "adds", NoConfig

    def edit(self, lm, requests):
        return self.edit_next(lm, requests, ())

    def edit_next(self, lm, requests, earlier, state=None):
        count = 1 if state is None else state.settings["count"] + 1
        name = lm.mlp_weight_name(1)
        return Edit(weights={name: lm.parameter(name).detach() + count}, state=State(settings={"count": count}))


class Recorder(Guard[NoConfig]):
    """Halves the whole change and notes its arguments."""

    name, summary, Config = "recorder", "halves", NoConfig
    seen: list = []  # noqa: RUF012

    def prepare(self, lm, reporter):
        return {"layers": lm.n_layers}

    def update(self, lm, name, original, current, proposed):
        self.seen.append((original.clone(), current.clone(), proposed.clone()))
        return (original + proposed) / 2


class Zero(Guard[NoConfig]):
    name, summary, Config = "zero", "writes zeros", NoConfig

    def update(self, lm, name, original, current, proposed):
        return torch.zeros_like(proposed)


def test_a_composed_edit_is_the_guarded_edit_of_the_method():
    lm = untrained("llama")
    plain = build_editor(editor_class("ft"), lm, {"steps": "3"})[0].edit(lm, [REQUEST])
    editor, _ = build_editor(editor_class("ft+rect"), lm, {"steps": "3", "rect_share": "0.4"})
    edit = editor.edit(lm, [REQUEST])
    ((name, proposed),) = plain.weights.items()
    assert torch.equal(edit.weights[name], rect(0.4, lm.parameter(name).detach(), proposed))
    assert edit.diagnostics == plain.diagnostics
    identity, _ = build_editor(editor_class("ft+rect"), lm, {"steps": "3", "rect_share": "1"})
    assert torch.equal(identity.edit(lm, [REQUEST]).weights[name], proposed)
    (each,) = editor.edit_each(lm, [REQUEST])
    assert torch.equal(each.weights[name], edit.weights[name])


def test_a_guard_sees_the_unedited_weight_in_a_sequence():
    lm = untrained("llama")
    name = lm.mlp_weight_name(1)
    start = lm.parameter(name).detach().clone()
    editor, _ = build_editor(guarded(Push, (Recorder,)), lm)
    Recorder.seen.clear()
    first = editor.edit(lm, [REQUEST])
    torch.testing.assert_close(first.weights[name], start + 0.5)
    with first.applied(lm):
        second = editor.edit_next(lm, [REQUEST], [REQUEST], first.state)
    original, current, proposed = Recorder.seen[1]
    assert torch.equal(original, start)
    torch.testing.assert_close(current, start + 0.5)
    torch.testing.assert_close(proposed, start + 0.5 + 2)
    assert second.state.settings["count"] == 2


def test_guards_act_in_their_order_and_are_prepared():
    lm = untrained("llama")
    name = lm.mlp_weight_name(1)
    start = lm.parameter(name).detach()
    last, _ = build_editor(guarded(Push, (Recorder, Zero)), lm)
    first, _ = build_editor(guarded(Push, (Zero, Recorder)), lm)
    assert (last.edit(lm, [REQUEST]).weights[name] == 0).all()
    torch.testing.assert_close(first.edit(lm, [REQUEST]).weights[name], start / 2)
    assert last.prepare(lm, None) == {"guards": {"recorder": {"layers": 4}, "zero": {}}}
    assert last.name == "push+recorder+zero"
    assert last.summary == "adds; halves; writes zeros"


def test_the_class_declares_what_the_method_declares():
    for name in ("memit", "rome", "kn"):
        base, composed = editor_class(name), editor_class(f"{name}+rect+prune-each")
        for attribute in ("kind", "causal_only", "needs_subject", "needs_rival", "joint_batch_size", "published"):
            assert getattr(composed, attribute) == getattr(base, attribute)
    assert editor_class("memit+rect") is editor_class("memit+rect")


def test_a_composed_class_can_be_sent_to_a_worker():
    cls = editor_class("rome+prune-each")
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memit+rekt", "guard 'rekt'.*did you mean 'rect'"),
        ("memitt+rect", "editor 'memitt'"),
        ("in-context+rect", "guards restrain weights, and 'in-context' changes none"),
        ("memit+rect+rect", "names a guard twice"),
    ],
)
def test_compositions_that_are_refused(name, message):
    with pytest.raises(KnbenchError, match=message):
        editor_class(name)


def test_values_are_checked():
    lm = untrained("llama")
    with pytest.raises(KnbenchError, match=r"editor 'ft\+rect': rect_share must be above 0 and at most 1"):
        build_editor(editor_class("ft+rect"), lm, {"rect_share": "2"})
    with pytest.raises(KnbenchError, match="steps at least 1"):
        build_editor(editor_class("ft+rect"), lm, {"steps": "0"})
    with pytest.raises(KnbenchError, match="did you mean 'rect_share'"):
        build_editor(editor_class("ft+rect"), lm, {"rect_shar": "1"})


def test_an_edit_without_weights_is_refused():
    lm = untrained("llama")
    editor, _ = build_editor(editor_class("none+rect"), lm)
    with pytest.raises(ValueError, match="'none' changes no weight that a guard could restrain"):
        editor.edit(lm, [REQUEST])


def test_a_composition_runs_from_the_command_line(model_folder, tmp_path, own_cache):
    arguments = ("--model", model_folder, "--tasks", "capital", "--limit", "2", "--output", tmp_path)
    assert knbench("run", "--editors", "ft,ft+rect", *arguments, "--editor-args", "ft+rect.rect_share=0.5") == 0
    result = load_result(tmp_path / "ft+rect" / "capital" / "result.json")
    assert result["editor"]["name"] == "ft+rect"
    assert result["editor"]["config"]["rect_share"] == 0.5
    assert result["records"]["failed"] == 0


# --- views -------------------------------------------------------------------------------------------------


def test_a_view_restrains_the_sum_of_the_edits_and_continues_without_restraint():
    lm = untrained("llama")
    name = lm.mlp_weight_name(1)
    start = lm.parameter(name).detach().clone()
    editor, _ = build_editor(guarded(Push, (PruneView,)), lm, {"prune_view_base": "10"})
    state, edits = None, []
    with EditStack(lm) as stack:
        for number in range(3):  # Push adds 1, 2 and 3; the state of Push counts its edits
            edit = editor.edit_next(lm, [REQUEST], [REQUEST] * number, state)
            stack.push(edit)
            state = stack.state
            edits.append(edit)
    for edit, total in zip(edits, (1, 3, 6), strict=True):
        expected = prune(start, start + total, 10)
        torch.testing.assert_close(edit.weights[name], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(edits[2].weights[name], start + 6, atol=1)
    each, _ = build_editor(guarded(Push, (PruneEach,)), lm, {"prune_each_base": "10"})
    assert torch.equal(each.edit(lm, [REQUEST]).weights[name], edits[0].weights[name])
    assert torch.equal(editor.edit(lm, [REQUEST]).weights[name], edits[0].weights[name])


def test_a_view_of_small_changes_is_the_plain_sequence():
    lm = untrained("gpt2")
    plain, _ = build_editor(editor_class("ft"), lm, {"steps": "2"})
    view, _ = build_editor(editor_class("ft+prune-view"), lm, {"steps": "2", "prune_view_base": "100"})
    weights = []
    for editor in (plain, view):
        with EditStack(lm) as stack:
            stack.push(editor.edit(lm, [REQUEST]))
            stack.push(edit := editor.edit_next(lm, [REQUEST], [REQUEST], stack.state))
            weights.append(edit.weights)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_view_keeps_the_weights_that_an_edit_does_not_change():
    """The second edit changes another layer; the edit still restrains and returns the first one."""

    class Alternates(Push):
        def edit_next(self, lm, requests, earlier, state=None):
            name = lm.mlp_weight_name(len(earlier))
            return Edit(weights={name: lm.parameter(name).detach() + 1})

    lm = untrained("llama")
    editor, _ = build_editor(guarded(Alternates, (PruneView,)), lm, {"prune_view_base": "10"})
    with EditStack(lm) as stack:
        stack.push(editor.edit(lm, [REQUEST]))
        edit = editor.edit_next(lm, [REQUEST], [REQUEST], stack.state)
    assert set(edit.weights) == {lm.mlp_weight_name(0), lm.mlp_weight_name(1)}
    assert edit.state.settings == {"method": None}
