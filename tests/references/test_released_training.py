"""FT-M and LocFT-BF equal the authors' implementations on tiny random models.

The released code pads on the left without position ids, which shifts the absolute positions of GPT-2 in rows of several
lengths (``spec_gap`` of the references). These runs are compared for Llama alone.
"""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.editors import locft
from knbench.editors.ft_m import MaskedFineTuning, MaskedFineTuningConfig
from knbench.editors.locft import LocalisedFineTuning, LocalisedFineTuningConfig
from knbench.editors.shared import training

from tests.references.test_released_code import KINDS, TOLERANCE, error, model, reference

LONG = 5e-3
"""Largest relative error after more than fifty steps at a high learning rate, which enlarge rounding."""


def scaled_model(kind, expected, run):
    lm = model(kind, expected)
    norm = lm.model.transformer.ln_f if kind == "gpt2" else lm.model.model.norm
    norm.weight.data *= run["final_norm_weight_times"]
    return lm


def plain(fields):
    return EditRequest(fields["prompt"], "", fields["target"], "")


def check(lm, edit, trained, run, tolerance):
    (name,) = edit.weights
    assert name == run["weight"]
    flat = [loss for epoch in trained[0].losses for loss in epoch]
    assert len(flat) == len(run["losses"])
    assert flat == pytest.approx(run["losses"], rel=tolerance, abs=1e-5)
    change = edit.weights[name] - lm.parameter(name).detach()
    expected = run["update"]
    assert error(change[: len(expected), : len(expected[0])], expected) < tolerance
    assert float(change.norm()) == pytest.approx(run["update_norm"], rel=tolerance)


@pytest.fixture
def trained(monkeypatch):
    """The results of all trainings, with the losses of every mini-batch."""
    results = []

    def recorded(*args, **kwargs):
        results.append(training.train(*args, **kwargs))
        return results[-1]

    for module in ("ft_m", "locft"):
        monkeypatch.setattr(f"knbench.editors.{module}.train", recorded)
    return results


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(4))
def test_ft_m(kind, number, trained):
    expected = reference("ftm")["models"][kind]
    run = expected["runs"][number]
    assert run["objective"] == "target_new"
    if run["spec_gap"] is not None and run["spec_gap"]["losses"] > TOLERANCE:
        pytest.skip("the released code shifts the positions of padded rows")
    lm = scaled_model(kind, expected, run)
    names = ("layer", "batch_size", "learning_rate", "weight_decay")
    config = MaskedFineTuningConfig(epochs=run["max_epochs"], **{name: run[name] for name in names})
    edit = MaskedFineTuning(config).edit(lm, [plain(fields) for fields in run["requests"]])
    check(lm, edit, trained, run, LONG if run["learning_rate"] > 1e-2 else TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_last_is_another_method(kind, trained):
    """It predicts the tokens after the first one at the last position of the prompt: the losses differ."""
    expected = reference("ftm")["models"][kind]
    run = expected["runs"][4]
    assert run["objective"] == "prompt_last"
    lm = scaled_model(kind, expected, run)
    config = MaskedFineTuningConfig(layer=run["layer"], epochs=run["max_epochs"])
    MaskedFineTuning(config).edit(lm, [plain(fields) for fields in run["requests"]])
    first = trained[0].losses[0]
    assert first[0] == pytest.approx(run["losses"][0], rel=TOLERANCE)  # one target token
    assert abs(first[1] - run["losses"][1]) > 1e-2  # three target tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(5))
def test_locft(kind, number, trained, monkeypatch):
    expected = reference("locft")["models"][kind]
    run = expected["runs"][number]
    if run["spec_gap"] is not None and run["spec_gap"]["losses"] > TOLERANCE:
        pytest.skip("the released code shifts the positions of padded rows")
    lm = scaled_model(kind, expected, run)
    monkeypatch.setattr(locft, "shuffled", lambda *_: iter(run["orders"]))
    config = LocalisedFineTuningConfig(
        layer=run["layer"], batch_size=run["batch_size"], epochs=run["max_epochs"], learning_rate=run["learning_rate"]
    )
    edit = LocalisedFineTuning(config).edit(lm, [plain(fields) for fields in run["requests"]])
    if run["padding"] == "resized":  # the row of the added padding token enters every softmax of the released code
        first = trained[0].losses[0][0]
        assert 1e-5 < run["losses"][0] - first < 1e-2
        return
    check(lm, edit, trained, run, LONG if run["learning_rate"] > 1e-2 else TOLERANCE)


def test_the_end_of_text_is_the_released_one():
    run = reference("locft")["models"]["llama"]["runs"][0]
    lm = model("llama", reference("locft")["models"]["llama"])
    assert {fields["eos"] for fields in run["requests"]} == {lm.tokenizer.eos_token_id}
    assert torch.tensor([len(fields["target_ids"]) for fields in run["requests"]]).unique().numel() > 1
