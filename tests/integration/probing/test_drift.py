"""Drift: what stands before and after, sample by sample, and the ways in which lm-eval misreads an edited model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import DriftSettings, RunSettings
from knbench.benchmark.editing import Edit
from knbench.benchmark.probing.drift import make_gauge, nll_per_token, read_paragraphs, wrap
from knbench.benchmark.results.documents import load_result
from knbench.benchmark.results.io import read_records
from knbench.benchmark.results.rescoring import rescore
from knbench.benchmark.running.runner import run
from knbench.benchmark.scoring.summary import summarise_drift
from knbench.editors.in_context import InContext
from knbench.editors.none import NoEdit

from tests.conftest import make_lm
from tests.integration.running.test_regimes import Nudge
from tests.integration.running.test_runner import task
from tests.references.slow_probing import slow_answer

SETTINGS = RunSettings(batch_size=8, new_tokens=2)
DRIFT = DriftSettings(("perplexity", "anaphor-gender"), limit=6)
TEXT = ["Susan revealed herself.", "The capital of Canada is Ottawa and the capital of Italy is Rome."]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3"])
def test_likelihood_of_text_equals_one_pass_per_token(kind):
    lm = make_lm(kind)
    for value, paragraph in zip(nll_per_token(lm, TEXT), TEXT, strict=True):
        slow = slow_answer(lm, "", paragraph)
        assert value == pytest.approx(-slow["logprob"] / len(slow["token_logprobs"]), abs=1e-4)


def test_lm_eval_sees_the_edited_model_and_leaves_its_weights(lm):
    gauge = make_gauge(lm, DRIFT)
    before = lm.weight_hash()
    first = gauge.measure()
    assert [row["task"] for row in first] == ["perplexity", "knbench_anaphor_gender"]
    assert [len(row["values"]) for row in first] == [20, 6]
    name = lm.mlp_weight_name(1)
    edit = Edit(weights={name: lm.parameter(name).detach() * -3})
    with edit.applied(lm):
        edited = lm.weight_hash()
        second = gauge.measure()
        assert lm.weight_hash() == edited  # the wrapper ties weights again
    assert lm.weight_hash() == before
    assert second[0]["values"] != first[0]["values"]
    assert gauge.measure() == first  # and no answer is kept from the edited model


def test_the_wrapper_keeps_an_edit_of_tied_embeddings(lm):
    weight = lm.model.get_output_embeddings().weight
    assert weight is lm.model.get_input_embeddings().weight
    edit = Edit(weights={lm.name_of(weight): weight.detach() * 1.5})
    with edit.applied(lm):
        changed = lm.fingerprint()
        wrap(lm)
        assert lm.fingerprint() == changed


def test_lm_eval_agrees_with_our_own_sentence_scores(lm):
    from knbench.benchmark.core import registry

    pairs = registry.task("anaphor-gender").pairs[:6]
    (found,) = make_gauge(lm, replace(DRIFT, tasks=("anaphor-gender",))).measure()
    ours = [
        float(slow_answer(lm, "", p["sentence_good"])["logprob"] > slow_answer(lm, "", p["sentence_bad"])["logprob"])
        for p in pairs
    ]
    assert (found["metric"], found["values"]) == ("acc", ours)


def test_text_before_the_prompt_is_read_by_both(lm):
    gauge = make_gauge(lm, DRIFT)
    plain = gauge.measure()
    lm.prompt_prefix = "Susan revealed herself. "
    told = gauge.measure()
    assert told[0]["values"] != plain[0]["values"]
    prefix = lm.tokenizer(lm.prompt_prefix, add_special_tokens=False).input_ids
    target, word = (lm.tokenizer(text, add_special_tokens=False).input_ids for text in (" Rome", " Italy"))
    for context in ([lm.start_id], [lm.start_id, *word], word):  # behind the start token, before all else
        ((logprob, _),) = wrap(lm)._loglikelihood_tokens([(("", "Rome"), context, target)])
        started = context[:1] == [lm.start_id]
        ids = [*context[:started], *prefix, *context[started:], *target]
        whole = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(ids) - len(target) - 1
        wanted = sum(whole[first + i, token].item() for i, token in enumerate(target))
        assert logprob == pytest.approx(wanted, abs=1e-3)


def test_a_masked_model_is_refused():
    with pytest.raises(KnbenchError, match="drift needs a causal model"):
        make_gauge(make_lm("bert"), DRIFT)


@pytest.mark.parametrize(
    ("tasks", "complaint"),
    [(("capital",), "'capital' has no sentence pairs"), (("anaphor-gendr",), "unknown drift task 'anaphor-gendr'")],
)
def test_a_drift_task_that_cannot_be_run_is_told_at_once(lm, tasks, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        make_gauge(lm, replace(DRIFT, tasks=tasks))


def test_held_out_text_is_read_by_paragraph(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One\ntwo.\n\n\nThree.\n")
    assert read_paragraphs(str(path)) == ["One two.", "Three."]
    assert len(read_paragraphs(None)) == 20
    path.write_text(" \n\n")
    with pytest.raises(KnbenchError, match="holds no paragraph"):
        read_paragraphs(str(path))
    with pytest.raises(KnbenchError, match="cannot be read"):
        read_paragraphs(str(tmp_path / "none.txt"))


def test_a_sequential_run_holds_the_drift_at_each_checkpoint(lm, tmp_path):
    settings = replace(SETTINGS, sequential=4, checkpoints=(2,), drift=DRIFT)
    folders = run(lm, [NoEdit, Nudge], [task()], tmp_path, settings)
    for folder in folders:
        assert load_result(folder / "result.json") == rescore(folder)
    none, nudge = (load_result(folder / "result.json")["drift"]["tasks"] for folder in folders)
    assert [t["task"] for t in none] == ["perplexity", "knbench_anaphor_gender"]
    assert [p["edits"] for p in none[0]["points"]] == [2, 4]
    assert [p["difference"] for t in none for p in t["points"]] == [0, 0, 0, 0]
    assert nudge[0]["points"][1]["difference"] != 0
    assert none[0]["before"] == pytest.approx(nudge[0]["before"])


def test_single_edits_have_a_line_of_drift_each(lm, tmp_path):
    (folder,) = run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, drift=replace(DRIFT, tasks=("perplexity",))))
    lines = read_records(folder / "drift.jsonl", "drift")
    assert [line.get("case_id") for line in lines] == [None, "Canada", "Italy", "France", "Mexico", "Susan"]
    (row,) = load_result(folder / "result.json")["drift"]["tasks"]
    assert row["points"][0]["over"] == 5


def test_in_context_editing_drifts_by_its_text_alone(lm, tmp_path):
    settings = replace(SETTINGS, limit=1, drift=replace(DRIFT, tasks=("perplexity",)))
    before = lm.weight_hash()
    (folder,) = run(lm, [InContext], [task()], tmp_path, settings)
    assert lm.weight_hash() == before
    assert load_result(folder / "result.json")["drift"]["tasks"][0]["points"][0]["difference"] != 0


def test_a_model_without_probabilities_is_a_line_that_says_so(lm, tmp_path, monkeypatch):
    from knbench.benchmark.probing.drift import DriftGauge

    whole, calls = DriftGauge.measure, []

    def sometimes(self):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("the model's probabilities are not numbers")
        return whole(self)

    monkeypatch.setattr(DriftGauge, "measure", sometimes)
    settings = replace(SETTINGS, sequential=3, checkpoints=(1,), drift=replace(DRIFT, tasks=("perplexity",)))
    (folder,) = run(lm, [Nudge], [task()], tmp_path, settings)
    result = load_result(folder / "result.json")
    assert result["drift"]["failed"] == 1
    assert [p["edits"] for p in result["drift"]["tasks"][0]["points"]] == [3]
    assert result["records"]["failed"] == 0  # the case's own measurement stands


def test_a_full_disk_is_no_failure_of_the_edit(lm, tmp_path, monkeypatch):
    from knbench.benchmark.results.io import RecordsFile

    whole = RecordsFile.append

    def full(self, row):
        if self.kind == "drift" and "case_id" in row:
            raise OSError(28, "No space left on device", str(self.path))
        return whole(self, row)

    monkeypatch.setattr(RecordsFile, "append", full)
    before = lm.weight_hash()
    with pytest.raises(OSError, match="No space left"):
        run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, drift=replace(DRIFT, tasks=("perplexity",))))
    assert lm.weight_hash() == before
    assert read_records(tmp_path / "nudge/towns/records.jsonl") == []  # measured again, not recorded as failed


def drift_line(value, **where):
    rows = [{"task": "t", "metric": "acc", "higher_is_better": True, "values": value}]
    return {**where, "tasks": rows}


def test_differences_by_hand():
    before = drift_line([1.0, 0.0, 1.0, 0.0], edits=0)
    sequential = summarise_drift([before, drift_line([0.0, 0.0, 1.0, 0.0], edits=3)], "x", "0")["tasks"][0]
    assert (sequential["before"], sequential["points"][0]["difference"]) == (0.5, -0.25)
    assert (sequential["points"][0]["edits"], sequential["points"][0]["over"]) == (3, 4)
    lines = [before, drift_line([0.0] * 4, case_id="a"), drift_line([1.0] * 4, case_id="b")]
    single = summarise_drift(lines, "x", "0")["tasks"][0]["points"]
    assert [(p["edits"], p["difference"], p["over"]) for p in single] == [(None, 0.0, 2)]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([drift_line([1.0], edits=1)], "the unedited model's line is missing"),
        ([drift_line([1.0], edits=0), drift_line([1.0, 0.0], edits=1)], "not measured on the same samples"),
    ],
)
def test_drift_that_cannot_be_compared_is_no_number(lines, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        summarise_drift(lines, "drift.jsonl", "0")
