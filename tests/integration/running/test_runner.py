from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Task
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.editing import Edit, Editor, NoConfig
from knbench.benchmark.probing.base import Prober
from knbench.benchmark.running.run_folder import locked
from knbench.editors.ft import FineTuning
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome

from tests.conftest import called
from tests.files import json_lines, load_result, rescore
from tests.files import run_folders as run

NAMES = ["Canada", "Italy", "France", "Mexico", "Susan"]
SETTINGS = RunSettings(batch_size=8, new_tokens=2, editor_args={"rome": {"steps": "3"}})


def case(name):
    new, true = ("Rome", "Ottawa") if len(name) % 2 else ("Ottawa", "Rome")  # of which the model prefers some
    request = EditRequest("The capital of {} is", name, new, true)
    probes = (
        Probe("reliability", "completion", request.text, new, true, "new"),
        Probe("paraphrase", "completion", f"{name} is", new, true, "new"),
        Probe("neighbourhood", "completion", "Danielle Darrieux is", "physics", "Rome", "unchanged"),
    )
    return Case(name, request, probes)


def task(names=NAMES):
    cases = tuple(map(case, names))
    text = {"title": "T", "description": "d", "licence": "CC0-1.0", "citation": "c", "source": "s", "relation": "r"}
    criteria = ("reliability", "paraphrase", "neighbourhood")
    return Task(name="towns", version=1, kind="fact", criteria=criteria, cases=cases, **text)


def without_timings(folder):
    return [{k: v for k, v in record.items() if k != "timings"} for record in json_lines(folder / "records.jsonl")]


def test_a_run_gives_valid_results_that_its_records_give_again(lm, tmp_path):
    before = lm.weight_hash()
    folders = run(lm, [NoEdit, FineTuning, Rome], [task()], tmp_path, SETTINGS)
    assert lm.weight_hash() == before
    assert [f.relative_to(tmp_path).as_posix() for f in folders] == ["none/towns", "ft/towns", "rome/towns"]
    for folder in folders:
        result = load_result(folder / "result.json")
        assert result == rescore(folder)
        assert result["model"]["weight_hash"] == before
        assert result["records"] | {"sha256": ""} == {
            "file": "records.jsonl", "cases": 5, "failed": 0, "failures": {}, "sha256": "",
        }  # fmt: skip
    values = {(r["criterion"], r["measure"]): r["value"] for r in load_result(folders[0] / "result.json")["summary"]}
    assert values["neighbourhood", "exact"] == 1.0
    assert values["neighbourhood", "kl"] == pytest.approx(0, abs=1e-9)
    assert len(load_result(folders[2] / "result.json")["editor"]["prepared"]["contexts"]) == 21


def test_the_same_seed_gives_the_same_records_and_another_does_not(lm, tmp_path):
    (a,) = run(lm, [Rome], [task()], tmp_path / "a", SETTINGS)
    torch.manual_seed(99)
    (b,) = run(lm, [Rome], [task()], tmp_path / "b", SETTINGS)
    (c,) = run(lm, [Rome], [task()], tmp_path / "c", replace(SETTINGS, seed=1))
    assert without_timings(a) == without_timings(b)
    assert without_timings(a) != without_timings(c)


def test_a_stopped_run_goes_on_and_ends_with_the_same_records(lm, tmp_path):
    class Pairs(Rome):
        joint_batch_size = 2

    class Stops(Pairs):
        left = 2

        def edit_each(self, lm, requests):
            Stops.left -= 1
            if Stops.left < 0:
                raise KeyboardInterrupt
            return super().edit_each(lm, requests)

    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [task()], tmp_path / "a", SETTINGS)
    path = tmp_path / "a/rome/towns/records.jsonl"
    assert len(json_lines(path)) == 4
    path.write_bytes(path.read_bytes()[:-40])  # and the last record, half of a pair, is cut off
    assert not (path.parent / "result.json").exists()
    (resumed,) = run(lm, [Pairs], [task()], tmp_path / "a", SETTINGS)
    (whole,) = run(lm, [Pairs], [task()], tmp_path / "b", SETTINGS)
    assert without_timings(resumed) == without_timings(whole)


@pytest.mark.parametrize(
    ("settings", "names", "complaint"),
    [
        (replace(SETTINGS, seed=5), NAMES, "seed: 0 there, 5 now"),
        (replace(SETTINGS, editor_args={"rome": {"steps": "4"}}), NAMES, "editor.config.steps: 3 there, 4 now"),
        (replace(SETTINGS, limit=4), NAMES, "protocol.cases: 5 there, 4 now"),
        (SETTINGS, [*NAMES[:4], "Ann"], "changed its content and not its version"),
    ],
)
def test_a_folder_of_another_run_is_refused(lm, tmp_path, settings, names, complaint):
    run(lm, [Rome], [task()], tmp_path, SETTINGS)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(KnbenchError, match=complaint):
        run(lm, [Rome], [task(names)], tmp_path, settings)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == kept


