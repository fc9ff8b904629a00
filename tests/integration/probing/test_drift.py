"""Drift measurements sample by sample, and the pitfalls of lm-eval with an edited model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.records import DriftLine, DriftSamples
from knbench.benchmark.core.settings import DriftSettings, RunSettings
from knbench.benchmark.editing import Edit
from knbench.benchmark.models.identity import tokenizer_hash
from knbench.benchmark.probing.drift import make_gauge, nll_per_token, read_paragraphs
from knbench.benchmark.probing.lm_eval_model import as_lm_eval_model
from knbench.benchmark.scoring.summary import summarise_drift
from knbench.editors.in_context import InContext
from knbench.editors.none import NoEdit

from tests.conftest import make_lm
from tests.files import json_lines, load_result, rescore
from tests.files import run_folders as run
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
def test_nll_equals_one_pass_per_token(kind):
    lm = make_lm(kind)
    for value, paragraph in zip(nll_per_token(lm, TEXT), TEXT, strict=True):
        slow = slow_answer(lm, "", paragraph)
        assert value == pytest.approx(-slow["logprob"] / len(slow["token_logprobs"]), abs=1e-4)


def test_lm_eval_measures_the_edited_model_and_keeps_its_weights(lm):
    gauge = make_gauge(lm, DRIFT)
    before = lm.weight_hash()
    first = gauge.measure()
    assert [samples.task for samples in first] == ["perplexity", "knbench_anaphor_gender"]
    assert [len(samples.values) for samples in first] == [20, 6]
    name = lm.mlp_weight_name(1)
    edit = Edit(weights={name: lm.parameter(name).detach() * -3})
    with edit.applied(lm):
        edited = lm.weight_hash()
        second = gauge.measure()
        assert lm.weight_hash() == edited  # although the wrapper ties weights again
    assert lm.weight_hash() == before
    assert second[0].values != first[0].values
    assert gauge.measure() == first  # no answer of the edited model is cached


def test_lm_eval_model_keeps_an_edit_of_tied_embeddings(lm):
    weight = lm.model.get_output_embeddings().weight
    assert weight is lm.model.get_input_embeddings().weight
    edit = Edit(weights={lm.name_of(weight): weight.detach() * 1.5})
    with edit.applied(lm):
        changed = lm.fingerprint()
        as_lm_eval_model(lm)
        assert lm.fingerprint() == changed


def test_lm_eval_agrees_with_own_sentence_scores(lm):
    from knbench.benchmark.core import registry

    pairs = registry.task("anaphor-gender").pairs[:6]
    (samples,) = make_gauge(lm, replace(DRIFT, tasks=("anaphor-gender",))).measure()
    expected = tuple(
        float(slow_answer(lm, "", p["sentence_good"])["logprob"] > slow_answer(lm, "", p["sentence_bad"])["logprob"])
        for p in pairs
    )
    assert (samples.metric, samples.values) == ("acc", expected)


def test_prompt_prefix_affects_perplexity_and_lm_eval(lm):
    gauge = make_gauge(lm, DRIFT)
    without_prefix = gauge.measure()
    lm.prompt_prefix = "Susan revealed herself. "
    with_prefix = gauge.measure()
    assert with_prefix[0].values != without_prefix[0].values
    prefix = lm.tokenizer(lm.prompt_prefix, add_special_tokens=False).input_ids
    target, word = (lm.tokenizer(text, add_special_tokens=False).input_ids for text in (" Rome", " Italy"))
    for context in ([lm.start_id], [lm.start_id, *word], word):  # the prefix follows the start token
        ((logprob, _),) = as_lm_eval_model(lm)._loglikelihood_tokens([(("", "Rome"), context, target)])
        start = context[:1] == [lm.start_id]
        ids = [*context[:start], *prefix, *context[start:], *target]
        logprobs = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        first = len(ids) - len(target) - 1
        expected = sum(logprobs[first + i, token].item() for i, token in enumerate(target))
        assert logprob == pytest.approx(expected, abs=1e-3)


def test_lm_eval_does_not_change_the_tokenizer(lm):
    before = lm.tokenizer.pad_token, tokenizer_hash(lm.tokenizer)
    assert as_lm_eval_model(lm).tokenizer.pad_token is not None  # which lm-eval sets
    assert (lm.tokenizer.pad_token, tokenizer_hash(lm.tokenizer)) == before


def test_masked_model_is_refused():
    with pytest.raises(KnbenchError, match="drift needs a causal model"):
        make_gauge(make_lm("bert"), DRIFT)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [(("capital",), "'capital' has no sentence pairs"), (("anaphor-gendr",), "unknown drift task 'anaphor-gendr'")],
)
def test_invalid_drift_task_is_reported_at_construction(lm, tasks, message):
    with pytest.raises(KnbenchError, match=message):
        make_gauge(lm, replace(DRIFT, tasks=tasks))


def test_held_out_text_is_split_into_paragraphs(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One\ntwo.\n\n\nThree.\n")
    assert read_paragraphs(str(path)) == ["One two.", "Three."]
    assert len(read_paragraphs(None)) == 20
    path.write_text(" \n\n")
    with pytest.raises(KnbenchError, match="contains no paragraph"):
        read_paragraphs(str(path))
    with pytest.raises(KnbenchError, match="cannot be read"):
        read_paragraphs(str(tmp_path / "none.txt"))


def test_sequential_run_records_drift_at_each_checkpoint(lm, tmp_path):
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


def test_each_single_edit_has_a_drift_line(lm, tmp_path):
    (folder,) = run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, drift=replace(DRIFT, tasks=("perplexity",))))
    lines = json_lines(folder / "drift.jsonl")
    assert [line.get("case_id") for line in lines] == [None, "Canada", "Italy", "France", "Mexico", "Susan"]
    (row,) = load_result(folder / "result.json")["drift"]["tasks"]
    assert row["points"][0]["over"] == 5


def test_in_context_editing_drifts_through_its_prefix(lm, tmp_path):
    settings = replace(SETTINGS, limit=1, drift=replace(DRIFT, tasks=("perplexity",)))
    before = lm.weight_hash()
    (folder,) = run(lm, [InContext], [task()], tmp_path, settings)
    assert lm.weight_hash() == before
    assert load_result(folder / "result.json")["drift"]["tasks"][0]["points"][0]["difference"] != 0


def test_failed_drift_measurement_is_recorded(lm, tmp_path, monkeypatch):
    from knbench.benchmark.probing.drift import DriftGauge

    measure, calls = DriftGauge.measure, []

    def fails_once(self):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("the model's probabilities are not numbers")
        return measure(self)

    monkeypatch.setattr(DriftGauge, "measure", fails_once)
    settings = replace(SETTINGS, sequential=3, checkpoints=(1,), drift=replace(DRIFT, tasks=("perplexity",)))
    (folder,) = run(lm, [Nudge], [task()], tmp_path, settings)
    result = load_result(folder / "result.json")
    assert result["drift"]["failed"] == 1
    assert [p["edits"] for p in result["drift"]["tasks"][0]["points"]] == [3]
    assert result["records"]["failed"] == 0  # the case itself was measured


def test_full_disk_stops_the_run_and_is_not_recorded_as_failed_edit(lm, tmp_path, monkeypatch):
    from knbench.benchmark.results.io import JsonLinesFile

    append = JsonLinesFile.append

    def full(self, line):
        if isinstance(line, DriftLine) and line.case_id is not None:
            raise OSError(28, "No space left on device", str(self.path))
        return append(self, line)

    monkeypatch.setattr(JsonLinesFile, "append", full)
    before = lm.weight_hash()
    with pytest.raises(OSError, match="No space left"):
        run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, drift=replace(DRIFT, tasks=("perplexity",))))
    assert lm.weight_hash() == before
    assert json_lines(tmp_path / "nudge/towns/records.jsonl") == []  # the next start measures it again


def drift_line(values, **taken):
    samples = DriftSamples(task="t", metric="acc", higher_is_better=True, values=tuple(values))
    return DriftLine(tasks=(samples,), failure=None, **taken)


def test_differences_equal_values_computed_by_hand():
    before = drift_line([1.0, 0.0, 1.0, 0.0], edits=0)
    (task,) = summarise_drift([before, drift_line([0.0, 0.0, 1.0, 0.0], edits=3)], "x", "0").tasks
    (point,) = task.points
    assert (task.before, point.difference) == (0.5, -0.25)
    assert (point.edits, point.over) == (3, 4)
    lines = [before, drift_line([0.0] * 4, case_id="a"), drift_line([1.0] * 4, case_id="b")]
    (task,) = summarise_drift(lines, "x", "0").tasks
    assert [(p.edits, p.difference, p.over) for p in task.points] == [(None, 0.0, 2)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([drift_line([1.0], edits=1)], "the line of the unedited model is missing"),
        ([drift_line([1.0], edits=0), drift_line([1.0, 0.0], edits=1)], "not measured on the same samples"),
    ],
)
def test_incomparable_drift_lines_raise(lines, message):
    with pytest.raises(KnbenchError, match=message):
        summarise_drift(lines, "drift.jsonl", "0")
