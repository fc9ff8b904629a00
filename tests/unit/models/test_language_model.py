"""Tokenisation, module access and hashes of a language model."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel

from tests.conftest import CAUSAL, make_lm, train_tokenizer


@pytest.mark.parametrize("bos", [False, True])
def test_a_target_carries_its_space_and_never_bos(bos):
    lm = make_lm("llama", bos=bos)
    context, target = lm.split("The capital of Canada is", "Ottawa")
    assert lm.tokenizer.decode(target) == " Ottawa"
    assert lm.tokenizer.bos_token_id not in target
    assert (context[0] == lm.tokenizer.bos_token_id) is bos
    assert context + target == lm.encode("The capital of Canada is Ottawa").ids


def test_a_target_of_several_tokens_is_complete():
    lm = make_lm("llama")
    _, target = lm.split("You saw", "Danielle Darrieux, Zürich")
    assert len(target) > 3
    assert lm.tokenizer.decode(target) == " Danielle Darrieux, Zürich"


def test_a_space_at_the_end_of_the_prompt_belongs_to_the_target():
    lm = make_lm("llama")
    assert lm.split("Susan saw ", "this sketch") == lm.split("Susan saw", "this sketch")


def test_a_sentence_starts_after_the_start_token():
    lm = make_lm("llama")
    context, target = lm.split("", "Susan revealed herself.")
    assert context == (lm.tokenizer.bos_token_id,)
    assert lm.tokenizer.decode(target) == "Susan revealed herself."


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize(
    ("template", "subject"),
    [
        ("The capital of {} is", "Canada"),
        ("{} is a", "Canada"),
        ("Rome and {} and Rome", "Rome"),
        ("{}'s capital", "Côte d'Ivoire"),
        ("Susan saw {}", "this"),
        ("They met {}, who", "Danielle Darrieux"),
    ],
)
def test_the_subject_is_found_by_its_characters(bos, template, subject):
    lm = make_lm("llama", bos=bos)
    tokens, span = lm.subject_span(template, subject)
    text = lm.tokenizer.decode([tokens.ids[i] for i in span]).strip()
    assert text == subject
    assert (
        lm.tokenizer.decode(tokens.ids[: span[0]], skip_special_tokens=True).strip() == template.split("{}")[0].strip()
    )


def test_bos_follows_the_tokenizer_unless_overridden():
    plain, adding = train_tokenizer(bos=False), train_tokenizer(bos=True)
    model = make_lm("llama").model

    def first(tokenizer, policy):
        lm = LanguageModel(model, tokenizer, family_of("LlamaForCausalLM"), name="m", bos=policy)
        return lm.encode("Rome").ids[0] == tokenizer.bos_token_id

    assert [first(plain, p) for p in ("auto", "always", "never")] == [False, True, False]
    assert [first(adding, p) for p in ("auto", "always", "never")] == [True, True, False]


@pytest.mark.parametrize("kind", CAUSAL)
def test_padding_on_either_side_gives_the_same_numbers(kind):
    lm = make_lm(kind)
    rows = [lm.encode(text).ids for text in ("Rome", "The capital of Canada is Ottawa")]
    alone = lm.model(input_ids=torch.tensor([rows[0]])).logits[0, -1]
    right, left = lm.pad(rows), lm.pad(rows, side="left")
    positions = (left.mask.cumsum(-1) - 1).clamp(min=0)
    after = lm.model(input_ids=right.ids, attention_mask=right.mask).logits[0, len(rows[0]) - 1]
    before = lm.model(input_ids=left.ids, attention_mask=left.mask, position_ids=positions).logits[0, -1]
    torch.testing.assert_close(after, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(before, alone, atol=1e-5, rtol=1e-4)


def test_the_module_type_determines_the_layout_of_w():
    gpt2, llama = make_lm("gpt2"), make_lm("llama")
    assert gpt2.mlp_out(1).weight.shape == (32, 32)
    assert gpt2.weight_is_transposed(1)
    assert not llama.weight_is_transposed(1)
    assert llama.mlp_weight_name(2) == "model.layers.2.mlp.down_proj.weight"


def test_hashes_detect_a_single_bit():
    lm = make_lm("llama")
    before = lm.weight_hash(), lm.fingerprint()
    weight = lm.parameter("model.layers.3.mlp.down_proj.weight").data
    old = weight[0, 0].clone()
    weight[0, 0] = torch.nextafter(old, torch.tensor(9.0))
    assert lm.weight_hash() != before[0]
    assert lm.fingerprint() != before[1]
    weight[0, 0] = old
    assert (lm.weight_hash(), lm.fingerprint()) == before


def test_unknown_layers_parameters_and_families_are_named():
    lm = make_lm("llama")
    with pytest.raises(KnbenchError, match="layers 0 to 3"):
        lm.mlp_out(4)
    with pytest.raises(KnbenchError, match="no parameter 'nope'"):
        lm.parameter("nope")
    with pytest.raises(KnbenchError, match=r"LlamaForCausalLLM.*nearest: LlamaForCausalLM"):
        family_of("LlamaForCausalLLM")
