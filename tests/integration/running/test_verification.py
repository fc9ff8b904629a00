"""Verification of stored results: an honest result agrees, and every kind of falsification is named.

The cheat rescores whatever is changed: hashes and summaries fit, as ``validate`` demands.
"""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import DriftSettings, RunSettings
from knbench.benchmark.editing import editor_class
from knbench.benchmark.results.documents import manifest_of
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.results.runs import Run
from knbench.benchmark.running import verification
from knbench.benchmark.running.runner import run
from knbench.benchmark.running.verification import draw_cases, noisy_logits, verify

from tests.conftest import make_lm

TASK = "capital"
SEED = 3
BASE = {"batch_size": 16, "new_tokens": 2, "limit": 4, "fluency_tokens": 4}
SETTINGS = {
    "single": RunSettings(**BASE),
    "batch": RunSettings(**BASE, batch_edits=2),
    "sequential": RunSettings(**BASE, sequential=3, checkpoints=(2,), drift=DriftSettings(("perplexity",), limit=3)),
}
ARGS = {"ft-l": {"layer": "1", "epsilon": "0.01", "steps": "3"}}


@pytest.fixture(autouse=True)
def few_perturbations(monkeypatch):
    monkeypatch.setattr(verification, "PERTURBATIONS", 2)


@pytest.fixture(scope="module")
def lm():
    return make_lm("llama")


@pytest.fixture(scope="module")
def task():
    return registry.task(TASK)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, lm, task):
    """Return a function that runs a method once in a regime and returns the run."""
    made = {}

    def make(regime, editor, **changes):
        key = (regime, editor, *changes.items())
        if key not in made:
            args = {name: values for name, values in ARGS.items() if name == editor}
            settings = RunSettings(**{**vars(SETTINGS[regime]), "editor_args": args, **changes})
            (made[key],) = run(lm, [editor_class(editor)], [task], tmp_path_factory.mktemp(regime), settings)
        return made[key]

    return make


@pytest.fixture
def stored(runs, tmp_path):
    """Return a function that copies a run, changes lines of one of its files, and scores it again."""

    def copy(regime="single", change=None, file="records.jsonl", editor="ft-l", **changes):
        made = runs(regime, editor, **changes)
        folder = tmp_path / f"{regime}-{editor}"
        shutil.copytree(made.folder, folder, dirs_exist_ok=True)
        if change is not None:
            lines = [json.loads(line) for line in (folder / file).read_bytes().splitlines()]
            change(lines)
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Run(folder, score_files(manifest_of(made.result), lambda name: folder / name))

    return copy


def checked(stored_result, lm, task, cases=3):
    return verify(stored_result, lm, task, cases, SEED)


def every(change):
    """Apply a change to every record."""

    def apply(records):
        for record in records:
            change(record)

    return apply


def first_probe(record, criterion):
    return next(probe for probe in record["probes"] if probe["criterion"] == criterion)


@pytest.mark.parametrize(
    ("regime", "cases"),
    [("single", 1), ("batch", 2), ("sequential", 3)],
)
def test_an_honest_result_agrees(stored, lm, task, regime, cases):
    """The drawn case, its batch, or the whole sequence is measured again."""
    outcome = checked(stored(regime), lm, task, cases=1)
    assert outcome.differences == []
    assert len(outcome.case_ids) == cases
    assert outcome.whole == (regime == "sequential")


def test_all_cases_are_a_rerun(stored, lm, task):
    outcome = checked(stored(), lm, task, cases=4)
    assert (outcome.differences, outcome.whole) == ([], True)


def test_known_cases_and_usual_hyper_parameters_agree(stored, lm, task):
    result = stored(editor="none", known_only=True)
    assert checked(result, lm, task).differences == []


def test_the_draw_depends_on_the_seed_and_on_the_result(stored):
    result = stored().result
    ids = [f"c{n}" for n in range(100)]
    draws = {tuple(draw_cases(result, ids, 3, seed)) for seed in range(20)}
    assert len(draws) > 15
    other = msgspec.structs.replace(result, records=msgspec.structs.replace(result.records, sha256="0" * 64))
    assert draw_cases(result, ids, 3, 1) != draw_cases(other, ids, 3, 1)
    assert draw_cases(result, ids, 3, 1) == draw_cases(result, ids, 3, 1)


