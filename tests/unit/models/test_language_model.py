"""Tokenisation, module access and hashes of a language model."""

from __future__ import annotations

import copy

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

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


@pytest.mark.parametrize("space", ["\n", "\t", "\u00a0", "\u3000", "\r\n", "\u2028", " \n", "\n\n"])
def test_white_space_other_than_a_blank_belongs_to_the_prompt(space):
    lm = make_lm("llama")
    context, target = lm.split(f"Answer:{space}", "Ottawa")
    assert lm.tokenizer.decode(target) == "Ottawa"
    assert lm.tokenizer.decode(context) == f"Answer:{space}"
    assert lm.encode(f"Answer:{space}").ids == context  # the context equals the prompt that is continued


def test_the_last_of_several_blanks_belongs_to_the_target():
    lm = make_lm("llama")
    context, target = lm.split("Answer:\n  ", "Ottawa")
    assert (lm.tokenizer.decode(context), lm.tokenizer.decode(target)) == ("Answer:\n ", " Ottawa")


@pytest.mark.parametrize(
    "prompt", ['The word "', "The city (", "Il dit «", "挪威的首都是", "ประเทศ", "L'", "노르웨이는 「"]
)
def test_no_space_follows_an_opening_mark_or_a_script_without_spaces(prompt):
    lm = make_lm("llama")
    context, target = lm.split(prompt, "Rome")
    assert (lm.tokenizer.decode(context), lm.tokenizer.decode(target)) == (prompt, "Rome")


@pytest.mark.parametrize("target", [" Ottawa", "Ottawa"])
def test_a_target_with_its_own_space_gets_no_second_one(target):
    lm = make_lm("llama")
    assert lm.split("The capital of Canada is", target) == lm.split("The capital of Canada is", "Ottawa")


def test_a_masked_model_joins_prompt_and_target_by_the_same_rule():
    lm = make_lm("bert")
    ids, positions = lm.locate_target("Answer:\n", "Ottawa", ".")
    assert lm.tokenizer.decode([ids[i] for i in positions]) == "Ottawa"
    ids, positions = lm.locate_target("挪威的首都是", "奥斯陆", "。")
    assert lm.tokenizer.decode([ids[i] for i in positions]) == "奥斯陆"
    assert lm.tokenizer.decode(ids).endswith("挪威的首都是奥斯陆。")


def test_a_tokenizer_that_replaces_a_line_break_by_a_space_keeps_the_target():
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "▁Answer:": 1, "▁Ottawa": 2}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Replace("\n", " ")
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="[UNK]")
    lm = LanguageModel(make_lm("llama").model, tokenizer, family_of("LlamaForCausalLM"), name="m")
    assert lm.split("Answer:\n", "Ottawa") == ((1,), (2,))


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
        ("{}的首都是", "挪威"),
        ("首都は{}です", "大阪"),
        ("{}의 수도는", "노르웨이"),
        ("{}'nın başkenti", "Türkiye"),
        ("เมืองหลวงของ{}คือ", "นอร์เวย์"),
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


@pytest.mark.parametrize(
    ("template", "subject", "target"),
    [
        ("{} is in", "Rome", "Italy"),
        ("Answer for {}:\n", "Rome", "Italy"),
        ("首都は{}", "大阪", "市"),
        ("{}", "挪威", "国"),
    ],
)
def test_the_subject_is_located_in_the_tokens_of_prompt_and_target(template, subject, target):
    lm = make_lm("llama")
    context, ids = lm.split(template.replace("{}", subject), target)
    tokens, span = lm.subject_span(template, subject, target)
    assert tokens.ids == context + ids
    assert lm.tokenizer.decode([tokens.ids[i] for i in span]).strip() == subject


def test_bos_follows_the_tokenizer_unless_overridden():
    plain, adding = train_tokenizer(bos=False), train_tokenizer(bos=True)
    model = make_lm("llama").model

    def first(tokenizer, policy):
        lm = LanguageModel(model, tokenizer, family_of("LlamaForCausalLM"), name="m", bos=policy)
        return lm.encode("Rome").ids[0] == tokenizer.bos_token_id

    assert [first(plain, p) for p in ("auto", "always", "never")] == [False, True, False]
    assert [first(adding, p) for p in ("auto", "always", "never")] == [True, True, False]


def test_a_masked_model_has_the_special_tokens_of_its_tokenizer_alone():
    lm = make_lm("bert")
    assert LanguageModel(lm.model, lm.tokenizer, lm.family, name="m", bos="never").bos_id is None
    with pytest.raises(KnbenchError, match="'m' is masked, and its tokenizer adds its special tokens"):
        LanguageModel(lm.model, lm.tokenizer, lm.family, name="m", bos="always")


def test_a_tokenizer_that_starts_texts_with_several_tokens_is_an_error():
    tokenizer = copy.deepcopy(train_tokenizer(bos=True))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> </s> $A </s>", special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<s>", "</s>")]
    )
    model, family = make_lm("llama").model, family_of("LlamaForCausalLM")
    with pytest.raises(KnbenchError, match=r"starts each text with several tokens \(<s> </s>\), one is supported"):
        LanguageModel(model, tokenizer, family, name="m")
    assert LanguageModel(model, tokenizer, family, name="m", bos="never").bos_id is None


def test_a_text_that_spells_a_token_without_an_embedding_is_an_error():
    tokenizer = copy.deepcopy(train_tokenizer(bos=False))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    lm = LanguageModel(make_lm("llama").model, tokenizer, family_of("LlamaForCausalLM"), name="m")
    assert lm.encode("An image").ids
    with pytest.raises(ValueError, match="contains the token '<image>', for which the model has no embedding"):
        lm.split("An <image> of", "Rome")


def test_a_token_across_the_border_is_named_with_its_remedy():
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "L'Italie": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="[UNK]")
    lm = LanguageModel(make_lm("llama").model, tokenizer, family_of("LlamaForCausalLM"), name="m")
    with pytest.raises(
        ValueError, match=r"one token contains the end of .L'. and the start of 'Italie'.*; write other"
    ):
        lm.split("L'", "Italie")


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