def test_a_small_task_has_no_cases_to_tune_on(lm, tmp_path):
    with pytest.raises(KnbenchError, match="task 'towns' has no tune cases; a task of fewer than 20"):
        run(lm, [NoEdit], [task()], tmp_path, replace(SETTINGS, split="tune"))
    assert not list(tmp_path.iterdir())


def test_a_request_that_fails_among_others_fails_alone(lm, tmp_path):
    class Picky(Rome):
        def edit_each(self, lm, requests):
            if any(request.subject == "France" for request in requests):
                raise ValueError("not France")
            return super().edit_each(lm, requests)

    (folder,) = run(lm, [Picky], [task()], tmp_path, SETTINGS)
    failures = {r["case_id"]: r["failure"] for r in json_lines(folder / "records.jsonl")}
    france = failures.pop("France")
    assert france.pop("traceback").splitlines()[-1].endswith(" in edit_each")
    assert france == {"phase": "edit", "type": "ValueError", "message": "not France"}
    assert set(failures.values()) == {None}


def test_cases_edited_together_give_what_they_give_alone(lm, tmp_path):
    class Alone(Rome):
        joint_batch_size = 1

    one, many = (
        without_timings(run(lm, [cls], [task()], tmp_path / cls.__name__, SETTINGS)[0]) for cls in (Alone, Rome)
    )
    for a, b in zip(one, many, strict=True):
        for p, q in zip(a["probes"], b["probes"], strict=True):
            if p["kind"] == "passages":
                continue
            assert p["after"]["target"]["logprob"] == pytest.approx(q["after"]["target"]["logprob"], abs=1e-2)


class Faulty(Editor[NoConfig]):
    """Fails in another way on each case."""

    name, summary, Config = "faulty", "for tests", NoConfig

    def edit(self, lm, requests):
        name = lm.mlp_weight_name(1)
        weight = lm.parameter(name).detach()
        match requests[0].subject:
            case "Canada":
                raise ZeroDivisionError("division by zero\nand more")
            case "Italy":
                return Edit(weights={name: weight * float("nan")}, diagnostics={"losses": [1.0, float("nan")]})
            case "France":
                return Edit(weights={name: weight * 1e30})
            case "Mexico":
                return Edit(outputs={"model.layers.1.mlp": lambda hidden: hidden[:, :1, :3]})
        return Edit()


def test_whatever_fails_is_recorded_and_the_run_goes_on(lm, tmp_path):
    before = lm.weight_hash()
    (folder,) = run(lm, [Faulty], [task([*NAMES, "Rome"])], tmp_path, SETTINGS)
    found = {
        r["case_id"]: r["failure"] and (r["failure"]["phase"], r["failure"]["type"])
        for r in json_lines(folder / "records.jsonl")
    }
    assert found["Canada"] == ("edit", "ZeroDivisionError")
    assert found["Italy"] == ("probe", "NonFiniteEditError")
    assert found["Mexico"] == ("probe", "OutputFunctionError")
    assert found["France"] in {("probe", "FloatingPointError"), None}
    assert found["Susan"] is found["Rome"] is None
    assert load_result(folder / "result.json")["records"]["failed"] >= 3
    assert lm.weight_hash() == before
    (italy,) = (r for r in json_lines(folder / "records.jsonl") if r["case_id"] == "Italy")
    assert italy["edit"]["diagnostics"] == {"losses": [1.0, "nan"]}


def test_what_failed_is_tried_again_when_asked(lm, tmp_path):
    class Sometimes(NoEdit):
        name, broken = "sometimes", True

        def edit(self, lm, requests):
            if self.broken and requests[0].subject == "Italy":
                raise ValueError("not today")
            return super().edit(lm, requests)

    (folder,) = run(lm, [Sometimes], [task()], tmp_path / "a", SETTINGS)
    assert load_result(folder / "result.json")["records"]["failed"] == 1
    Sometimes.broken = False
    run(lm, [Sometimes], [task()], tmp_path / "a", SETTINGS)
    assert load_result(folder / "result.json")["records"]["failed"] == 1  # what is recorded stays
    run(lm, [Sometimes], [task()], tmp_path / "a", replace(SETTINGS, retry_failed=True))
    (whole,) = run(lm, [Sometimes], [task()], tmp_path / "b", SETTINGS)
    again = sorted(without_timings(folder), key=lambda r: r["index"])
    assert again == without_timings(whole)
    assert load_result(folder / "result.json")["summary"] == load_result(whole / "result.json")["summary"]


def test_a_folder_that_another_process_writes_is_refused(lm, tmp_path):
    folder = tmp_path / "none" / "towns"
    spawn = get_context("spawn")
    ready, stop = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(str(folder), ready, stop))
    process.start()
    assert ready.wait(60)
    with pytest.raises(KnbenchError, match="is being written by another process"):
        run(lm, [NoEdit], [task()], tmp_path, SETTINGS)
    process.kill()  # and does not let go of the lock itself
    process.join()
    run(lm, [NoEdit], [task()], tmp_path, SETTINGS)
    run(lm, [NoEdit], [task()], tmp_path, SETTINGS)  # and neither does this one keep it


