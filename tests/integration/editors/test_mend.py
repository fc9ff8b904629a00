"""MEND: its network, the decoupled gradient, and a training that can be interrupted."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from knbench.benchmark.conformance.fixtures import TRAINING_CASES
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import Case, EditRequest
from knbench.benchmark.editing import check_disjoint
from knbench.benchmark.models.untrained import untrained
from knbench.editors import mend
from knbench.editors.mend import Mend, MendConfig, Training
from knbench.editors.shared import gradient_network
from knbench.editors.shared.trained_file import TrainedFile


@pytest.fixture(params=["gpt2", "llama"])
def lm(request):
    return untrained(request.param, 0)


def made(steps=4, **values):
    return Mend(MendConfig(layers=(2, 3), rank=8, steps=steps, accumulate=2, **values))


def training(lm, editor, name="a"):
    return Training(editor, lm, TRAINING_CASES, TrainedFile("mend", name))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KNBENCH_CACHE", str(tmp_path))


def parts(lm, editor):
    state = training(lm, editor).start(Reporter())
    return {n.removeprefix("net "): t for n, t in state.items()}


def test_the_first_update_is_a_step_along_the_normalised_gradient(lm):
    editor = made()
    network = parts(lm, editor)
    rows = editor.rows(lm, [TRAINING_CASES[0].request])
    changes = editor.changes(lm, network, rows)
    for module in editor.modules(lm):
        h, g = rows[module.weight]
        x = (torch.cat([h, g], 1) - network[f"{module.weight} mean"]) / network[f"{module.weight} deviation"]
        expected = network[f"{module.weight} rate"].exp() * x[:, h.shape[1] :].T @ x[:, : h.shape[1]]
        found = lm.as_stored(module.layer, changes[module.weight], module.role)
        assert float((found - expected).norm() / expected.norm()) < 1e-3
        # All tokens that are read have rows, the prompt's too.
        assert (
            len(h)
            == len(lm.encode(TRAINING_CASES[0].request.text).ids)
            + len(lm.split(TRAINING_CASES[0].request.text, TRAINING_CASES[0].request.target_new)[1])
            - 1
        )


def test_the_network_can_learn_from_its_start(lm):
    network = {n: t.clone().requires_grad_() for n, t in gradient_network.initial({"m": (3, 2)}, 2, 0.5, 0).items()}
    rows = {"m": (torch.randn(4, 3), torch.randn(4, 2))}
    gradient = dict(
        zip(network, gradient_network.decoupled_gradient(network, rows, {"m": torch.randn(2, 3)}), strict=True)
    )
    assert float(gradient["3x2 0 u"].norm()) > 0


def test_the_decoupled_gradient_equals_that_through_the_edited_model(lm):
    editor = made()
    run = training(lm, editor)
    state = parts(lm, editor)
    generator = torch.Generator().manual_seed(3)
    noisy = {n: t + 0.05 * torch.rand(t.shape, generator=generator) for n, t in state.items() if n[-5:] != " mean"}
    network = {
        n: t if n.endswith((" mean", " deviation")) else t.clone().requires_grad_()
        for n, t in {**state, **noisy}.items()
    }
    network.update({n: state[n] for n in state if n.endswith((" mean", " deviation"))})
    case = dataclasses.replace(
        TRAINING_CASES[0], equivalents=TRAINING_CASES[0].equivalents[:1], unrelated=TRAINING_CASES[0].unrelated[:1]
    )
    edit, equivalent, unrelated = editor.read(
        lm, [(case.request.text, case.request.target_new), case.equivalents[0], case.unrelated[0]]
    )
    found = run.gradient(network, edit, equivalent, unrelated)
    trained = {n: t for n, t in network.items() if t.requires_grad}
    rows = editor.normalised(network, editor.rows(lm, [case.request]))
    weights = {}
    for module in editor.modules(lm):
        change = gradient_network.update(trained, module.weight, *rows[module.weight])
        weights[module.weight] = lm.parameter(module.weight).detach() - lm.as_stored(module.layer, change, module.role)
    loss = run.target_loss(weights, equivalent) + run.divergence(weights, unrelated)
    expected = torch.autograd.grad(loss, list(trained.values()))
    for name, a, b in zip(trained, found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-4 * float(b.abs().max())), name


def test_an_interrupted_training_continues_to_the_same_network(lm, monkeypatch):
    monkeypatch.setattr(mend, "SAVE_EVERY", 2)
    editor = made()
    whole = training(lm, editor, "whole").run(Reporter())
    training(lm, editor, "parts").run(Reporter(), stop_at=3)  # the third step is lost
    continued = training(lm, editor, "parts").run(Reporter())
    assert all(torch.equal(whole[name], continued[name]) for name in whole if name != mend.SECONDS)


def test_training_lowers_the_loss_and_is_read_from_the_cache():
    lm = untrained("gpt2", 0)
    editor, again = made(steps=30, learning_rate=3e-3), made(steps=30, learning_rate=3e-3)
    prepared = editor.train(lm, TRAINING_CASES, Reporter())
    start = parts(lm, editor)

    def loss(network):
        total = 0.0
        for case in TRAINING_CASES:
            changes = editor.changes(lm, network, editor.rows(lm, [case.request]))
            weights = editor.edited(lm, changes)
            total += float(training(lm, editor).target_loss(weights, *editor.read(lm, case.equivalents[:1])).detach())
        return total

    network = editor._networks[lm]
    assert loss({n: t.detach() for n, t in network.items()}) < loss(start) - 0.1
    assert again.train(lm, TRAINING_CASES, Reporter()) == prepared
    assert torch.equal(*(next(iter(e.edit(lm, [TRAINING_CASES[0].request]).weights.values())) for e in (editor, again)))
    zero = {n: torch.full_like(t, -torch.inf) if n.endswith(" rate") else t for n, t in network.items()}
    editor._networks[lm] = zero
    unchanged = editor.edit(lm, [TRAINING_CASES[0].request]).weights
    assert all(torch.equal(new, lm.parameter(name)) for name, new in unchanged.items())


def test_scored_subjects_are_refused():
    case = Case("x", EditRequest("The capital of {} is", "France", "Rome", "Paris"), ())
    with pytest.raises(KnbenchError, match="trained on the subject 'France'"):
        check_disjoint("mend", TRAINING_CASES, [case])
    check_disjoint("mend", TRAINING_CASES, [dataclasses.replace(case, request=EditRequest("It is", "", "Rome", ""))])
