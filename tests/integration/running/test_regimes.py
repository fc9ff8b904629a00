"""Edits in batches and one upon the other: what is measured when, against what, and how a stopped run goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, Editor, EditStack, NoConfig
from knbench.benchmark.probing.prober import make_prober

from tests.files import json_lines, load_result, rescore
from tests.files import run_folders as run
from tests.integration.running.test_runner import NAMES, case, task, without_timings

SETTINGS = RunSettings(batch_size=8, new_tokens=2)


class Nudge(Editor[NoConfig]):
    """Adds a tenth of the last request's length to one matrix: sees at a glance which edits were made."""

    name, summary, Config = "nudge", "for tests", NoConfig

    def edit(self, lm, requests):
        name = lm.mlp_weight_name(1)
        step = sum(0.1 * len(r.subject) for r in requests)
        return Edit(weights={name: lm.parameter(name).detach() + step})


def asked(lm, name):
    """What the model says to a case's probes as it is now."""
    return [o.target.logprob for o in make_prober(lm, batch_size=8, new_tokens=2).observe(case(name).probes)]


def said(probes, when="after"):
    return [probe[when]["target"]["logprob"] for probe in probes if probe["kind"] != "passages"]


def test_sequential_edits_pile_up_and_are_compared_with_the_unedited_model(lm, tmp_path):
    before = lm.weight_hash()
    settings = replace(SETTINGS, sequential=4, checkpoints=(2,))
    (folder,) = run(lm, [Nudge], [task()], tmp_path, settings)
    assert lm.weight_hash() == before
    records = json_lines(folder / "records.jsonl")
    again = json_lines(folder / "checkpoints.jsonl")
    assert [(line["edits"], line["case_id"]) for line in again] == [
        (k, name) for k in (2, 4) for name in NAMES[:k]
    ]  # fmt: skip
    for name, record in zip(NAMES, records, strict=False):
        assert said(record["probes"], "before") == pytest.approx(asked(lm, name), abs=1e-4)  # not the model of before
    weight = lm.parameter(lm.mlp_weight_name(1))
    original = weight.data
    for i, name in enumerate(NAMES[:4]):
        weight.data = original + 0.1 * sum(len(n) for n in NAMES[: i + 1])
        assert said(records[i]["probes"]) == pytest.approx(asked(lm, name), abs=1e-3)
    last = {line["case_id"]: line["after"] for line in again if line["edits"] == 4}
    for name in NAMES[:4]:
        assert [o["target"]["logprob"] for o in last[name] if "target" in o] == pytest.approx(asked(lm, name), abs=1e-3)
    weight.data = original


def test_a_sequential_result_holds_retention_and_is_given_by_its_files_again(lm, tmp_path):
    settings = replace(SETTINGS, sequential=4, checkpoints=(1, 2))
    (folder,) = run(lm, [Nudge], [task()], tmp_path, settings)
    result = load_result(folder / "result.json")
    assert result == rescore(folder)
    assert result["protocol"]["regime"] == "sequential"
    assert [point["edits"] for point in result["curve"]] == [1, 2, 4]

    def value(rows):
        return next(r["value"] for r in rows if (r["criterion"], r["measure"]) == ("reliability", "success"))

    assert value(result["curve"][0]["immediate"]) == value(result["curve"][0]["now"])  # one edit: the same moment
    assert value(result["curve"][-1]["now"]) == value(result["summary"])
    assert value(result["curve"][-1]["immediate"]) == value(result["immediate"])


@pytest.mark.parametrize("left", [1, 3, 4])
def test_a_stopped_sequential_run_makes_its_edits_again_and_goes_on(lm, tmp_path, left):
    settings = replace(SETTINGS, sequential=4, checkpoints=(2,))

    class Stops(Nudge):
        calls = 0

        def edit(self, lm, requests):
            Stops.calls += 1
            if Stops.calls > left:
                raise KeyboardInterrupt
            return super().edit(lm, requests)

    before = lm.weight_hash()
    if left < 4:
        with pytest.raises(KeyboardInterrupt):
            run(lm, [Stops], [task()], tmp_path / "a", settings)
        assert lm.weight_hash() == before
    else:  # stopped while the last checkpoint was measured
        run(lm, [Nudge], [task()], tmp_path / "a", settings)
        path = tmp_path / "a/nudge/towns/checkpoints.jsonl"
        path.write_bytes(path.read_bytes()[:-40])
        (path.parent / "result.json").unlink()
    (resumed,) = run(lm, [Nudge], [task()], tmp_path / "a", settings)
    (whole,) = run(lm, [Nudge], [task()], tmp_path / "b", settings)
    assert without_timings(resumed) == without_timings(whole)
    assert (resumed / "checkpoints.jsonl").read_bytes() == (whole / "checkpoints.jsonl").read_bytes()


def test_an_edit_that_comes_out_otherwise_when_made_again_stops_the_run(lm, tmp_path):
    settings = replace(SETTINGS, sequential=3)

    class Fickle(Nudge):
        runs = 0

        def edit(self, lm, requests):
            Fickle.runs += 1
            if Fickle.runs == 3:
                raise KeyboardInterrupt
            name = lm.mlp_weight_name(1)
            return Edit(weights={name: lm.parameter(name).detach() + 0.1 * Fickle.runs})

    with pytest.raises(KeyboardInterrupt):
        run(lm, [Fickle], [task()], tmp_path, settings)
    before = lm.weight_hash()
    with pytest.raises(KnbenchError, match="edit of case 'Canada', applied again, gives other weights"):
        run(lm, [Fickle], [task()], tmp_path, settings)
    assert lm.weight_hash() == before


