"""Memories, readings and recall: routing by the prompt alone, whatever the batch, the padding and the answer are."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Case, EditRequest, Probe
from knbench.benchmark.editing import Edit, EditStack, Memory, MissingReadingError, Reading, Recall
from knbench.benchmark.models.untrained import untrained
from knbench.benchmark.probing.base import Reference
from knbench.benchmark.probing.drift import nll_per_token
from knbench.benchmark.probing.lm_eval_model import as_lm_eval_model, calls
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.grace import Codebook

MODULES = {"gpt2": "transformer.h.2.mlp.c_proj", "llama": "model.layers.2.mlp.down_proj", "bert": "cls"}
PROMPTS = ("The capital of Canada is", "Susan saw this", "The capital of Italy", "Because it was late, nobody")


SLOPE = torch.linspace(-9, 9, 32)


@dataclass(frozen=True)
class Router(Memory):
    """Adds a constant from the end of the prompt on, depending on the prompt's mean input and its last input."""

    def act(self, inputs: torch.Tensor, outputs: torch.Tensor, reading: Reading) -> torch.Tensor:
        if "router" not in reading.notes:
            weight = reading.prompt[..., None].float()
            mean = (inputs * weight).sum(1) / weight.sum(1).clamp_min(1)
            last = inputs[torch.arange(len(inputs)), reading.end.clamp_min(0)]
            reading.notes["router"] = (mean + last).mean(-1) * reading.has_prompt
        columns = torch.arange(inputs.shape[1])[None]
        where = (columns >= reading.end[:, None]) & reading.mask
        amount = reading.notes["router"][:, None] * where
        return torch.where((amount != 0)[..., None], outputs + amount[..., None] * SLOPE, outputs)


@dataclass(frozen=True)
class Other(Router):
    """A memory of another class."""


@dataclass(frozen=True)
class Echo(Recall):
    """Recalls its first text for prompts that begin with its setting."""

    def preface(self, lm, prompt):
        assert not lm.recall
        return f"{self.texts[0]}. " if prompt.startswith(self.settings["start"]) else ""


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request):
    return untrained(request.param, 0)


def module_of(lm):
    return lm.module_name(lm.mlp_out(2))


def router(lm):
    return Edit(memories={module_of(lm): Router({"w": torch.ones(2)}, {"a": 1}, 1)})


def logits_of(lm, rows, prompts, side="right", width=0):
    batch = lm.pad([*rows, (0,) * width] if width else rows, side=side)
    prompts = [*prompts, *([0] if width else [])]
    positions = (batch.mask.long().cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), lm.reading(batch, prompts):
        logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=positions).logits
    return [logits[i][batch.mask[i].bool()] for i in range(len(rows))]


def test_rows_do_not_depend_on_batch_order_and_padding(lm):
    rows = [lm.encode(prompt).ids for prompt in PROMPTS]
    prompts = [len(row) - 1 for row in rows]
    with router(lm).applied(lm):
        alone = [logits_of(lm, [row], [n])[0] for row, n in zip(rows, prompts, strict=True)]
        for side in ("right", "left"):
            for width in (0, 20):
                together = logits_of(lm, rows[::-1], prompts[::-1], side, width)[::-1]
                for a, b in zip(alone, together, strict=True):
                    assert torch.allclose(a, b, atol=1e-4)
    assert all(
        not torch.allclose(a, logits_of(lm, [row], [n])[0]) for a, row, n in zip(alone, rows, prompts, strict=True)
    )


def test_the_answer_does_not_enter_the_decision_and_generation_agrees(lm):
    prober = make_prober(lm, new_tokens=5)
    probes = [
        Probe("p", "completion", prompt, answer, "Rome", "new") for prompt in PROMPTS for answer in ("came", "it")
    ]
    with router(lm).applied(lm):
        observations = prober.observe(probes)
        for probe, observation in zip(probes, observations, strict=True):
            context = lm.encode(probe.prompt).ids
            (logits,) = logits_of(lm, [context], [len(context)])
            assert observation.top_id == int(logits[-1].argmax())
            tokens = list(context)
            for _ in range(5):  # the whole text read again, with the decision of the prompt
                (logits,) = logits_of(lm, [tuple(tokens)], [len(context)])
                tokens.append(int(logits[-1].argmax()))
                if tokens[-1] == lm.tokenizer.eos_token_id:
                    break
            assert observation.generated == lm.decode(tokens[len(context) :])
            expected = logits_of(lm, [(*context, *lm.split(probe.prompt, probe.target)[1])], [len(context)])[0]
            first = expected[len(context) - 1].log_softmax(-1)[lm.split(probe.prompt, probe.target)[1][0]]
            assert observation.target.token_logprobs[0] == pytest.approx(float(first), abs=1e-4)