def perfect(record):
    """Make an answer perfect after the edit, with the true observations before it."""
    for probe in record["probes"]:
        if probe["expect"] == "new" and probe["after"].get("target"):
            target = probe["after"]["target"]
            target["token_logprobs"] = [-0.01] * len(target["token_logprobs"])
            target["logprob"] = sum(target["token_logprobs"])
            target["ranks"] = [0] * len(target["ranks"])
        elif probe["expect"] == "unchanged" and probe["after"].get("target"):
            probe["after"] = {**probe["before"], "kl": 0.0, "js": 0.0}


def swap(record):
    after = first_probe(record, "neighbourhood")["after"]
    sums = after["rival"]["logprob"], after["target"]["logprob"]
    for answer, logprob in zip((after["target"], after["rival"]), sums, strict=True):
        count = len(answer["token_logprobs"])
        answer["token_logprobs"] = [logprob / count] * count
        answer["logprob"] = sum(answer["token_logprobs"])


def text(record):
    first_probe(record, "paraphrase")["after"]["generated"] = "an invented answer"


def sampled(record):
    first_probe(record, "fluency")["after"]["text"] = "a fluent text about the capital"


def divergence(record):
    after = first_probe(record, "neighbourhood")["after"]
    after["kl"] = after["kl"] + 0.5


def integrity(record):
    first_probe(record, "integrity")["after"]["js"] = 0.69


def argmax(record):
    after = first_probe(record, "reliability")["after"]
    after["target"]["argmax"][-1] += 1


def exact(record):
    ranks = first_probe(record, "reliability")["after"]["target"]["ranks"]
    ranks[0] = 0 if ranks[0] else 5


def before(record):
    answer = first_probe(record, "reliability")["before"]["target"]
    answer["token_logprobs"][0] -= 0.1
    answer["logprob"] -= 0.1


def parameters(record):
    record["edit"]["parameters_touched"] = 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (perfect, "after the edit: log-probability of token 1 of the target is -0.0100 in the file and -"),
        (swap, "(neighbourhood), after the edit: "),
        pytest.param(
            text,
            "(paraphrase), after the edit: the generated text is 'an invented answer' in the file and '",
            marks=[pytest.mark.slow, pytest.mark.long],
        ),
        pytest.param(
            sampled,
            "(fluency), after the edit: the sampled text is 'a fluent text about the capital' in the file",
            marks=[pytest.mark.slow, pytest.mark.long],
        ),
        (divergence, "(neighbourhood), after the edit: KL divergence is"),
        (integrity, "(integrity), after the edit: JS divergence is 0.69 in the file and"),
        pytest.param(
            argmax,
            "(reliability), after the edit: the most probable token at token",
            marks=[pytest.mark.slow, pytest.mark.long],
        ),
        (exact, "(reliability), after the edit: rank of token 1 of the target is"),
        (before, "(reliability), before the edit: log-probability of token 1 of the target is"),
        (parameters, "number of changed weights: 1 in the file and 1536 here"),
    ],
)
def test_one_falsified_case_among_those_drawn_is_named(stored, lm, task, change, named):
    honest = stored()
    drawn = draw_cases(honest.result, [record.case_id for record in honest.records()], 3, SEED)

    def one(records):
        change(next(record for record in records if record["case_id"] == drawn[0]))

    # The draw depends on the records; all cases are therefore measured.
    outcome = checked(stored(change=one), lm, task, cases=4)
    (line,) = outcome.differences
    assert line.startswith(f"case '{drawn[0]}'")
    assert named in line


def test_perfect_answers_with_true_observations_before_are_found_in_every_draw(stored, lm, task):
    outcome = checked(stored(change=every(perfect)), lm, task, cases=1)
    (line,) = outcome.differences
    assert "(reliability), after the edit: log-probability of token 1 of the target" in line


