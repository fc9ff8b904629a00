"""Hyper-parameters: help texts, precedence of their sources, and conversion from text."""

from __future__ import annotations

import dataclasses
from importlib.metadata import entry_points

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.editing import build_editor, editor_class, hyperparameter
from knbench.benchmark.models.attribution import Integral
from knbench.editors.kn import KnowledgeNeurons
from knbench.editors.memit import Memit
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome

from tests.conftest import make_lm

BUILT_IN = sorted(p.name for p in entry_points(group=registry.EDITORS) if p.value.startswith("knbench.editors."))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_hyperparameter_has_a_help_text(name):
    for field in dataclasses.fields(editor_class(name).Config):
        help_text = field.metadata.get("help", "")
        assert help_text[:1].isupper(), field.name
        assert help_text.endswith("."), field.name


@pytest.mark.parametrize("name", BUILT_IN)
def test_published_values_name_hyperparameters_and_a_model(name):
    cls = editor_class(name)
    fields = {field.name for field in dataclasses.fields(cls.Config)}
    for published in cls.published:
        assert set(published.values) <= fields
        assert published.model
        assert published.source


def test_published_rows_have_the_values_of_their_sources():
    def rows(name):
        return {p.model: p for p in editor_class(name).published}

    rome, kn, memit, alphaedit = (rows(name) for name in ("rome", "kn", "memit", "alphaedit"))
    assert rome["gpt-j-6b"].source.startswith("Meng et al. 2022")
    assert rome["gpt-j-6b"].values["mom2_adjustment"] is True
    without_moment = [p for p in rome.values() if p.source.startswith(("Niu", "EasyEdit"))]
    assert len(without_moment) == 4
    assert not any(p.values.get("mom2_adjustment") for p in without_moment)
    for model in ("gpt2-xl", "llama-2-7b"):
        integral = Integral(kn[model].values["steps"], kn[model].values["rule"], kn[model].values["site"])
        assert integral == Integral(20, "inclusive", "pre-activation")
        assert (kn[model].source, kn[model].values["sharing"]) == ("Niu et al. 2024", 0.7)
    assert Integral(20, kn["gpt-j-6b"].values["rule"], kn["gpt-j-6b"].values["site"]) == integral
    assert memit["llama-3-8b"].source.startswith("Fang et al. 2025")
    r_rome, emmet = rows("r-rome"), rows("emmet")
    for model in ("gpt2-xl", "gpt-j-6b", "llama-2-7b"):
        assert r_rome[model].source.startswith("Gupta et al. 2024, Rebuilding ROME")
        assert r_rome[model].values["mom2_adjustment"] is True
    # emmet_lambda is 0.1; C has the weight mom2_update_weight.
    for model, layer, weight in (("gpt2-xl", 17, 1000), ("gpt-j-6b", 5, 10000), ("llama-2-7b", 5, 1)):
        assert emmet[model].values["layers"] == [layer]
        assert emmet[model].values["ridge"] == pytest.approx(0.1 * weight)
    rates = {"gpt2-xl": 0.5, "gpt-j-6b": 0.5, "llama-3-8b": 0.1}
    for model, rate in rates.items():
        values = alphaedit[model].values
        assert (values["ridge"], values["threshold"], values["learning_rate"]) == (10.0, 0.02, rate)


@pytest.mark.parametrize("name", BUILT_IN)
def test_published_values_are_a_valid_configuration(lm, name):
    cls = editor_class(name)
    for published in cls.published:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in published.values.items()}
        cls.Config(**{**cls.generic(lm), **values})


def test_a_hyperparameter_has_a_default_or_is_required():
    @dataclasses.dataclass(frozen=True)
    class Config:
        layer: int = hyperparameter(help="Layer.")
        factor: float = hyperparameter(0.5, help="Factor.")

    assert Config(layer=1) == Config(1, 0.5)
    with pytest.raises(TypeError, match="layer"):
        Config()
    assert [field.metadata["help"] for field in dataclasses.fields(Config)] == ["Layer.", "Factor."]


def test_user_values_override_published_and_generic_ones(lm):
    editor, source = build_editor(Rome, lm)
    assert (editor.config.layer, source) == (1, "generic")
    editor, source = build_editor(Rome, lm, {"layer": "2", "learning_rate": "5e-2", "contexts": "{}|He said. {}"})
    assert (editor.config.layer, editor.config.learning_rate) == (2, 0.05)
    assert editor.config.contexts == ("{}", "He said. {}")
    assert source == "generic; user set contexts, layer, learning_rate"
    gpt_j = next(p for p in Rome.published if p.shape["architecture"] == "GPTJForCausalLM")
    assert (gpt_j.shape["layers"], gpt_j.values["layer"], gpt_j.values["weight_decay"]) == (28, 5, 0.5)


@pytest.mark.parametrize(
    ("cls", "args", "message"),
    [
        (Rome, {"layr": "2"}, "did you mean 'layer'"),
        (Rome, {"layer": "two"}, "rome.layer=two: expected a whole number"),
        (Rome, {"steps": "0"}, "steps must be at least 1"),
        (Rome, {"contexts": "He said. {}"}, "begin with the empty one"),
        (Rome, {"mom2_adjustment": "maybe"}, "expected true or false"),
        (Memit, {"layers": "2|1"}, r"in ascending order, for example 4\|5\|6"),
        (Memit, {"layers": "one"}, "memit.layers=one: expected a whole number"),
        (Memit, {"ridge": "-1"}, "ridge must not be negative"),
        (Memit, {"corpus_tokens": "5"}, "corpus_tokens"),
        (KnowledgeNeurons, {"operation": "delete"}, "expected one of rewrite, suppress, enhance"),
        (KnowledgeNeurons, {"threshold": "2"}, "threshold and sharing"),
        (KnowledgeNeurons, {"rule": "middle"}, "expected one of right, left, inclusive"),
        (KnowledgeNeurons, {"steps": "0"}, "steps must be at least 1"),
    ],
)
def test_invalid_values_are_rejected(lm, cls, args, message):
    with pytest.raises(KnbenchError, match=message):
        build_editor(cls, lm, args)


def test_a_masked_model_is_rejected_by_editors_that_need_a_causal_one():
    with pytest.raises(KnbenchError, match="needs a causal model"):
        build_editor(Rome, make_lm("bert"))
    build_editor(NoEdit, make_lm("bert"))
