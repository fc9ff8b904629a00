"""Tuning on tiny models, with an editor whose best setting is known, and through the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import torch
import yaml
from knbench.benchmark import editing
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import Case, EditRequest, Probe, Task
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.core.split import split_cases
from knbench.benchmark.editing import Edit, Editor, Published
from knbench.benchmark.results.io import RECORD, read_lines
from knbench.benchmark.results.runs import Run
from knbench.benchmark.running.tuning import Point, average_results, parse_grid, published_entry, report, tune
from knbench.benchmark.scoring.edit_score_estimates import edit_score
from knbench.benchmark.scoring.summary import in_order
from knbench.editors.none import NoEdit
from knbench.editors.rome import Rome

from tests import factories
from tests.conftest import knbench
from tests.files import json_lines, load_result, rescore
from tests.files import run_folders as run

SETTINGS = RunSettings(batch_size=8, new_tokens=1)
GRID = ["says=nothing,everything,answer"]
WORDS = ("Ottawa", "Rome", "France", "physics")


@dataclass(frozen=True)
class RiggedConfig:
    says: Literal["nothing", "answer", "everything"]
    push: float = 60.0
    note: str = "as it is"

    def __post_init__(self):
        if self.push < 0:
            raise ValueError("push must not be below 0")


class Rigged(Editor[RiggedConfig]):
    """Makes the new answer likely, or that and the wrong answer of the neighbours, or changes nothing."""

    name, summary, Config = "rigged", "for tests", RiggedConfig
    calls = 0

    def edit(self, lm, requests):
        Rigged.calls += 1
        pushed = {"nothing": [], "answer": ["Ottawa"], "everything": ["Ottawa", "physics"]}[self.config.says]
        ids = {w: lm.tokenizer(f" {w}", add_special_tokens=False)["input_ids"] for w in WORDS}
        rows = lm.head.weight.detach()[[i for w in WORDS for i in ids[w]]]
        gains = torch.tensor([self.config.push * (w in pushed) for w in WORDS for _ in ids[w]])
        shift = torch.linalg.lstsq(rows, gains[:, None]).solution[:, 0]  # its logits are exactly the gains
        return Edit(outputs={"model.norm": lambda state: state + shift})


def case(name):
    request = EditRequest("The capital of {} is", name, "Ottawa", "Rome")  # the model prefers Rome, which is shorter
    probes = (
        Probe("reliability", "completion", request.text, "Ottawa", "Rome", "new"),
        Probe("paraphrase", "completion", f"{name} is", "Ottawa", "Rome", "new"),
        Probe("symmetry", "completion", "Ottawa is the capital of", name, "Italy", "new"),
        Probe("neighbourhood", "completion", "Danielle Darrieux is", "France", "physics", "unchanged"),
    )
    return Case(name, request, probes)


def towns(count=40, name="towns", without=()):
    cases = tuple(case(f"Town {i}") for i in range(count))
    cases = tuple(replace(c, probes=tuple(p for p in c.probes if p.criterion not in without)) for c in cases)
    text = {"title": "T", "description": "d", "licence": "CC0-1.0", "citation": "c", "source": "s", "relation": "r"}
    criteria = ("reliability", "paraphrase", "symmetry", "neighbourhood")
    return Task(name=name, version=1, kind="fact", criteria=criteria, cases=cases, **text)


def held_out(task):
    return {c.id for c in split_cases(task.name, task.cases, "tune")}


def case_ids(folder):
    """Return the ids of all cases that have a record below a folder."""
    return {r["case_id"] for path in folder.rglob("records.jsonl") for r in json_lines(path)}


def test_best_point_is_first_and_every_number_is_recomputable(lm, tmp_path):
    points = parse_grid(Rigged, GRID)
    outcomes = tune(lm, Rigged, [towns(), towns(name="cities")], points, tmp_path, SETTINGS, measure="success")
    assert outcomes[0].point.values == {"says": "answer"}
    assert [o.score for o in outcomes] == [1.0, 0.0, 0.0]
    by_setting = {o.point.values["says"]: o for o in outcomes}
    assert by_setting["answer"].criteria == {"reliability": 1.0, "paraphrase": 1.0, "neighbourhood": 1.0}
    assert by_setting["everything"].criteria["neighbourhood"] == 0.0
    assert by_setting["nothing"].criteria == {"reliability": 0.0, "paraphrase": 0.0, "neighbourhood": 1.0}
    assert all(o.failed == 0 for o in outcomes)
    for outcome in outcomes:
        by_task = {}
        for task in ("towns", "cities"):
            folder = tmp_path / outcome.point.folder / "rigged" / task
            result = load_result(folder / "result.json")
            assert result == rescore(folder)
            assert result["protocol"]["split"] == "tune"
            rows = {(r["criterion"], r["measure"]): r["value"] for r in result["summary"]}
            by_task[task] = rows["score", "success"]
        assert outcome.score == pytest.approx(sum(by_task.values()) / 2)


def test_objective_is_the_edit_score_without_the_families_that_judge(lm, tmp_path):
    """A point that only damages the model loses against no edit that works, and inverse and consequence are unread."""
    points = parse_grid(Rigged, [*GRID, "push=0.5,60"])
    outcomes = tune(lm, Rigged, [towns()], points, tmp_path, SETTINGS)
    assert [o.score for o in outcomes] == sorted((o.score for o in outcomes), reverse=True)
    for outcome in outcomes:
        records = read_lines(tmp_path / outcome.point.folder / "rigged" / "towns" / "records.jsonl", RECORD)
        kept = [[p for p in r.probes if p.criterion not in ("symmetry", "portability")] for r in in_order(records)]
        reduced = [msgspec.structs.replace(r, probes=tuple(p)) for r, p in zip(in_order(records), kept, strict=True)]
        assert outcome.score == pytest.approx(edit_score(reduced, "fact").value)


def test_tuning_and_test_cases_are_disjoint(lm, tmp_path):
    task = towns()
    outcomes = tune(lm, Rigged, [task], parse_grid(Rigged, GRID), tmp_path / "tuning", SETTINGS)
    assert case_ids(tmp_path / "tuning") == held_out(task) != set()
    run(lm, [NoEdit], [task], tmp_path / "test", SETTINGS)
    assert case_ids(tmp_path / "test") == {c.id for c in task.cases} - held_out(task)
    run(lm, [NoEdit], [task], tmp_path / "all", replace(SETTINGS, split="all"))
    assert case_ids(tmp_path / "all") == {c.id for c in task.cases}
    written = report(
        lm, Rigged, [task], outcomes, tmp_path / "tuning", SETTINGS, measure="success", command="knbench tune"
    )
    assert set(written["tasks"][0]["cases"]) == held_out(task)
    assert written["model"]["weight_hash"] == lm.weight_hash()
    assert len(written["points"]) == 3


def test_limit_counts_tuning_cases(lm, tmp_path):
    task = towns()
    tune(lm, Rigged, [task], parse_grid(Rigged, ["says=answer"]), tmp_path, replace(SETTINGS, limit=2))
    assert len(case_ids(tmp_path)) == 2
    assert case_ids(tmp_path) < held_out(task)


def test_interrupted_tuning_continues_and_larger_grid_reuses_points(lm, tmp_path, monkeypatch):
    task, points = towns(), parse_grid(Rigged, GRID)
    edit, remaining = Rigged.edit, len(held_out(task)) + 2

    def stops(self, lm, requests):
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise KeyboardInterrupt
        return edit(self, lm, requests)

    with monkeypatch.context() as patched:
        patched.setattr(Rigged, "edit", stops)
        with pytest.raises(KeyboardInterrupt):
            tune(lm, Rigged, [task], points, tmp_path, SETTINGS)
    kept = sum(len(json_lines(path)) for path in tmp_path.rglob("records.jsonl"))
    assert kept >= len(held_out(task))
    monkeypatch.setattr(Rigged, "calls", 0)
    resumed = tune(lm, Rigged, [task], points, tmp_path, SETTINGS)
    assert Rigged.calls == 3 * len(held_out(task)) - kept
    again = tune(lm, Rigged, [task], parse_grid(Rigged, [*GRID, "push=60"]), tmp_path / "again", SETTINGS)
    assert [o.score for o in again] == [o.score for o in resumed]
    monkeypatch.setattr(Rigged, "calls", 0)
    tune(lm, Rigged, [task], parse_grid(Rigged, GRID), tmp_path, SETTINGS)
    assert Rigged.calls == 0


def test_all_points_are_reported_as_one_run(lm, tmp_path):
    class RecordingReporter(Reporter):
        totals, done = [], 0

        def begin(self, total):
            self.totals.append(total)

        def advance(self, count=1):
            self.done += count

    reporter, task = RecordingReporter(), towns()
    tune(lm, Rigged, [task], parse_grid(Rigged, GRID), tmp_path, SETTINGS, reporter=reporter)
    assert reporter.totals == [3 * len(held_out(task))]
    assert reporter.done == 3 * len(held_out(task))


def measured(score, magnitudes=(0.5, 0.5, 0.5), same_token=0.5, symmetry=0.0, name="towns"):
    """Return a result with the values that tuning reads, and with values of criteria that it must ignore."""
    values = [("score", "success", score), ("extended_score", "success", symmetry), ("symmetry", "success", symmetry)]
    for criterion, magnitude in zip(("reliability", "paraphrase", "neighbourhood"), magnitudes, strict=True):
        values += [(criterion, "success", score), (criterion, "magnitude", magnitude), (criterion, "exact", same_token)]
    template = factories.result(task=name)
    return msgspec.structs.replace(
        template,
        summary=tuple(
            msgspec.structs.replace(template.summary[0], criterion=criterion, measure=measure, value=value)
            for criterion, measure, value in values
        ),
        cost=msgspec.structs.replace(template.cost, edit_seconds=1.0),
        records=msgspec.structs.replace(template.records, cases=5, failed=1),
    )


def finished(*results):
    return [Run(Path(), result) for result in results]


def test_ties_are_broken_by_margin_then_next_token_then_order():
    def result(name, *results):
        return average_results(Point({}, {"name": name}), finished(*results), "success")

    candidates = [
        result("low", measured(0.8, (0.9, 0.9, 0.9), 1.0)),
        result("loud", measured(0.9, (0.9, 0.9, -0.6), 1.0)),  # margin 0.4: higher P(new), but wrong neighbours
        result("even", measured(0.9, (0.6, 0.6, 0.6), 0.2)),
        result("kept", measured(0.9, (0.6, 0.6, 0.6), 0.3)),
        result("later", measured(0.9, (0.6, 0.6, 0.6), 0.3)),
        result("mean", measured(1.0, (0.0, 0.0, 0.0)), measured(0.81, (0.0, 0.0, 0.0), name="rivers")),  # S 0.905
    ]
    order = [o.point.values["name"] for o in sorted(candidates, key=lambda o: o.sort_key())]
    assert order == ["mean", "kept", "later", "even", "loud", "low"]


def test_criteria_outside_s_are_ignored():
    point = Point({}, {})
    assert average_results(point, finished(measured(0.9, symmetry=0.0)), "success") == average_results(
        point, finished(measured(0.9, symmetry=1.0)), "success"
    )


def test_published_entry_does_not_depend_on_earlier_entries(lm, monkeypatch):
    monkeypatch.setattr(Rigged, "published", (Published({"width": 32}, {"says": "nothing", "push": 7.0}, "a paper"),))
    (point,) = parse_grid(Rigged, ["says=answer"])
    best = average_results(point, finished(measured(0.9)), "success")
    entry = published_entry(lm, Rigged, best, "knbench tune --editor rigged")
    (row,) = entry["editors"]["rigged"]
    assert row["values"] == {"says": "answer", "push": 7.0}
    assert entry["shapes"] == {"tiny-llama": lm.shape}
    assert row["source"] == "tuned by this project: knbench tune --editor rigged (5 held-out cases)"
    assert published_entry(lm, Rigged, average_results(point, finished(measured(0.0)), "success"), "") is None


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no hyper-parameter to tune"),
        (["layer"], "expected FIELD=VALUE"),
        (["layer="], "expected FIELD=VALUE"),
        (["layer=3,,5"], "expected FIELD=VALUE"),
        (["layr=3"], "did you mean 'layer'"),
        (["layer=3,x"], "^--grid layer=x: expected a whole number"),
        (["layer=3", "layer=5"], "'layer' already has a --grid"),
        (["weight_decay=1e-3,0.001"], "a value occurs twice"),
    ],
)
def test_invalid_grid_is_refused(items, message):
    with pytest.raises(KnbenchError, match=message):
        parse_grid(Rome, items)


def test_grid_is_an_ordered_product_with_readable_folders():
    points = parse_grid(Rome, ["layer=3,5", "weight_decay=1e-3,0.5"])
    assert [p.folder for p in points] == [
        "layer=3,weight_decay=0.001",
        "layer=3,weight_decay=0.5",
        "layer=5,weight_decay=0.001",
        "layer=5,weight_decay=0.5",
    ]
    texts = [Point({}, {"text": text}).folder for text in ("../a", "../A", "..\\a", "x" * 300, "x" * 301)]
    assert len({t.casefold() for t in texts}) == 5
    assert all(len(t) < 120 and not set(t) & set("/\\ ") for t in texts)


def test_invalid_tuning_is_reported_before_anything_runs(lm, tmp_path):
    points = parse_grid(Rigged, GRID)

    def attempt(tasks, points=points, settings=SETTINGS):
        tune(lm, Rigged, tasks, points, tmp_path / "out", settings)

    with pytest.raises(KnbenchError, match="task 'towns' has no tuning cases among its 12"):
        attempt([towns(), towns(12)])
    with pytest.raises(KnbenchError, match="has no probes for paraphrase, neighbourhood, which tuning needs"):
        attempt([towns(without=("paraphrase", "neighbourhood"))])
    with pytest.raises(KnbenchError, match="push must not be below 0"):
        attempt([towns()], parse_grid(Rigged, ["says=answer", "push=1,-1"]))
    assert not (tmp_path / "out").exists()
    attempt([towns()], points[:1])
    with pytest.raises(KnbenchError, match="holds another run"):
        attempt([towns()], points[:1], replace(SETTINGS, seed=3))


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def rigged(monkeypatch):
    tasks = {name: towns(name=name) for name in ("towns", "cities")}
    monkeypatch.setattr(editing, "editor_class", lambda _: Rigged)
    monkeypatch.setattr(registry, "tasks", lambda _=(): tasks)
    return tasks


def test_command_prints_points_and_entry_and_writes_the_report(rigged, model_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["tune", "--editor", "rigged", "--model", model_folder, "--tasks", "towns,cities"]
    arguments += ["--grid", "says=answer,nothing", "--limit", "3", "--measure", "success", "--output", out]
    assert knbench(*arguments) == 0
    text = capsys.readouterr().out
    assert text.index("answer") < text.index("nothing")
    block = text.partition("Entry for editors/published.yaml:\n")[2].partition("\nReport:")[0]
    written = json.loads((out / "tuning.json").read_text())
    assert yaml.safe_load(block) == written["published"]
    assert written["published"]["editors"]["rigged"][0]["values"] == {"says": "answer"}
    for about in written["tasks"]:
        assert len(about["cases"]) == 3
        assert set(about["cases"]) < held_out(rigged[about["name"]])
    wanted = f"knbench tune --editor rigged --model {model_folder.name} --tasks towns,cities --grid says=answer,nothing"
    assert written["command"] == f"{wanted} --limit 3 --measure success"  # a published command names no folders
    assert knbench("score", out) == 0
    capsys.readouterr()
    assert knbench(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out) == written


def test_help_names_the_criteria_that_tuning_ignores(capsys):
    assert knbench("tune", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The families inverse and consequence are not used" in text
    assert "leak the test criteria into the methods" in text
    assert "Examples:" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--editor", "rmoe", "--tasks", "capital", "--grid", "layer=1"], "did you mean 'rome'?"),
        (["--editor", "rome", "--tasks", "captial", "--grid", "layer=1"], "did you mean 'capital'?"),
        (["--editor", "rome", "--tasks", "capital"], "no hyper-parameter to tune"),
        (["--editor", "rome", "--tasks", "capital", "--grid", "layr=1"], "did you mean 'layer'?"),
        (["--editor", "rome", "--tasks", "capital", "--grid", "layer=x"], "expected a whole number"),
        (["--editor", "none", "--tasks", "capital", "--grid", "layer=1"], "unknown hyper-parameter of editor 'none'"),
        (["--editor", "rome", "--tasks", "capital", "--grid", "layer=1", "--device", "cuda:7"], "is not available"),
        (["--tasks", "capital", "--grid", "layer=1"], "Missing option '--editor'"),
        (["--editor", "rome", "--tasks", "capital", "--grid", "layer=1", "--measure", "kl"], "'kl' is not one of"),
    ],
)
def test_user_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    assert knbench("tune", *arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert part in line
    assert captured.out == ""
    assert not list(tmp_path.iterdir())