def test_the_records_of_another_model_are_found(stored, task):
    result, other = stored(), make_lm("llama", seed=1)
    with pytest.raises(KnbenchError, match=r"the model 'tiny-llama' has weight_hash .*; pass the model"):
        checked(result, other, task)
    # With the identity of the other model in the manifest, its observations differ before the edit.
    card = msgspec.structs.replace(result.result.model, weight_hash=other.weight_hash())
    forged = Run(result.folder, msgspec.structs.replace(result.result, model=card))
    assert all("before the edit" in line for line in checked(forged, other, task, cases=2).differences)
    assert len(checked(forged, other, task, cases=2).differences) == 2


def test_the_records_of_another_method_are_found(stored, lm, task):
    result = stored(editor="none")
    card = stored().result.editor
    forged = Run(result.folder, msgspec.structs.replace(result.result, editor=card))
    assert "changed parameters: () in the file and (" in checked(forged, lm, task, cases=1).differences[0]


def test_a_checkpoint_and_drift_of_a_sequence_are_compared(stored, lm, task):
    def last(lines):
        answer = lines[-1]["after"][0]["target"]
        answer["token_logprobs"] = [value / 2 for value in answer["token_logprobs"]]
        answer["logprob"] /= 2

    (line,) = checked(stored("sequential", last, "checkpoints.jsonl"), lm, task).differences
    assert "after 3 edits, probe 1: log-probability of token 1 of the target" in line

    def unedited(lines):
        lines[0]["tasks"][0]["values"][1] += 0.2

    (line,) = checked(stored("sequential", unedited, "drift.jsonl"), lm, task).differences
    assert line.startswith("drift of the unedited model, sample 2 of perplexity: nll is")


def test_another_batch_size_than_that_of_the_records_differs(stored, lm, task):
    result = stored("batch")
    protocol = msgspec.structs.replace(result.result.protocol, batch_edits=3)
    forged = Run(result.folder, msgspec.structs.replace(result.result, protocol=protocol))
    assert checked(forged, lm, task).differences


def test_a_setting_that_this_machine_does_not_have_is_refused(stored, lm, task):
    result = stored()
    protocol = msgspec.structs.replace(result.result.protocol, integrity="passages-0")
    forged = Run(result.folder, msgspec.structs.replace(result.result, protocol=protocol))
    with pytest.raises(KnbenchError, match="integrity of the protocol is passages-0 in the result and"):
        checked(forged, lm, task)


def test_hyper_parameters_that_the_method_does_not_have_are_refused(stored, lm, task):
    result = stored()
    editor = msgspec.structs.replace(result.result.editor, config={**result.result.editor.config, "secret": 1})
    forged = Run(result.folder, msgspec.structs.replace(result.result, editor=editor))
    with pytest.raises(KnbenchError, match="secret"):
        checked(forged, lm, task)


def test_another_version_of_the_task_is_refused(stored, lm, task):
    result = stored()
    card = msgspec.structs.replace(result.result.task, content_hash="0" * 64)
    forged = Run(result.folder, msgspec.structs.replace(result.result, task=card))
    with pytest.raises(KnbenchError, match=r"task 'capital' is version .* run the method again"):
        checked(forged, lm, task)


@pytest.mark.slow
@pytest.mark.long
def test_only_tokens_of_perturbed_measurements_are_ties_and_the_model_is_restored(stored, lm, task, monkeypatch):
    """With noise that makes everything a tie, any token of a perturbed measurement is accepted, others are not."""

    def flip(records):
        after = first_probe(records[0], "reliability")["after"]
        after["top_id"], after["top"] = 0, "<s>"

    result = stored(change=flip)
    fingerprint = lm.fingerprint()
    assert "the most probable token is '<s>'" in checked(result, lm, task, cases=4).differences[0]
    monkeypatch.setattr(verification, "NOISE", 1e6)
    assert checked(result, lm, task, cases=4).differences  # two draws among 420 tokens do not contain it
    assert lm.fingerprint() == fingerprint
    assert not lm.head._forward_hooks


def test_noise_is_added_to_the_logits_only_inside_the_block(lm):
    ids = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        plain = lm.model(input_ids=ids).logits
        state = torch.random.get_rng_state()
        with noisy_logits(lm, 0.5, 0):
            noisy = lm.model(input_ids=ids).logits
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(plain, lm.model(input_ids=ids).logits)
    difference = noisy - plain
    assert 0.4 < float(difference.std()) < 0.6