def test_two_prompts_of_which_one_begins_with_the_other_do_not_share_a_row(lm):
    # Without memories, the row of the longer context answers both.
    short, long = PROMPTS[2], f"{PROMPTS[2]} is"
    probes = [Probe("p", "completion", p, "Rome", "", "unchanged") for p in (short, long)]
    prober, reference = make_prober(lm, new_tokens=0), Reference()
    prober.observe(probes, save_to=reference)
    with router(lm).applied(lm):
        together = prober.observe(probes, compare_to=reference)
        alone = [prober.observe([probe], compare_to=reference)[0] for probe in probes]
    for a, b in zip(together, alone, strict=True):
        assert a.target.logprob == pytest.approx(b.target.logprob, abs=1e-4)
        assert a.kl == pytest.approx(b.kl, abs=1e-4)


def test_texts_without_a_prompt_are_left_alone(lm):
    sentences = [Probe("p", "minimal_pair", "", "Susan saw this sketch.", "Susan saw these sketch.", "unchanged")]
    texts = ["Rome is the capital of Italy."]
    prober = make_prober(lm)
    before, nll = prober.observe(sentences), nll_per_token(lm, texts)
    with router(lm).applied(lm):
        assert prober.observe(sentences) == before
        assert nll_per_token(lm, texts) == nll


def test_a_masked_model_decides_at_the_first_mask():
    lm = untrained("bert", 0)
    prober, edit = make_prober(lm), Edit(memories={module_of(lm): Router()})
    probes = [
        Probe("p", "completion", prompt, answer, "Rome", "new") for prompt in PROMPTS for answer in ("came", "it")
    ]
    sentence = Probe("p", "minimal_pair", "", "Susan saw this sketch.", "Susan saw these sketch.", "unchanged")
    before = prober.observe([*probes, sentence])
    with edit.applied(lm):
        together = prober.observe([*probes, sentence])
        alone = [prober.observe([probe])[0] for probe in probes]
        query = lm.token_queries(PROMPTS[0], "came", ".")[0]
        batch = lm.pad([query.ids])
        with torch.no_grad(), lm.reading(batch, [query.position], [query.position]) as reading:
            lm.model(input_ids=batch.ids, attention_mask=batch.mask)
    assert reading.end.tolist() == [query.position]
    assert lm.decode(batch.ids[0][reading.prompt[0]].tolist()).strip() == PROMPTS[0]
    assert together[-1].target.logprob == pytest.approx(before[-1].target.logprob, abs=1e-4)
    for a, b, c in zip(together, alone, before, strict=False):
        assert a.target.logprob == pytest.approx(b.target.logprob, abs=1e-4)
        assert a.target.logprob != c.target.logprob


def test_a_pass_without_reading_raises(lm):
    ids = lm.pad([lm.encode(PROMPTS[0]).ids])
    with router(lm).applied(lm):
        with pytest.raises(MissingReadingError, match=r"lm\.reading"):
            lm.model(input_ids=ids.ids)
        with pytest.raises(MissingReadingError, match="rows of shape"), lm.reading(ids, [2]):
            lm.model(input_ids=ids.ids[:, :2])
        with lm.without_memories():
            lm.model(input_ids=ids.ids)
    with pytest.raises(KnbenchError, match="output head"), EditStack(lm) as stack:
        stack.push(Edit(memories={lm.module_name(lm.head): Router()}))


