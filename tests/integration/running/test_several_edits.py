"""Cases with several edits, and probes that count only if the unedited model answers a question."""

from __future__ import annotations

import dataclasses

import pytest
from knbench.benchmark.core.records import Record, RequestRecord, from_json
from knbench.benchmark.core.schema import Case, Condition, EditRequest, Probe
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, Editor
from knbench.benchmark.probing.known import KnowledgeCache, known_cases, ranked_first
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.results.audit import check_task
from knbench.benchmark.results.documents import load_result
from knbench.benchmark.running.evaluator import conflicts

from tests.files import json_lines, rescore
from tests.files import run_folders as run
from tests.integration.running.test_runner import case, task

FIRST = EditRequest("{} is a citizen of", "Ann", "Mexico", "Canada")
SECOND = EditRequest("The capital of {} is", "Mexico", "Rome", "Paris")
SETTINGS = RunSettings(batch_size=8, new_tokens=2)
PROBES = (
    Probe("reliability", "completion", FIRST.text, "Mexico", "Canada", "new"),
    Probe("reliability", "completion", SECOND.text, "Rome", "Paris", "new"),
    Probe("portability", "completion", "The capital of Ann's country is", "Rome", "Ottawa", "new"),
)
TWO = Case("two", FIRST, PROBES, further=(SECOND,))


def watched(lm, folder, cases, **change):
    """Run a method that records the requests of each call; return these and the run folder."""
    calls = []

    @dataclasses.dataclass(frozen=True)
    class NoConfig:
        pass

    class Watcher(Editor[NoConfig]):
        name, summary, joint_batch_size, Config = "watcher", "records its requests", 4, NoConfig

        def edit(self, lm, requests):
            calls.append(("edit", [r.target_new for r in requests]))
            return Edit()

        def edit_next(self, lm, requests, earlier, state=None):
            calls.append(("next", [r.target_new for r in requests], [r.target_new for r in earlier]))
            return Edit()

    own, settings = dataclasses.replace(task(), cases=tuple(cases)), dataclasses.replace(SETTINGS, **change)
    (path,) = run(lm, [Watcher], [own], folder, settings)
    return calls, path


def test_all_edits_of_a_case_are_one_edit_in_every_regime(lm, tmp_path):
    calls, path = watched(lm, tmp_path / "single", [TWO, case("Canada")])
    assert calls == [("edit", ["Mexico", "Rome"]), ("edit", ["Ottawa"])]
    lines = {line["case_id"]: line for line in json_lines(path / "records.jsonl")}
    assert "further" not in lines[case("Canada").id]
    stored = from_json(lines["two"], Record)
    assert (stored.request, stored.further) == (RequestRecord.of(FIRST), (RequestRecord.of(SECOND),))
    assert rescore(path)["records"]["failed"] == 0
    # The records are those of the task, and not those of a task with one edit less.
    cases = dataclasses.replace(task(), cases=(TWO, case("Canada")))
    result, records = load_result(path / "result.json"), [from_json(line, Record) for line in lines.values()]
    check_task("here", result, records, cases)
    fewer = [from_json({k: v for k, v in line.items() if k != "further"}, Record) for line in lines.values()]
    with pytest.raises(Exception, match="another edit request than the task"):
        check_task("here", result, fewer, cases)
    assert watched(lm, tmp_path / "batch", [TWO, case("Canada")], batch_edits=2)[0] == [
        ("edit", ["Mexico", "Rome", "Ottawa"])
    ]
    assert watched(lm, tmp_path / "sequential", [TWO, case("Canada")], sequential=2)[0] == [
        ("next", ["Mexico", "Rome"], []),
        ("next", ["Ottawa"], ["Mexico", "Rome"]),
    ]


def test_content_hashes_contain_further_edits_and_conditions_only_where_a_case_has_them():
    assert "further" not in case("Canada").to_json()
    assert TWO.to_json()["further"][0]["target_new"] == "Rome"
    other = dataclasses.replace(TWO, conditions=(Condition("Rome is in", ("Italy",), (2,)),))
    hashes = {dataclasses.replace(task(), cases=(c,)).content_hash() for c in (TWO, other, case("Canada"))}
    assert len(hashes) == 3


def test_contradictions_of_further_edits_are_found():
    against = Case("against", dataclasses.replace(SECOND, target_new="Oslo"), PROBES)
    (message,) = conflicts([TWO, against], RunSettings(batch_edits=2))
    assert "cases 'two' and 'against' edit the prompt 'The capital of Mexico is' together, to 'Rome'" in message
    assert conflicts([TWO, against], RunSettings()) == []


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_probes_without_their_condition_are_left_out(tiny, tmp_path, kind):
    lm = tiny(kind)
    question = Probe("c", "completion", "Rome is in", "Italy", "", "new")
    said = make_prober(lm, new_tokens=6).observe([question])[0].generated.split()[0]
    conditions = (
        Condition("Rome is in", ("Norway", said), (0,)),
        Condition("Rome is in", ("never said",), (1,)),
        Condition("Rome is in", (said,), (2,)),
        Condition("Oslo is in", ("never said",), (2,)),
    )
    held = dataclasses.replace(TWO, conditions=conditions)
    _, path = watched(lm, tmp_path, [held])
    (line,) = json_lines(path / "records.jsonl")
    asked = [probe["prompt"] for probe in line["probes"] if probe["kind"] == "completion"]
    assert asked == [FIRST.text]  # all conditions of a probe are required, and one answer of each
    cases = dataclasses.replace(task(), cases=(held,))
    check_task("here", load_result(path / "result.json"), [from_json(line, Record)], cases)
    line["probes"] = line["probes"][1:]
    check_task("here", load_result(path / "result.json"), [from_json(line, Record)], cases)


def test_a_case_without_a_true_answer_is_known_until_the_model_gives_the_new_one(lm, own_cache):
    prober = make_prober(lm, new_tokens=4)
    prompt = "The capital of Mexico is"
    said = prober.observe([Probe("c", "completion", prompt, "Rome", "", "new")])[0].generated.split()[0]
    cases = [
        Case(name, request, (Probe("reliability", "completion", request.text, new, "", "new", aliases),))
        for name, new, aliases in (("new", "Rome", ()), ("given", said, ()), ("alias", "Oslo", (said,)))
        for request in (EditRequest("The capital of {} is", "Mexico", new, ""),)
    ]
    own = dataclasses.replace(task(), cases=(*cases, case("Canada")))
    known = known_cases(KnowledgeCache.of(prober), own)
    assert known["new"] == dict.fromkeys(("success", "exact", "generated"), True)
    assert known["given"]["generated"] is known["alias"]["generated"] is False
    assert known["alias"]["exact"] is True
    assert set(ranked_first(KnowledgeCache.of(prober), own)) == {case("Canada").id}
