"""Probes without a rival: the target alone is scored, and measures that compare two answers have no value."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest
from knbench.benchmark.core.records import Answer, Observation, ProbeRecord, from_json, to_json
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Task
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.probing.baseline import _answers_correctly
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.results.plausibility import impossible
from knbench.benchmark.scoring.criteria import MEASURES
from knbench.benchmark.scoring.effects import word_effects
from knbench.benchmark.scoring.summary import summarise
from knbench.editors.none import NoEdit
from knbench.leaderboard.cases import probe_view

from tests.conftest import make_lm
from tests.factories import observation, probe, record, result
from tests.files import load_result
from tests.files import run_folders as run

ALONE = Probe("portability", "completion", "The currency of Canada is the", "krone", "", "new", ("NOK",))
COMPARED = dataclasses.replace(ALONE, rival="dollar")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_the_target_is_scored_as_with_a_rival(kind):
    prober = make_prober(make_lm(kind))
    alone, compared = prober.observe([ALONE])[0], prober.observe([COMPARED])[0]
    assert alone.rival_answer is None
    assert alone.has_answers
    assert alone.target.ranks == compared.target.ranks
    assert alone.target.argmax == compared.target.argmax
    assert alone.target.token_logprobs == pytest.approx(compared.target.token_logprobs, abs=1e-4)
    assert (alone.generated, alone.top_id) == (compared.generated, compared.top_id)
    assert from_json(to_json(alone), type(alone)) == alone
    request = EditRequest("{} is in", "Canada", "Norway", "America")
    prober.check(Case("c", request, (ALONE,)))


def changed(seen, **more):
    """Return a copy of a stored type with other fields."""
    return msgspec.structs.replace(seen, **more)


def seen_alone():
    return changed(observation(-1.0), rival_answer=None)


def test_measures_that_compare_two_answers_have_no_value():
    seen = seen_alone()
    values = {name: measure.of(ALONE, seen, seen) for name, measure in MEASURES.items()}
    assert {name for name, value in values.items() if value is not None} == {
        "exact", "token_accuracy", "generated", "f1", "rouge_l",
    }  # fmt: skip


def test_scores_effects_and_pages_leave_the_rival_out():
    alone = probe("portability", seen_alone(), rival="", before=seen_alone())
    both = probe("reliability", observation())
    records = [record(0, [both, alone]), record(1, [both, alone])]
    rows = {(row.criterion, row.measure) for row in summarise(records)}
    assert ("portability", "success") not in rows
    assert {("portability", "exact"), ("reliability", "success")} <= rows
    assert {(row.criterion, row.role) for row in word_effects(records)} == {
        ("reliability", "target"),
        ("reliability", "rival"),
        ("portability", "target"),
    }
    view = probe_view(alone)
    assert (view.passed, view.after.rival) == (None, "")


def test_validation_refuses_scores_of_a_rival_that_the_probe_does_not_name():
    named, unnamed = probe("reliability", None), probe("portability", None, rival="")
    seen = observation(math.log(0.4), math.log(0.3), top_logprob=math.log(0.4))
    alone = changed(seen, rival_answer=None)
    assert isinstance(named, ProbeRecord)
    assert "exactly if its probe names one" in impossible(result().model, unnamed, seen)
    assert "exactly if its probe names one" in impossible(result().model, named, alone)
    assert impossible(result().model, unnamed, alone) is None


def test_an_unchanged_probe_without_a_rival_is_known_if_every_token_is_the_most_probable():
    unchanged = dataclasses.replace(ALONE, expect="unchanged")
    known, unknown = seen_alone(), seen_alone()
    wrong = changed(unknown.target, ranks=(3,))
    assert _answers_correctly(unchanged, known)
    assert not _answers_correctly(unchanged, changed(unknown, target_answer=wrong))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_run_with_and_without_rivals(tmp_path, kind):
    request = EditRequest("The capital of {} is", "Canada", "Rome", "Ottawa")
    probes = (Probe("reliability", "completion", request.text, "Rome", "Ottawa", "new"), ALONE)
    task = Task(
        name="own", version=1, kind="fact", title="t", description="d", licence="l", citation="c", source="s",
        relation="r", criteria=("reliability", "portability"), cases=(Case("own-0", request, probes),),
    )  # fmt: skip
    (folder,) = run(make_lm(kind), [NoEdit], [task], tmp_path, RunSettings())
    result = load_result(folder / "result.json")
    assert result["records"]["failed"] == 0
    measures = {row["measure"] for row in result["summary"] if row["criterion"] == "portability"}
    assert {"exact", "token_accuracy"} <= measures
    assert "success" not in measures


def test_where_one_answer_begins_the_other_the_ranks_decide_whether_it_is_correct():
    """The longer answer is never the more probable one, whatever the model knows."""
    longer = Probe(
        "neighbourhood", "completion", "Leo lives in the", "United States of America", "United States", "unchanged"
    )
    shorter = dataclasses.replace(longer, target=longer.rival, rival=longer.target)
    long, short = (Answer(logprob=p, token_logprobs=(p,), ranks=(0,), argmax=(1,)) for p in (-2.0, -1.0))
    wrong = changed(short, ranks=(3,))
    assert _answers_correctly(longer, Observation(target_answer=long, rival_answer=short))
    assert _answers_correctly(shorter, Observation(target_answer=short, rival_answer=long))
    assert not _answers_correctly(shorter, Observation(target_answer=wrong, rival_answer=long))
    other = dataclasses.replace(longer, rival="Norway")
    assert not _answers_correctly(other, Observation(target_answer=long, rival_answer=short))