def test_a_memory_replaces_one_of_its_class_and_pop_restores_it(lm):
    name = module_of(lm)
    first, second, other = (Router(entries=1), Router(entries=2), Other(entries=3))
    with EditStack(lm) as stack:
        stack.push(Edit(memories={name: first}))
        once = stack.digests()
        stack.push(Edit(memories={name: other}))
        stack.push(Edit(memories={name: second}, prefix="Note. ", recall=Echo(("It is late",), {}, {"start": "Su"})))
        assert lm.memories[name] == (second, other)
        assert lm.preface("Susan saw") == "Note. It is late. "
        assert (lm.preface("The"), lm.preface(" ")) == ("Note. ", "Note. ")
        stack.pop()
        assert (lm.memories[name], lm.recall, lm.preface("Susan saw")) == ((first, other), None, "")
    assert (lm.memories, lm.recall) == ({}, None)
    assert len(once) == 2
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_sizes_count_each_tensor_once(lm):
    shared = torch.ones(8)
    edit = Edit(
        memories={module_of(lm): Router({"a": shared, "b": shared}, entries=2)},
        recall=Echo(("ab", "é"), {"e": torch.ones(3)}),
    )
    assert (edit.size.memory, edit.size.recall, edit.size.entries) == (32, 4 + 12, 4)


def test_recalled_text_precedes_its_prompts_and_is_recorded(lm):
    fact = Echo(("Rome is late",), {}, {"start": "The capital of"})
    probes = [Probe("p", "completion", prompt, "Rome", "", "unchanged") for prompt in PROMPTS]
    prober, reference = make_prober(lm, new_tokens=0), Reference()
    before = prober.observe(probes, save_to=reference)
    with Edit(prefix="Rome is late. ").applied(lm):
        prefixed = prober.observe(probes, compare_to=reference)
    with Edit(recall=fact).applied(lm):
        for probe in probes:
            prober.check(Case("c", EditRequest("Susan", "", "Rome", ""), (probe,)))
        recalled = prober.observe(probes, compare_to=reference)
        scored = as_lm_eval_model(lm)._loglikelihood_tokens(
            [((probe.prompt, " Rome"), *map(list, plain_split(lm, probe.prompt))) for probe in probes]
        )
    for probe, old, new, all_prefixed, (score, _) in zip(probes, before, recalled, prefixed, scored, strict=True):
        inside = probe.prompt.startswith("The capital of")
        assert new.recalled == ("Rome is late. " if inside else None)
        expected = all_prefixed if inside else old
        assert new.target.logprob == pytest.approx(expected.target.logprob, abs=1e-4)
        assert (new.kl or 0) == pytest.approx(all_prefixed.kl if inside else 0, abs=1e-4)
        assert score == pytest.approx(new.target.logprob, abs=1e-3)


def plain_split(lm, prompt):
    with lm.without_preface():
        return lm.split(prompt, "Rome")


def test_lm_eval_tells_memories_where_its_contexts_end(lm):
    prober = make_prober(lm, new_tokens=0)
    probes = [Probe("p", "completion", prompt, "Rome came", "", "new") for prompt in PROMPTS]
    requests = [((p.prompt, " Rome came"), *map(list, lm.split(p.prompt, "Rome came"))) for p in probes]
    # A second question whose context is longer by one token, which gives the same row.
    context, target = requests[0][1:]
    requests.append((("longer", " came"), [*context, target[0]], target[1:]))
    requests.append((("", "Susan saw this"), [lm.start_id], list(lm.encode("Susan saw this").ids)))
    plain = as_lm_eval_model(lm)._loglikelihood_tokens(requests)
    with router(lm).applied(lm):
        scores = as_lm_eval_model(lm)._loglikelihood_tokens(requests)
        expected = [o.target.logprob for o in prober.observe(probes)]
        (logits,) = logits_of(lm, [(*context, *target)], [len(context) + 1])
    assert [score for score, _ in scores[:4]] == pytest.approx(expected, abs=1e-3)
    last = logits.log_softmax(-1)[range(len(context), len(context) + len(target) - 1), target[1:]].sum()
    assert scores[4][0] == pytest.approx(float(last), abs=1e-3)
    assert scores[5] == plain[5]
    assert len(calls(requests, 128)) == 2


@pytest.mark.slow
def test_digests_are_the_same_in_another_process():
    code = (
        "import torch\nfrom knbench.editors.grace import Codebook\n"
        "print(Codebook({'keys': torch.arange(6.).reshape(2, 3)}, {'labels': [[1], [2]], 'a': 1}, 2).digest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = Codebook({"keys": torch.arange(6.0).reshape(2, 3)}, {"a": 1, "labels": [[1], [2]]}, 2)
    assert done.stdout.strip() == own.digest()
    assert dataclasses.replace(own, entries=3).digest() != own.digest()
