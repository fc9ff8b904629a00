"""Packed rows and continuations from cached states, against padded rows and the generation of transformers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.editing import Edit, Memory, Reading, Recall
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.probing.abilities import Abilities, abilities
from knbench.benchmark.probing.base import Reference
from knbench.benchmark.probing.causal import CausalProber
from knbench.benchmark.probing.layouts import hosts, packed, packs
from knbench.benchmark.probing.prober import make_prober

from tests.conftest import CAUSAL, make_lm, train_tokenizer
from tests.families import CAUSAL_FAMILIES, further_lm
from tests.references.slow_probing import slow_answer, slow_greedy

LONG = "Because it was late, nobody came. Albert Einstein works in the field of physics or medicine. The capital"
PROBES = [
    Probe("reliability", "completion", "The capital of Canada is", "Rome", "Ottawa", "new"),
    Probe("paraphrase", "completion", "The capital of Canada is", "Mexico City and so on", "Rome again", "new"),
    Probe(
        "paraphrase", "completion", "The capital of Canada", "is Paris", "is", "new", aliases=("is a city of Italy",)
    ),
    Probe("neighbourhood", "completion", "The capital of France is", "Paris", "Rome", "unchanged"),
    Probe("neighbourhood", "completion", LONG, "is Paris", "is Rome", "unchanged"),
    Probe("symmetry", "minimal_pair", "", "The capital of Canada is Rome.", "The capital of Canada are Rome.", "new"),
    Probe("symmetry", "completion", "Danielle Darrieux", "is a famous actress", "bakes", "new"),
]


@dataclass(frozen=True)
class Steers(Memory):
    """Adds a constant to the outputs from the end of the prompt on, decided from the last token of the prompt."""

    def act(self, inputs: torch.Tensor, outputs: torch.Tensor, reading: Reading) -> torch.Tensor:
        if "steers" not in reading.notes:
            last = inputs[torch.arange(len(inputs)), reading.end.clamp_min(0)]
            reading.notes["steers"] = last.mean(-1) * reading.has_prompt
        where = (torch.arange(inputs.shape[1])[None] >= reading.end[:, None]) & reading.mask
        amount = 3 * reading.notes["steers"][:, None] * where
        return torch.where((amount != 0)[..., None], outputs + amount[..., None], outputs)


@dataclass(frozen=True)
class Repeats(Recall):
    """Recalls a text for prompts about a capital."""

    def preface(self, lm, prompt):
        return f"{self.texts[0]} " if "capital" in prompt else ""


def differences(lm, new_tokens=9, edit=None):
    """Compare both ways. Return the largest difference of log-probabilities; texts, ranks and tokens are equal."""
    plain, fast = (make_prober(lm, batch_size=4, new_tokens=new_tokens) for _ in range(2))
    plain.__dict__["abilities"] = Abilities()
    assert fast.abilities.continues
    reference = Reference()
    fast.observe(PROBES, save_to=reference)
    with (edit or Edit()).applied(lm):
        pairs = list(zip(plain.observe(PROBES), fast.observe(PROBES, compare_to=reference), strict=True))
    largest = 0.0
    for probe, (a, b) in zip(PROBES, pairs, strict=True):
        assert (a.generated, a.top_id, a.recalled) == (b.generated, b.top_id, b.recalled), probe
        if edit is None and b.kl is not None:
            assert b.kl == pytest.approx(0, abs=1e-6)
        for x, y in ((a.target, b.target), (a.rival, b.rival)):
            assert (x.ranks, x.argmax) == (y.ranks, y.argmax)
            largest = max(largest, *(abs(p - q) for p, q in zip(x.token_logprobs, y.token_logprobs, strict=True)))
    return largest


@pytest.mark.parametrize("kind", CAUSAL)
def test_fast_passes_equal_plain_ones(kind):
    lm = make_lm(kind, bos=True)
    assert abilities(lm) == Abilities(packing=64 if kind == "gemma3" else 512, continues=True)
    assert differences(lm) < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_memories_and_recalled_texts_are_read_alike(kind):
    lm = make_lm(kind, bos=True)
    memory = Edit(
        memories={lm.module_name(lm.mlp_out(1)): Steers({"w": torch.ones(2)}, {}, 1)},
        recall=Repeats(("Rome is the capital of Italy.",)),
    )
    assert differences(lm, edit=memory) < 1e-5
    without = [o.generated for o in make_prober(lm).observe(PROBES)]
    with memory.applied(lm):
        assert [o.generated for o in make_prober(lm).observe(PROBES)] != without


def test_abilities_of_further_architectures():
    found = {kind: abilities(further_lm(kind)) for kind in CAUSAL_FAMILIES}
    assert all(one.continues for one in found.values())
    # Position biases of these come from the attention mask, and that of GPT-Neo counts the keys of its window.
    assert {kind for kind, one in found.items() if not one.packing} == {"bloom", "falcon-rw"}
    assert found["gpt-neo"].packing == 12
    assert found["gemma2"].packing == found["gemma3-conditional"].packing == 64


def windowed(window):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = train_tokenizer(bos=False)
        small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
        config = transformers.MistralConfig(
            vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=8, sliding_window=window, **small
        )
        model = transformers.MistralForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(model, tokenizer, family_of("MistralForCausalLM"), name="windowed")


def test_texts_that_are_longer_than_a_sliding_window():
    lm = windowed(8)
    assert len(lm.encode(LONG).ids) > 16
    assert abilities(lm) == Abilities(packing=8, continues=True)
    assert differences(lm) < 1e-5
    probes = [probe for probe in PROBES if probe.kind == "completion"]
    for probe, seen in zip(probes, make_prober(lm, new_tokens=9).observe(probes), strict=True):
        assert seen.target.logprob == pytest.approx(slow_answer(lm, probe.prompt, probe.target)["logprob"], abs=1e-4)
        length = make_prober(lm, new_tokens=9)._continuation_length(
            probe, make_prober(lm)._encode(probe.prompt, probe.target)
        )
        assert seen.generated == slow_greedy(lm, probe, length)


def test_a_text_ends_with_an_end_token_and_the_others_go_on(lm):
    def texts():
        return [observation.generated for observation in make_prober(lm, new_tokens=9).observe(PROBES[:4])]

    whole = texts()
    context = lm.split(PROBES[0].prompt, "Rome")[0]
    ids = lm.model.generate(torch.tensor([context]), max_new_tokens=9, do_sample=False, pad_token_id=0)[0]
    lm.model.generation_config.eos_token_id = [int(ids[len(context) + 3])]
    ended = texts()
    assert ended[0] == lm.decode(ids[len(context) : len(context) + 4].tolist())
    assert ended != whole
    assert differences(lm) < 1e-5


class Forgetful(transformers.LlamaForCausalLM):
    """Keeps no keys and values."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        ignored = ("past_key_values", "use_cache", "cache_position", "position_ids")
        kept = {name: value for name, value in kwargs.items() if name not in ignored}
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **kept)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def test_a_model_without_a_cache_reads_prompts_again(lm):
    expected = make_prober(lm).observe(PROBES)
    lm.model.__class__ = Forgetful
    prober = make_prober(lm)
    assert prober.abilities == Abilities()
    for a, b in zip(expected, prober.observe(PROBES), strict=True):
        assert a.generated == b.generated
        assert a.target.logprob == pytest.approx(b.target.logprob, abs=1e-5)


