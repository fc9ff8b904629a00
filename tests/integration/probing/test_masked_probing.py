"""Probing of masked models, against one forward pass per token."""

from __future__ import annotations

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.registry import task
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import build_editor
from knbench.benchmark.probing.base import Reference
from knbench.benchmark.probing.causal import CausalProber
from knbench.benchmark.probing.masked import MaskedProber
from knbench.benchmark.probing.prober import make_prober
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome

from tests.conftest import make_lm
from tests.files import load_result
from tests.files import run_folders as run
from tests.references.slow_masked import slow_fill

PROBES = [
    Probe("reliability", "completion", "The capital of Canada is", "Rome", "Ottawa", "new"),
    Probe("paraphrase", "completion", "Canada is", "Mexico City", "Mexico", "new", suffix=", they say."),
    Probe("neighbourhood", "completion", "The capital of France is", "Paris", "Rome", "unchanged"),
    Probe("symmetry", "minimal_pair", "", "Susan revealed herself.", "Mark revealed herself.", "new", suffix=""),
]


@pytest.fixture
def bert():
    return make_lm("bert")


def logprobs(lm, ids, position):
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, position].log_softmax(-1)


def slow(lm, probe, answer):
    """Return the log-probability of each token of an answer or sentence, with one forward pass per token."""
    mask = lm.tokenizer.mask_token_id
    if probe.kind == "minimal_pair":
        sentence = lm.tokenizer(answer).input_ids
        return [logprobs(lm, [*sentence[:i], mask, *sentence[i + 1 :]], i)[t].item() for i, t in enumerate(sentence)]
    left, middle, right = (lm.tokenizer(text).input_ids for text in (probe.prompt, f" {answer}", probe.suffix))
    values = []
    for i, token in enumerate(middle):
        ids = left + middle[:i] + [mask] * (len(middle) - i) + right
        values.append(logprobs(lm, ids, len(left) + i)[token].item())
    return values


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_answers_and_sentences_equal_one_pass_per_token(bert, batch_size):
    prober = make_prober(bert, batch_size=batch_size)
    assert isinstance(prober, MaskedProber)
    for probe, observation in zip(PROBES, prober.observe(PROBES), strict=True):
        for side in ("target", "rival"):
            expected = slow(bert, probe, getattr(probe, side))
            assert getattr(observation, side).token_logprobs == pytest.approx(expected, abs=2e-4)


def test_masks_are_filled_as_one_by_one(bert):
    """Targets of several tokens, of which some are the most probable ones, and targets that share rows."""
    prober, prompts = make_prober(bert), ("The capital of Canada is", "The capital of France is", "Rome is")
    probes = [
        Probe("p", "completion", prompt, target, "", "new", suffix=suffix)
        for prompt in prompts
        for target in ("Mexico City", "Danielle Darrieux and you", "Rome")
        for suffix in (".", " again.")
    ]
    likely = [Probe("p", "completion", p.prompt, slow_fill(bert, p).strip() or "Rome", "", "new") for p in probes[:6]]
    probes += [probe for probe in likely if _readable(prober, probe)]
    observations = prober.observe(probes)
    assert [o.generated for o in observations] == [slow_fill(bert, probe) for probe in probes]
    assert {o.generated for o in make_prober(bert, new_tokens=0).observe(probes)} == {""}


def _readable(prober, probe):
    try:
        return bool(prober.reference_key(probe))
    except ValueError:
        return False


def test_right_context_affects_the_score(bert):
    probe = PROBES[0]
    other = Probe(probe.criterion, probe.kind, probe.prompt, probe.target, probe.rival, "new", suffix=" and Italy.")
    one, two = make_prober(bert).observe([probe, other])
    assert one.target.logprob != pytest.approx(two.target.logprob, abs=1e-3)


def test_kl_is_zero_without_an_edit(bert):
    prober, reference = make_prober(bert), Reference()
    prober.observe(PROBES, save_to=reference)
    assert prober.observe(PROBES, compare_to=reference)[2].kl == pytest.approx(0, abs=1e-9)


def test_run_on_a_masked_model(bert, tmp_path):
    settings = RunSettings(limit=3, known_only=True)
    for name in ("capital", "anaphor-gender"):
        (folder,) = run(bert, [NoEdit], [task(name)], tmp_path, settings)
        result = load_result(folder / "result.json")
        assert result["model"]["objective"] == "masked"
        values = {(r["criterion"], r["measure"]): r["value"] for r in result["summary"]}
        assert values["reliability", "success"] == 0
        assert values["neighbourhood", "exact"] == 1
    with pytest.raises(KnbenchError, match="needs a causal model"):
        build_editor(Rome, bert)


def test_make_prober_chooses_the_causal_prober(lm):
    assert type(make_prober(lm)) is CausalProber


def test_probes_with_one_masked_row_have_their_own_reference(tiny):
    """Two targets of one length share a masked row, and a suffix changes the row of one target."""
    bert = tiny("bert")
    prober, reference = make_prober(bert), Reference()
    probes = [
        Probe("neighbourhood", "completion", "The capital of Italy is", target, rival, "unchanged", suffix=suffix)
        for target, rival, suffix in [("Rome", "Paris", "."), ("Paris", "Rome", "."), ("Rome", "Paris", " again.")]
    ]
    prober.observe(probes, save_to=reference)
    for probe in probes:  # in other batches than before
        (observation,) = prober.observe([probe], compare_to=reference)
        assert observation.kl == pytest.approx(0, abs=1e-6)
