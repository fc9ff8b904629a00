"""Editors, knowledge neurons and the CounterFact measures equal the authors' implementations on the default model."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from knbench.benchmark.core.records import Answer
from knbench.benchmark.core.registry import resolve_tasks
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.models.attribution import Integral, attributions, neurons_above
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.running.runner import run
from knbench.editors.ft import FineTuning, FineTuningConfig
from knbench.editors.memit import MemitConfig
from knbench.editors.r_rome import RRome
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared.subject_reader import SubjectReader
from knbench.editors.shared.value_vectors import value_vectors

from tests.conftest import SHARED

pytestmark = [pytest.mark.slow, pytest.mark.long]

VALUE_SETTINGS = ("steps", "learning_rate", "weight_decay", "clamp", "kl_factor")


@cache
def reference(name: str) -> Any:
    path = SHARED / "parity" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name}: numbers of the authors' code are not part of the repository")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model("smollm2-135m", device="cpu", dtype="float32")


def fine_tuned(label: str) -> dict[str, Any]:
    return next(r for r in reference("ft")["runs"] if (r["model"], r["label"]) == ("smollm2-135m", label))


@pytest.mark.parametrize("label", ["FT, one fact twice", "FT, two facts at once"])
def test_fine_tuning_on_two_facts_with_targets_of_one_token(lm, label):
    expected = fine_tuned(label)
    assert lm.weight_hash() == expected["weight_hash"]
    config = FineTuningConfig(layer=expected["layer"], steps=5, learning_rate=expected["learning_rate"])
    edit = FineTuning(config).edit(lm, [EditRequest(**fields) for fields in expected["requests"]])
    assert edit.diagnostics["losses"] == pytest.approx(expected["losses"][:5], rel=1e-4)


@pytest.mark.parametrize("label", ["FT, target of two tokens", "FT, two facts, one and two tokens"])
def test_fine_tuning_feeds_the_target_where_released_code_does_not(lm, label):
    """The released loss is that of all target tokens at the last position of the prompt; ours feeds the target.

    Both are means over facts of the mean over tokens. The released code counts the padding of a shorter target as
    target tokens; ours does not.
    """
    expected = fine_tuned(label)
    requests = [EditRequest(**fields) for fields in expected["requests"]]
    pairs = [lm.split(request.text, request.target_new) for request in requests]
    longest = max(len(target) for _, target in pairs)
    released, fed = [], []
    for context, target in pairs:
        with torch.no_grad():
            logprobs = lm.model(input_ids=torch.tensor([context + target])).logits[0].log_softmax(-1)
        padded = [*target, *[lm.tokenizer.pad_token_id] * (longest - len(target))]
        released.append(-logprobs[len(context) - 1, padded].mean())
        positions = range(len(context) - 1, len(context) + len(target) - 1)
        fed.append(-logprobs[list(positions), list(target)].mean())
    assert float(torch.stack(released).mean()) == pytest.approx(expected["losses"][0], rel=1e-4)
    edit = FineTuning(FineTuningConfig(layer=expected["layer"], steps=1)).edit(lm, requests)
    assert edit.diagnostics["losses"] == [pytest.approx(float(torch.stack(fed).mean()), rel=1e-4)]
    assert edit.diagnostics["losses"][0] < 0.95 * expected["losses"][0]


@pytest.mark.parametrize(("kind", "cls"), [("r-rome", RRome), ("rome", Rome)])
def test_update_of_rome_and_r_rome_without_the_second_moment(lm, kind, cls):
    expected = reference("r-rome")
    assert lm.weight_hash() == expected["weight_hash"]
    case = next(r for r in expected["runs"] if r["kind"] == kind and not r["mom2_adjustment"])
    settings = {name: expected[name] for name in (*VALUE_SETTINGS, "layer")}
    editor = cls(RomeConfig(contexts=tuple(expected["contexts"]), **settings))
    request = EditRequest(**case["request"])
    edit = editor.edit(lm, [request])
    assert edit.diagnostics["losses"] == pytest.approx(case["losses"], abs=1e-3)  # printed with three digits
    name = lm.mlp_weight_name(expected["layer"])
    update = edit.weights[name] - lm.parameter(name).detach()
    assert float(update.norm()) == pytest.approx(case["update_norm"], rel=1e-3)
    corner = torch.tensor(case["update_corner_8x8"])
    assert float((update[:8, :8] - corner).norm() / corner.norm()) < 1e-3
    context, target = lm.split(request.text, request.target_new)
    with torch.no_grad(), edit.applied(lm):
        logprobs = lm.model(input_ids=torch.tensor([context + target])).logits[0].log_softmax(-1)
    scores = [logprobs[len(context) - 1 + i, token] for i, token in enumerate(target)]
    assert float(torch.stack(scores).sum().exp()) == pytest.approx(case["probability_after"], rel=1e-2)


def test_z_and_keys_of_memit(lm):
    """The optimised output of the last layer and the keys of the first one, which do not depend on text."""
    expected = reference("memit")
    assert lm.weight_hash() == expected["weight_hash"]
    case = next(r for r in expected["runs"] if len(r["requests"]) == 1)
    requests = [EditRequest(**fields) for fields in case["requests"]]
    layers, contexts = expected["layers"], tuple(expected["contexts"])
    settings = {name: expected[name] for name in VALUE_SETTINGS}
    config = MemitConfig(layers=tuple(layers), contexts=contexts, **settings)
    (vector,) = value_vectors(lm, requests, layers[-1], contexts, config.objective, site="block")
    assert list(vector.losses) == pytest.approx(case["losses"][0], abs=1e-3)
    assert float(vector.value.norm()) == pytest.approx(case["z_norm"][0], rel=1e-3)
    assert vector.value[:16].tolist() == pytest.approx(case["z_first_16"][0], rel=1e-2, abs=1e-2)
    (key,) = SubjectReader(lm, requests, contexts, layers).read(layers[0])[0]
    first = str(layers[0])
    assert float(key.norm()) == pytest.approx(case["key_norm"][first][0], rel=1e-4)
    assert key[:16].tolist() == pytest.approx(case["key_first_16"][first][0], rel=1e-3, abs=1e-5)


def test_attributions_of_the_port_for_llama(lm):
    expected = reference("kn")["models"]["smollm2-135m"]
    assert lm.weight_hash() == expected["weight_hash"]
    prompt = next(p for p in expected["prompts"] if len(p["tokens"]) == 1)
    found = attributions(lm, prompt["prompt"], prompt["target"], Integral(20, "inclusive", "pre-activation"))
    assert found.sum(1).tolist() == pytest.approx(prompt["layer_sums"], rel=1e-3, abs=1e-5)
    assert found.norm(dim=1).tolist() == pytest.approx(prompt["layer_norms"], rel=1e-4)
    largest = {(layer, index): value for layer, index, value in prompt["largest"]}
    assert {neuron: float(found[neuron]) for neuron in largest} == pytest.approx(largest, rel=1e-4)
    for threshold, neurons in prompt.get("coarse", {}).items():
        assert neurons_above(found, float(threshold)) == {tuple(neuron) for neuron in neurons}


def test_losses_per_token_of_counterfact_records(lm, tmp_path):
    """From the published file format to the stored records: log-probabilities per token after an edit with FT."""
    cases = [c for c in reference("counterfact_metrics")["cases"] if c["record"]["case_id"] in (1, 5)]
    file = tmp_path / "counterfact.json"
    file.write_text(json.dumps([case["record"] for case in cases]), encoding="utf-8")
    (task,), _ = resolve_tasks("counterfact", [], {"counterfact": str(file)})
    (finished,) = run(lm, [FineTuning], [task], tmp_path / "runs", RunSettings(split="all"))
    records = finished.records()
    assert len(records) == len(cases)

    def per_token(answer: Answer) -> float:
        return -sum(answer.token_logprobs) / len(answer.token_logprobs)

    keys = {
        "reliability": "rewrite_prompts_probs",
        "paraphrase": "paraphrase_prompts_probs",
        "neighbourhood": "neighborhood_prompts_probs",
    }
    for case, record in zip(cases, records, strict=True):
        for criterion, key in keys.items():
            probes = [probe for probe in record.probes if probe.criterion == criterion]
            assert len(probes) == len(case[key])
            for probe, losses in zip(probes, case[key], strict=True):
                found = per_token(probe.after.target), per_token(probe.after.rival)
                new, true = found if probe.expect == "new" else found[::-1]
                assert new == pytest.approx(losses["target_new"], rel=1e-3, abs=1e-4)
                assert true == pytest.approx(losses["target_true"], rel=1e-3, abs=1e-4)