def test_a_packed_row_that_does_not_fit_gets_fewer_texts(lm, monkeypatch):
    expected, read = make_prober(lm).observe(PROBES), CausalProber._read

    def small(self, layout, *others):
        if len(layout.paths) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return read(self, layout, *others)

    monkeypatch.setattr(CausalProber, "_read", small)
    prober = make_prober(lm)
    for a, b in zip(expected, prober.observe(PROBES), strict=True):
        assert a.generated == b.generated
        assert a.target.token_logprobs == pytest.approx(b.target.token_logprobs, abs=1e-5)
    assert prober.batch_size == 2


def test_texts_share_their_beginnings_in_a_packed_row(lm):
    layout = packed(lm, [(5, 6, 7), (5, 6, 8), (9,)])
    assert layout.batch.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert layout.positions.tolist() == [[0, 1, 2, 2, 0]]
    assert layout.paths == {(5, 6, 7): (0, (0, 1, 2)), (5, 6, 8): (0, (0, 1, 3)), (9,): (0, (4,))}
    seen = (layout.attention[0, 0] == 0).int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert list(packs([(5, 6, 7), (5, 6, 8), (9,)], 3, 4)) == [[(5, 6, 7), (5, 6, 8)], [(9,)]]
    assert list(packs([(5, 6, 7), (5, 6, 8), (9,)], 1, 9)) == [[(5, 6, 7)], [(5, 6, 8)], [(9,)]]
    assert hosts([(5,), (5, 6), (9,)]) == {(9,): (9,), (5, 6): (5, 6), (5,): (5, 6)}
