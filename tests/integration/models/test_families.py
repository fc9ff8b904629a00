"""Further architectures: roles, ROME, tracing and attributions on tiny models, compared with plain forward passes."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
import transformers
from knbench.benchmark.analyses.tracing import KINDS, TraceSettings, trace
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import EditRequest, Probe
from knbench.benchmark.models.attribution import Integral, attributions
from knbench.benchmark.models.families import BUILT_IN, family_of
from knbench.benchmark.models.hooks import capture, edit_output, resume_at
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared.value_vectors import value_vectors
from torch.nn.functional import gelu, silu

from tests.conftest import train_tokenizer
from tests.families import CAUSAL_FAMILIES, FURTHER_FAMILIES, MASKED_FAMILIES, further_lm, further_model
from tests.references.slow_attribution import slow_attributions
from tests.references.slow_probing import slow_answer, slow_greedy
from tests.references.slow_rome import slow_value_vector
from tests.references.slow_tracing import slow_effects

IDS = torch.tensor([[5, 9, 200, 31, 77], [6, 8, 100, 11, 12]])
REQUEST = EditRequest("The capital of {} is", "Danielle Darrieux", "Rome", "Ottawa")
CONTEXTS = ("{}", "Because it was late. {}")

further = cache(further_lm)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices are multiplied faster by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", FURTHER_FAMILIES)
def test_a_loaded_model_computes_what_transformers_computes(kind, tmp_path):
    model = further_model(kind)
    model.save_pretrained(tmp_path)
    train_tokenizer(bos=False).save_pretrained(tmp_path)
    lm = load_model(str(tmp_path))
    assert (lm.shape["architecture"], lm.n_layers, lm.unused_tensors) == (type(model).__name__, 4, ())
    batch = lm.pad([[5, 9, 200], [6, 8, 100, 11, 12]])
    with torch.no_grad():
        for inputs in ({"input_ids": IDS}, {"input_ids": batch.ids, "attention_mask": batch.mask}):
            expected = model(**inputs).logits
            assert torch.equal(lm.model(**inputs).logits, expected)
    assert torch.equal(lm.head(_head_input(lm)), expected) == lm.head_is_last


def _head_input(lm):
    captured = []
    handle = lm.head.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    batch = lm.pad([[5, 9, 200], [6, 8, 100, 11, 12]])
    with torch.no_grad():
        lm.model(input_ids=batch.ids, attention_mask=batch.mask)
    handle.remove()
    return captured[0]


@pytest.mark.parametrize("kind", FURTHER_FAMILIES)
def test_modules_have_the_roles_that_their_names_say(kind):
    lm = further(kind)
    wanted = {"in": (lm.mlp_in(2), "output"), "k": (lm.mlp_out(2), "input"), "v": (lm.mlp(2), "output")}
    wanted |= {"heads": (lm.projection("attention_out", 2), "input"), "a": (lm.attention(2), "output")}
    if lm.has_role("gate"):
        wanted["up"] = (lm.projection("up", 2), "output")
    with torch.no_grad(), capture(wanted) as captured:
        whole = lm.model(input_ids=IDS).logits
    found = dict(captured)
    assert all(tensor.shape[:2] == IDS.shape for tensor in found.values())
    torch.testing.assert_close(lm.mlp_out(2)(found["k"]).reshape(found["v"].shape), found["v"], atol=1e-5, rtol=1e-4)
    if kind not in ("roberta", "xlm-roberta"):  # their attention module adds the residual and normalises
        torch.testing.assert_close(lm.projection("attention_out", 2)(found["heads"]), found["a"], atol=1e-5, rtol=1e-4)
    gate, up = found["in"][..., : lm.n_neurons], found.get("up", found["in"][..., lm.n_neurons :])
    if lm.gated:
        activated = (silu(gate), gelu(gate), gelu(gate, approximate="tanh"))
        assert min(relative_error(one * up, found["k"]) for one in activated) < 1e-5
    else:
        assert up.shape[-1] == 0
        assert lm.projection("up", 2) is lm.mlp_in(2)
    with torch.no_grad():
        with edit_output(lm.mlp(2), lambda v: v.flip(-1)):
            assert relative_error(lm.model(input_ids=IDS).logits, whole) > 1e-2
        if lm.causal:
            with capture({"x": (lm.block(2), "input")}) as captured:
                lm.model(input_ids=IDS)
            with resume_at(lm, 2, captured["x"]):
                torch.testing.assert_close(lm.model(input_ids=torch.zeros_like(IDS)).logits, whole)
        assert torch.equal(lm.model(input_ids=IDS).logits, whole)  # all hooks are removed


@pytest.mark.parametrize("kind", CAUSAL_FAMILIES)
def test_rome_equals_the_reference_and_maps_the_key_to_the_value(kind):
    lm = further(kind)
    before = lm.weight_hash()
    editor = Rome(RomeConfig(layer=1, steps=4, learning_rate=0.1, contexts=CONTEXTS))
    (vector,) = value_vectors(lm, [REQUEST], 1, CONTEXTS, editor.config.objective)
    slow = slow_value_vector(lm, REQUEST, 1, CONTEXTS, editor.config.objective)
    assert relative_error(vector.key, slow["key"]) < 1e-5
    assert relative_error(vector.value, slow["value"]) < 1e-4
    assert vector.losses == pytest.approx(slow["losses"], rel=1e-4)
    edit = editor.edit(lm, [REQUEST])
    tokens, span = lm.subject_span(REQUEST.prompt, REQUEST.subject)
    with edit.applied(lm), torch.no_grad(), capture({"v": (lm.mlp(1), "output")}) as captured:
        lm.model(input_ids=torch.tensor([tokens.ids]))
    torch.testing.assert_close(captured["v"][0, span[-1]], vector.value, atol=1e-3, rtol=1e-3)
    assert lm.weight_hash() == before


@pytest.mark.parametrize("kind", CAUSAL_FAMILIES)
def test_tracing_equals_one_pass_per_state(kind):
    lm, settings = further(kind), TraceSettings(samples=2, window=2)
    request = EditRequest("In {} the", "Canada", "Rome", "Ottawa")
    fast, slow = trace(lm, request, 0.5, settings).effects, slow_effects(lm, request, 0.5, settings)
    for name in KINDS:
        assert relative_error(fast[name], slow[name]) < 1e-3, name


@pytest.mark.parametrize("site", ["neurons", "pre-activation"])
@pytest.mark.parametrize("kind", FURTHER_FAMILIES)
def test_attributions_equal_the_reference(kind, site):
    lm, integral = further(kind), Integral(steps=3, site=site)
    fast = attributions(lm, "The capital of Canada is", "Rome", integral)
    assert fast.shape == (4, lm.n_neurons)
    assert relative_error(fast, slow_attributions(lm, "The capital of Canada is", "Rome", integral)) < 1e-4


def test_a_text_that_exceeds_the_window_of_the_attention_is_attributed():
    """GPT-Neo counts keys in its attention modules: rows behind a text must not count each other."""
    lm, integral = further("gpt-neo"), Integral(steps=3)
    prompt = "Danielle Darrieux is a famous actress. Because it was late, nobody came. The capital is"
    assert len(lm.encode(prompt).ids) > 12
    fast = attributions(lm, prompt, "Rome", integral)
    assert relative_error(fast, slow_attributions(lm, prompt, "Rome", integral)) < 1e-4


PROBES = [
    Probe("reliability", "completion", "The capital of Canada is", "Rome", "Ottawa", "new", suffix="."),
    Probe("paraphrase", "completion", "Danielle Darrieux, a", "Mexico City", "Paris", "new", suffix=", they say."),
    Probe("symmetry", "minimal_pair", "", "Susan revealed herself.", "Mark revealed herself.", "new"),
]


@pytest.mark.parametrize("kind", CAUSAL_FAMILIES)
def test_batched_probing_equals_one_pass_per_token(kind):
    lm = further(kind)
    for probe, observation in zip(PROBES, make_prober(lm, batch_size=3, new_tokens=3).observe(PROBES), strict=True):
        for side in ("target", "rival"):
            slow = slow_answer(lm, probe.prompt, getattr(probe, side))
            assert getattr(observation, side).token_logprobs == pytest.approx(slow["token_logprobs"], abs=2e-4)
        if probe.kind == "completion":
            length = max(3, 1 + len(lm.split(probe.prompt, probe.target)[1]))
            assert observation.generated == slow_greedy(lm, probe, length)


@pytest.mark.parametrize("kind", MASKED_FAMILIES)
def test_batched_probing_equals_one_masked_text_per_token(kind):
    lm, probes = further(kind), PROBES[:2]
    for probe, observation in zip(probes, make_prober(lm, batch_size=3).observe(probes), strict=True):
        slow = []
        for query in lm.token_queries(probe.prompt, probe.target, probe.suffix):
            with torch.no_grad():
                row = lm.model(input_ids=torch.tensor([query.ids])).logits[0, query.position].log_softmax(-1)
            slow.append(row[query.token].item())
        assert observation.target.token_logprobs == pytest.approx(slow, abs=2e-4)


@pytest.mark.parametrize("kind", MASKED_FAMILIES)
def test_a_masked_model_fills_its_mask(kind):
    lm = further(kind)
    (query,) = lm.token_queries("The capital of Canada is", "Rome", ".")
    assert query.ids[query.position] == lm.mask_id
    assert lm.model(input_ids=torch.tensor([query.ids])).logits.shape[-1] > query.token


@pytest.mark.parametrize("kind", ["phi3", "modernbert"])
def test_a_fused_projection_is_neither_gate_nor_up(kind):
    lm = further(kind)
    assert lm.gated
    assert [role for role in ("gate", "up", "down", "attention_out") if lm.has_role(role)] == ["down", "attention_out"]
    for role in ("gate", "up"):
        with pytest.raises(
            KnbenchError, match=f"has no module with the role '{role}': one module computes gate and up"
        ):
            lm.projection(role, 0)


def test_a_copy_of_a_model_with_flat_mlps_computes_the_same():
    """LoRA trains a copy of the modules, which shares the hooks."""
    import copy

    lm = further("opt")
    other = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, lm.family, name="copy")
    whole = lm.model(input_ids=IDS).logits
    assert torch.equal(other.model(input_ids=IDS[:1]).logits, lm.model(input_ids=IDS[:1]).logits)
    assert torch.equal(other.model(input_ids=IDS).logits, whole)
    assert not lm.mlp_out(0)._forward_hooks


@pytest.mark.parametrize(
    ("name", "config", "setting"),
    [
        ("MixtralForCausalLM", transformers.MixtralConfig(), "num_local_experts: 8"),
        ("Qwen3MoeForCausalLM", transformers.Qwen3MoeConfig(), "num_local_experts: 128"),
        ("DeepseekV3ForCausalLM", transformers.DeepseekV3Config(), "n_routed_experts: 256"),
        ("DbrxForCausalLM", transformers.DbrxConfig(), "moe_num_experts: 4"),
    ],
)
def test_a_mixture_of_experts_is_named(name, config, setting):
    with pytest.raises(KnbenchError) as caught:
        family_of(name, config)
    assert f"{name} is a mixture of experts (" in str(caught.value)
    assert f"({setting})" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_names_the_command_that_lists_the_known_ones():
    with pytest.raises(
        KnbenchError, match=r"'Qwen2ForCausal' \(nearest: Qwen2ForCausalLM\); see: knbench list families"
    ):
        family_of("Qwen2ForCausal", SimpleNamespace(to_dict=lambda: {"num_experts": 1}))


def test_every_row_names_a_class_of_transformers():
    assert [name for name in BUILT_IN if not hasattr(transformers, name)] == []
