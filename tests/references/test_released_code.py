"""Editors, attributions and traces equal the authors' implementations on tiny random models.

The reference numbers were made with the released code of each method (field ``what`` of each file) on
:func:`untrained` models with given contexts and second moments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from knbench.benchmark.analyses import tracing
from knbench.benchmark.analyses.tracing import TraceSettings, trace
from knbench.benchmark.core import registry
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import Edit
from knbench.benchmark.models.attribution import Integral, attributions, neurons_above
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.untrained import untrained
from knbench.editors.alphaedit import AlphaEdit, AlphaEditConfig
from knbench.editors.emmet import Emmet, EmmetConfig
from knbench.editors.ft import FineTuning, FineTuningConfig
from knbench.editors.kn import KnowledgeNeurons, KnowledgeNeuronsConfig
from knbench.editors.memit import Memit, MemitConfig
from knbench.editors.r_rome import RRome
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared.covariance import Corpus, SecondMoments
from knbench.editors.shared.subject_reader import SubjectReader
from knbench.editors.shared.value_vectors import value_vectors
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import SHARED

TOLERANCE = 1e-4
"""Largest relative error, as the ratio of norms."""
KINDS = ("gpt2", "llama")


@cache
def reference(name: str) -> Any:
    path = SHARED / "parity" / f"tiny_{name}.json"
    if not path.exists():
        pytest.skip(f"{path.name}: numbers of the authors' code are not part of the repository")
    return json.loads(path.read_text(encoding="utf-8"))


def model(kind: str, expected: Mapping[str, Any]) -> LanguageModel:
    """Return the tiny model of a reference; its weights and token ids must be those of the reference."""
    lm = untrained(kind, 0)
    assert lm.weight_hash() == expected["weight_hash"]
    for text, ids in expected.get("ids", {}).items():
        assert list(lm.encode(text).ids) == ids
    return lm


class GivenMoments(SecondMoments):
    """Second moments that are given instead of computed."""

    def __init__(self, folder: Path, moments: Mapping[str, Any]) -> None:
        super().__init__(Corpus())
        self.folder = folder
        for layer, rows in moments.items():
            save_file({"C": torch.tensor(rows, dtype=torch.float32)}, self._path(None, int(layer)))

    def _path(self, lm: LanguageModel | None, layer: int) -> Path:
        return self.folder / f"layer-{layer}.safetensors"


def request(fields: Mapping[str, str]) -> EditRequest:
    return EditRequest(**fields)


def error(found: Tensor | Sequence[Any], expected: Any) -> float:
    """Return the relative error as the ratio of norms."""
    a, b = torch.as_tensor(found).double(), torch.tensor(expected, dtype=torch.float64)
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm())


def value_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ("steps", "learning_rate", "weight_decay", "clamp", "kl_factor")
    return {"contexts": tuple(settings["contexts"]), **{name: settings[name] for name in names}}


# --- MEMIT, EMMET, AlphaEdit -----------------------------------------------------------------------------------------

MULTI_LAYER = {
    "memit": lambda run, common: Memit(MemitConfig(ridge=run["ridge"], **common)),
    "emmet": lambda run, common: Emmet(EmmetConfig(ridge=run["emmet_lambda"], **common)),
    "alphaedit": lambda run, common: AlphaEdit(
        AlphaEditConfig(ridge=run["ridge"], threshold=run["threshold"], **common)
    ),
}


def check_update(lm: LanguageModel, edit: Edit, expected: Mapping[str, Any]) -> None:
    """Check whole updates, as the parameters are stored."""
    assert set(edit.weights) == {lm.mlp_weight_name(int(layer)) for layer in expected}
    for layer, update in expected.items():
        name = lm.mlp_weight_name(int(layer))
        assert error(edit.weights[name] - lm.parameter(name).detach(), update) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MULTI_LAYER)
def test_z_keys_and_updates_of_several_layers(name, kind, tmp_path):
    document = reference(name)
    expected = document["models"][kind]
    lm = model(kind, expected)
    common = {"layers": tuple(document["settings"]["layers"]), **value_settings(document["settings"])}
    for run in expected["runs"]:
        editor = MULTI_LAYER[name](run, common)
        editor.moments = GivenMoments(tmp_path, expected["C"])
        requests = [request(fields) for fields in run["requests"]]
        vectors = value_vectors(
            lm, requests, common["layers"][-1], common["contexts"], editor.config.objective, site="block"
        )
        assert error(torch.stack([vector.value for vector in vectors]), run["z"]) < TOLERANCE
        edit = editor.edit(lm, requests)
        check_update(lm, edit, run["update"])
        reader = SubjectReader(lm, requests, common["contexts"], common["layers"])
        with ExitStack() as stack:  # keys of a layer are read with the layers below edited
            for layer in common["layers"]:
                assert error(reader.read(layer)[0], run["keys"][str(layer)]) < TOLERANCE
                weight = lm.mlp_weight_name(layer)
                stack.enter_context(Edit(weights={weight: edit.weights[weight]}).applied(lm))


@pytest.mark.parametrize("kind", KINDS)
def test_the_null_space_of_alphaedit_has_the_released_dimension(kind, tmp_path):
    expected = reference("alphaedit")["models"][kind]
    lm = model(kind, expected)
    moments = GivenMoments(tmp_path, expected["C"])
    (run,) = expected["runs"]
    for layer, free in zip(sorted(expected["C"]), run["free"], strict=True):
        preserved = moments.preserved(lm, int(layer), run["threshold"])
        assert len(preserved) - preserved.shape[1] == free


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_batch_of_alphaedit_has_the_keys_that_the_first_one_stored(kind, tmp_path):
    """The released code adds K K^T of a batch once, right after it."""
    document = reference("alphaedit")
    expected = document["models"][kind]
    lm = model(kind, expected)
    (run,) = expected["runs"]
    common = {"layers": tuple(document["settings"]["layers"]), **value_settings(document["settings"])}
    editor = MULTI_LAYER["alphaedit"](run, common)
    editor.moments = GivenMoments(tmp_path, expected["C"])
    first, second = ([request(fields) for fields in batch["requests"]] for batch in (run, run["second"]))
    edit = editor.edit_next(lm, first, ())
    check_update(lm, edit, run["update"])
    with edit.applied(lm):
        check_update(lm, editor.edit_next(lm, second, first, edit.state), run["second"]["update"])
        again = AlphaEdit(replace(editor.config, keys="recomputed"))
        again.moments = editor.moments
        other = again.edit_next(lm, second, first)
        errors = []
        for layer, update in run["second"]["update"].items():
            name = lm.mlp_weight_name(int(layer))
            errors.append(error(other.weights[name] - lm.parameter(name).detach(), update))
        assert TOLERANCE < max(errors) < 0.05  # earlier keys of the upper layer are read again, after the lower edit


# --- ROME, R-ROME, fine-tuning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rank_one_updates_of_rome_and_r_rome(kind, tmp_path):
    document = reference("r-rome")
    expected = document["models"][kind]
    lm = model(kind, expected)
    settings = {**document["settings"], "clamp": expected["clamp"]}
    for run in expected["runs"]:
        cls = {"rome": Rome, "r-rome": RRome}[run["method"]]
        config = RomeConfig(layer=expected["layer"], mom2_adjustment=run["mom2_adjustment"], **value_settings(settings))
        editor = cls(config)
        editor.moments = GivenMoments(tmp_path, expected["C"])
        edit = editor.edit(lm, [request(run["request"])])
        name = lm.mlp_weight_name(expected["layer"])
        found = edit.weights[name] - lm.parameter(name).detach()
        left, right = (torch.tensor(run["rank_one"][side], dtype=torch.float64) for side in ("left", "right"))
        assert error(found, torch.outer(left, right).tolist()) < TOLERANCE, (run["method"], run["mom2_adjustment"])


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_updates_of_fine_tuning(kind):
    """FT, FT-L and FT-W for one fact with a target of one token."""
    expected = reference("ft")["models"][kind]
    lm = model(kind, expected)
    for run in expected["runs"]:
        names = ("layer", "steps", "learning_rate", "epsilon", "weight_decay")
        editor = FineTuning(FineTuningConfig(**{name: run[name] for name in names}))
        edit = editor.edit(lm, [request(run["request"])])
        assert edit.diagnostics["losses"] == pytest.approx(run["losses"], rel=TOLERANCE)
        name = lm.mlp_weight_name(run["layer"])
        assert error(edit.weights[name] - lm.parameter(name).detach(), run["update"]) < TOLERANCE


# --- knowledge neurons, causal tracing -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_attributions_and_coarse_neurons(kind):
    """The ports integrate before the activation function in causal models and after it in BERT."""
    expected = reference("kn")["models"][kind]
    lm = model(kind, expected)
    integral = Integral(20, "inclusive", "neurons" if kind == "bert" else "pre-activation")
    for prompt in expected["prompts"]:
        (query,) = lm.token_queries(prompt["prompt"], prompt["target"], ".")
        assert (list(query.ids), query.position, query.token) == (prompt["ids"], prompt["position"], prompt["token"])
        found = attributions(lm, prompt["prompt"], prompt["target"], integral)
        assert error(found, prompt["attributions"]) < TOLERANCE
        for threshold, neurons in prompt["coarse"].items():
            assert neurons_above(found, float(threshold)) == {tuple(neuron) for neuron in neurons}


def test_traces(monkeypatch):
    """Probabilities with restored states, MLP outputs and attention outputs, with the released noise."""
    document = reference("trace")
    lm = model("gpt2", document)
    width = lm.shape["width"]

    def released_noise(_lm: LanguageModel, _request: EditRequest, count: int, settings: TraceSettings) -> Tensor:
        noise = np.random.RandomState(1).randn(settings.samples, count, width)
        return torch.tensor(noise, dtype=torch.float32)

    monkeypatch.setattr(tracing, "sample_noise", released_noise)
    names = {"": "state", "mlp": "mlp", "attn": "attention"}
    for case in document["cases"]:
        prompt = case["prompt"].replace("{}", case["subject"])
        assert list(lm.encode(prompt).ids) == case["ids"]
        monkeypatch.setattr(LanguageModel, "split", lambda *_, case=case: (tuple(case["ids"]), (case["answer_id"],)))
        asked = EditRequest(case["prompt"], case["subject"], "Rome", "Paris")
        result = trace(lm, asked, case["scale"], TraceSettings(samples=case["samples"], window=case["window"]))
        assert result.clean == pytest.approx(case["high"], rel=TOLERANCE)
        assert result.corrupted == pytest.approx(case["low"], rel=TOLERANCE)
        found = result.effects[names[case["kind"]]] + result.corrupted
        assert error(found, case["scores"]) < TOLERANCE


# --- differences that are kept ---------------------------------------------------------------------------------------


def test_fine_tuning_of_gpt2_leaves_the_bias_of_the_projection():
    """The released templates name the module, and the bias is trained as well."""
    lm = untrained("gpt2", 0)
    edit = FineTuning(FineTuningConfig(layer=2, steps=2)).edit(lm, [EditRequest("{} is", "Rome", "Paris", "Canada")])
    assert set(edit.weights) == {"transformer.h.2.mlp.c_proj.weight"}
    assert lm.mlp_out(2).bias is not None


def test_a_neuron_whose_attribution_equals_the_threshold_is_kept():
    """As in the code of Dai et al.; that of Niu et al. compares with ``>``."""
    assert neurons_above(torch.tensor([[1.0, 0.5, 0.25]]), 0.5) == {(0, 0), (0, 1)}


@pytest.mark.parametrize(("operation", "factor"), [("suppress", 0.0), ("enhance", 2.0)])
def test_suppression_and_enhancement_act_at_every_position(operation, factor):
    """The ports change the activation at the asked position alone, and on GPT-2 before the activation function."""
    lm = untrained("gpt2", 0)
    asked = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
    editor = KnowledgeNeurons(KnowledgeNeuronsConfig(operation=operation, prompts=1, steps=4))
    edit = editor.edit(lm, [asked])
    neurons = [tuple(neuron) for neuron in edit.diagnostics["found"][0]["neurons"]]
    ids = torch.tensor([lm.encode(asked.text).ids])
    with torch.no_grad(), edit.applied(lm):
        found = lm.model(input_ids=ids).logits

    def scaled(layer: int) -> Any:
        def hook(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            state = args[0].clone()
            state[..., [index for at, index in neurons if at == layer]] *= factor
            return (state,)

        return hook

    with torch.no_grad(), ExitStack() as stack:
        for layer in range(lm.n_layers):
            stack.callback(lm.mlp_out(layer).register_forward_pre_hook(scaled(layer)).remove)
        expected = lm.model(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_noise_of_traces_is_that_of_subjects_after_a_space():
    """The released code tokenises subjects without the space before them."""
    lm = untrained("gpt2", 0)
    task = registry.task("capital")
    table = lm.model.get_input_embeddings().weight.detach()

    def spread(form: str) -> float:
        subjects = dict.fromkeys(case.request.subject for case in task.cases)
        texts = [form.format(subject) for subject in subjects]
        ids = [i for text in texts for i in lm.tokenizer(text, add_special_tokens=False).input_ids]
        return float(table[ids].std())

    assert tracing.noise_scale(lm, task, 3.0) == pytest.approx(3 * spread(" {}"), rel=1e-5)
    assert tracing.noise_scale(lm, task, 3.0) != pytest.approx(3 * spread("{}"), rel=1e-5)