def test_an_edit_without_probabilities_is_taken_back_and_the_others_go_on(lm, tmp_path):
    class Breaks(Nudge):
        def edit(self, lm, requests):
            if requests[0].subject == "Italy":
                name = lm.mlp_weight_name(1)
                return Edit(weights={name: torch.full_like(lm.parameter(name), 3e38)})
            return super().edit(lm, requests)

    (folder,) = run(lm, [Breaks], [task()], tmp_path, replace(SETTINGS, sequential=3))
    records = json_lines(folder / "records.jsonl")
    assert [r["failure"] and r["failure"]["phase"] for r in records] == [None, "probe", None]
    assert records[0]["edit"]["state"] == records[1]["edit"]["state"] != records[2]["edit"]["state"]


def test_a_batch_is_one_edit_for_all_of_its_cases(lm, tmp_path):
    before = lm.weight_hash()
    (folder,) = run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, batch_edits=2))
    assert lm.weight_hash() == before
    records = json_lines(folder / "records.jsonl")
    assert [r["case_id"] for r in records] == NAMES[:4]  # the fifth has no batch: a smaller one is another regime
    weight = lm.parameter(lm.mlp_weight_name(1))
    original = weight.data
    for pair in (NAMES[:2], NAMES[2:4]):
        weight.data = original + 0.1 * sum(map(len, pair))
        for name in pair:
            record = next(r for r in records if r["case_id"] == name)
            assert said(record["probes"]) == pytest.approx(asked(lm, name), abs=1e-3)
    weight.data = original


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sequential": 9}, "task 'towns' has 5 cases for 9 sequential edits"),
        ({"batch_edits": 6}, "task 'towns' has 5 cases for batches of 6"),
    ],
)
def test_too_few_cases_for_a_regime_are_told(lm, tmp_path, change, complaint):
    with pytest.raises(KnbenchError, match=complaint):
        run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, **change))


def test_regimes_that_contradict_each_other_are_refused():
    with pytest.raises(KnbenchError, match="use only one"):
        RunSettings(batch_edits=2, sequential=2)
    with pytest.raises(KnbenchError, match="needs --sequential"):
        RunSettings(checkpoints=(2,))
    with pytest.raises(KnbenchError, match="not between 1 and the 4"):
        RunSettings(sequential=4, checkpoints=(5,))


@pytest.mark.parametrize(("edits", "stops"), [(1, (1,)), (10, (1, 2, 5, 10)), (30, (1, 2, 5, 10, 20, 30))])
def test_checkpoints_by_default(edits, stops):
    assert RunSettings(sequential=edits).resolved_checkpoints == stops


def test_a_result_of_another_regime_does_not_share_its_folder(lm, tmp_path):
    run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, limit=4))
    with pytest.raises(KnbenchError, match="protocol"):
        run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, limit=4, sequential=4))


def test_a_missing_checkpoint_line_is_named(lm, tmp_path):
    (folder,) = run(lm, [Nudge], [task()], tmp_path, replace(SETTINGS, sequential=3, checkpoints=(1,)))
    path = folder / "checkpoints.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(KnbenchError, match="case 'France' after 3 edits is missing"):
        rescore(folder)


def test_a_pile_keeps_one_original_of_each_matrix_and_gives_it_back(lm):
    before, name = lm.weight_hash(), lm.mlp_weight_name(1)
    own = lm.parameter(name).data.data_ptr()

    def pile_up():
        with EditStack(lm) as pile:
            for _ in range(5):
                pile.push(Edit(weights={name: lm.parameter(name).detach() * 1.1}, prefix="x "))
            assert lm.prompt_prefix == "x " * 5
            fourth = lm.parameter(name).data / 1.1
            pile.pop()
            assert torch.allclose(lm.parameter(name).data, fourth)
            assert lm.prompt_prefix == "x " * 4
            assert len(pile._originals) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pile_up()
    assert (lm.weight_hash(), lm.parameter(name).data.data_ptr(), lm.prompt_prefix) == (before, own, "")


def test_written_text_is_measured_and_does_not_depend_on_its_batch(lm, tmp_path):
    settings = replace(SETTINGS, fluency_tokens=12)
    (one,) = run(lm, [Nudge], [task()], tmp_path / "a", replace(settings, batch_size=1))
    (many,) = run(lm, [Nudge], [task()], tmp_path / "b", settings)
    texts = [
        [
            p["after"]["text"]
            for r in json_lines(folder / "records.jsonl")
            for p in r["probes"]
            if p["kind"] == "generation"
        ]
        for folder in (one, many)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    rows = load_result(many / "result.json")["summary"]
    assert [r["measure"] for r in rows if r["criterion"] == "fluency"] == ["entropy"]
    manifest = json.loads((many / "manifest.json").read_text())
    assert manifest["protocol"]["fluency_tokens"] == 12