def test_status_tells_how_far_a_run_is(lm, tmp_path, capsys):
    class Stops(NoEdit):
        left = 2

        def edit(self, lm, requests):
            Stops.left -= 1
            if Stops.left < 0:
                raise KeyboardInterrupt
            return super().edit(lm, requests)

    with pytest.raises(KeyboardInterrupt):
        run(lm, [Stops], [task()], tmp_path, SETTINGS)
    run(lm, [Faulty], [task()], tmp_path, SETTINGS)
    status, out, _ = called(capsys, "status", tmp_path, "--json")
    rows = {row["editor"]: row for row in json.loads(out)}
    assert status == 0
    assert (rows["none"]["state"], rows["none"]["done"], rows["none"]["cases"]) == ("stopped", 2, 5)
    assert rows["none"]["seconds_left"] == pytest.approx(3 * rows["none"]["seconds_a_case"])
    assert (rows["faulty"]["state"], rows["faulty"]["seconds_left"]) == ("finished", None)
    assert rows["faulty"]["failed"] >= 3
    (folder,) = run(lm, [NoEdit], [task()], tmp_path / "s", replace(SETTINGS, sequential=4, checkpoints=(2,)))
    path = folder / "checkpoints.jsonl"  # two cases again after two edits, four after four
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:3]))
    times = [r["timings"] for r in json_lines(folder / "records.jsonl")]
    (row,) = json.loads(called(capsys, "status", tmp_path / "s", "--json")[1])
    assert row["state"] == "stopped"
    assert row["seconds_left"] == pytest.approx(3 * sum(t["probe_seconds"] for t in times) / 4)
    with locked(tmp_path / "none" / "towns"):
        _, out, _ = called(capsys, "status", tmp_path)
        assert ("running" in out, "waiting" in out) == (True, False)  # a unit of it was begun and not finished
        (tmp_path / "events.jsonl").unlink()
        _, out, _ = called(capsys, "status", tmp_path)
        assert ("running" in out, "waiting" in out) == (False, True)
    assert called(capsys, "status", tmp_path / "none" / "towns" / "x")[0] == 2


def test_a_batch_that_does_not_fit_is_halved(lm, tmp_path, monkeypatch):
    whole, sizes = Prober._logprobs, []

    def small(self, rows, *others):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, rows, *others)

    (plain,) = run(lm, [NoEdit], [task()], tmp_path / "a", SETTINGS)
    monkeypatch.setattr(Prober, "_logprobs", small)
    (halved,) = run(lm, [NoEdit], [task()], tmp_path / "b", SETTINGS)
    assert (max(sizes), max(sizes[-3:])) == (8, 2)
    first, then = (load_result(folder / "result.json")["summary"] for folder in (plain, halved))
    assert [r["value"] for r in then] == pytest.approx([r["value"] for r in first], abs=1e-5)


def hold(folder, ready, stop):
    """Keep a folder until the process is killed."""
    with locked(Path(folder)):
        ready.set()
        stop.wait(120)


def test_an_editor_that_leaves_the_model_changed_stops_the_run(lm, tmp_path):
    class Careless(NoEdit):
        def edit(self, lm, requests):
            lm.parameter(lm.mlp_weight_name(0)).data[0, 0] += 1e-3
            return Edit()

    with pytest.raises(KnbenchError, match="left the model's weights changed after case 'Canada'"):
        run(lm, [Careless], [task()], tmp_path, SETTINGS)


def test_known_only_judges_what_the_model_knows(lm, tmp_path):
    (folder,) = run(lm, [NoEdit], [task()], tmp_path / "all", SETTINGS)
    every = json_lines(folder / "records.jsonl")

    def knows(record):
        before = record["probes"][0]["before"]
        return before["target"]["logprob"] < before["rival"]["logprob"]

    known = [r["case_id"] for r in every if knows(r)]
    assert 0 < len(known) < len(every)
    (folder,) = run(lm, [NoEdit], [task()], tmp_path / "known", replace(SETTINGS, known_only=True))
    records = json_lines(folder / "records.jsonl")
    assert [r["case_id"] for r in records] == known
    for record in records:
        for probe in record["probes"]:
            if probe["expect"] == "unchanged" and probe["kind"] != "passages":
                assert probe["before"]["target"]["logprob"] > probe["before"]["rival"]["logprob"]


def test_control_characters_in_prepared_values_are_escaped(lm, tmp_path):
    class Sampled(NoEdit):
        name = "sampled"

        def prepare(self, lm, reporter):
            return {"texts": ("a\x1a\u202eb\nc", "plain"), "nested": {"x": ["\x00"]}}

    (folder,) = run(lm, [Sampled], [task()], tmp_path, SETTINGS)
    prepared = load_result(folder / "result.json")["editor"]["prepared"]
    assert prepared == {"texts": ["a\\x1a\\u202eb\nc", "plain"], "nested": {"x": ["\\x00"]}}


def test_results_are_small_enough_to_read(lm, tmp_path):
    (folder,) = run(lm, [NoEdit], [task()], tmp_path, SETTINGS)
    assert json.loads((folder / "manifest.json").read_text())["protocol"]["regime"] == "single"
