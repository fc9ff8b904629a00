"""``knbench score`` and ``knbench compare`` on runs with a tiny model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.core.version import __version__
from knbench.benchmark.results.documents import release_series
from knbench.editors.none import NoEdit

from tests.conftest import called, make_lm
from tests.files import run_folders as run
from tests.integration.running.test_regimes import Nudge

SETTINGS = RunSettings(batch_size=16, new_tokens=2, limit=4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    lm = make_lm("llama")
    run(lm, [NoEdit, Nudge], [registry.task("anaphor-gender")], folder / "single", SETTINGS)
    run(lm, [Nudge], [registry.task("anaphor-gender")], folder / "sequential", replace(SETTINGS, sequential=3))
    known = replace(SETTINGS, known_only=True, known_by="success")
    run(lm, [Nudge], [registry.task("anaphor-gender")], folder / "known", known)
    return folder


@pytest.fixture
def copy(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


def rewrite(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def altered(line, change):
    row = json.loads(line)
    change(row)
    return json.dumps(row)


def test_rescoring_gives_the_same_bytes(copy, capsys):
    stored = {path: path.read_bytes() for path in copy.rglob("result.json")}
    for path in stored:
        path.unlink()
    status, _, _ = called(capsys, "score", copy)
    assert status == 0
    assert {path: path.read_bytes() for path in copy.rglob("result.json")} == stored


@pytest.mark.parametrize("protocol", ["paper", "easyedit", "counterfact", "counterfact-code", "wild"])
def test_protocols_show_their_columns(runs, capsys, protocol):
    status, out, _ = called(capsys, "score", runs / "single", "--protocol", protocol)
    assert status == 0
    from knbench.benchmark.scoring.protocols import PROTOCOLS

    assert PROTOCOLS[protocol].title in out
    assert PROTOCOLS[protocol].columns[0].name in out


def test_the_form_of_released_code_is_computed_from_the_records(runs, capsys):
    """In both regimes, the numbers equal those of the log-probabilities per token, and results stay as stored."""
    folders = [runs / "single" / "nudge" / "anaphor-gender", runs / "sequential" / "nudge" / "anaphor-gender"]
    for folder in folders:
        stored = (folder / "result.json").read_bytes()
        _, out, _ = called(capsys, "score", folder, "--protocol", "counterfact-code", "--json")
        (result,) = json.loads(out)
        assert (folder / "result.json").read_bytes() == stored
        assert json.loads(stored)["summary"] == result["summary"][: len(json.loads(stored)["summary"])]
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        last = {}
        if (folder / "checkpoints.jsonl").exists():
            lines = [json.loads(line) for line in (folder / "checkpoints.jsonl").read_text().splitlines()]
            last = {line["case_id"]: line["after"] for line in lines if line["edits"] == len(records)}
        values = []
        for record in records:
            for number, probe in enumerate(record["probes"]):
                if probe["criterion"] == "reliability":
                    after = last[record["case_id"]][number] if last else probe["after"]
                    means = [sum(x) / len(x) for x in (after[a]["token_logprobs"] for a in ("target", "rival"))]
                    values.append(float(means[0] > means[1]))
        (row,) = (
            row
            for row in result["summary"]
            if (row["criterion"], row["measure"]) == ("reliability", "success_per_token")
        )
        assert row["value"] == pytest.approx(sum(values) / len(values))
        assert bool(last) == ("sequential" in str(folder))


def test_each_regime_has_its_own_table(runs, capsys):
    _, out, _ = called(capsys, "score", runs, "--markdown")
    titles = [line for line in out.splitlines() if line.startswith("**")]
    assert len(titles) == 3
    assert "single edits" in titles[1] + titles[2]
    assert any("after 3 sequential edits" in title for title in titles)


TAMPERED = {
    "a summary": (
        "result.json",
        lambda lines: [line.replace('"measure": "success"', '"measure": "exact"') for line in lines],
        "/measure differs from the value computed from the records",
    ),
    "a missing record": ("records.jsonl", lambda lines: lines[:1] + lines[2:], "3 of 4 cases (index 1 missing)"),
    "a duplicated record": ("records.jsonl", lambda lines: [*lines, lines[0]], "line 5 repeats case"),
    "a record of its own": (
        "records.jsonl",
        lambda lines: [*lines[:-1], altered(lines[-1], lambda r: r.update(case_id="mine"))],
        "has no case 'mine'",
    ),
    "another request": (
        "records.jsonl",
        lambda lines: [altered(lines[0], lambda r: r["request"].update(target_new="x")), *lines[1:]],
        "has another edit request than the task",
    ),
    "an easier probe": (
        "records.jsonl",
        lambda lines: [altered(lines[0], lambda r: r["probes"][0].update(rival="x")), *lines[1:]],
        "has another probe 0 than the task",
    ),
    "a probe left out": (
        "records.jsonl",
        lambda lines: [altered(lines[0], lambda r: r["probes"].pop(0)), *lines[1:]],
        "has another probe 0 than the task",
    ),
    "the last probe of the task left out": (
        "records.jsonl",
        lambda lines: [altered(lines[0], lambda r: r["probes"].pop(-2)), *lines[1:]],
        "lacks 1 of the task's probes",
    ),
    "the passages left out": (
        "records.jsonl",
        lambda lines: [altered(lines[0], lambda r: r["probes"].pop()), *lines[1:]],
        "lacks the probe of integrity",
    ),
    "another task version": (
        "manifest.json",
        lambda lines: [re.sub(r'"version": \d+,', '"version": 1,', line) for line in lines],
        "taken on version 1 of task 'anaphor-gender', which is now version",
    ),
    "another content of the task": (
        "manifest.json",
        lambda lines: [re.sub(r'("content_hash": ")[0-9a-f]{4}', r"\g<1>0000", line) for line in lines],
        "had another content",
    ),
    "an impossible probability": (
        "records.jsonl",
        lambda lines: [
            altered(lines[0], lambda r: r["probes"][0]["after"]["target"].update(logprob=0.5)),
            *lines[1:],
        ],
        "not a valid record at /probes/0/after",
    ),
}


@pytest.mark.parametrize("change_name", TAMPERED)
def test_tampered_files_are_reported(copy, capsys, change_name):
    name, change, message = TAMPERED[change_name]
    folder = copy / "single/nudge/anaphor-gender"
    rewrite(folder / name, change)
    status, _, err = called(capsys, "score", folder)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_known_only_records_may_lack_unchanged_probes(runs, capsys):
    status, _, _ = called(capsys, "score", runs / "known")
    assert status == 0


def test_two_editors_are_compared_case_by_case(runs, capsys):
    status, out, _ = called(capsys, "compare", runs / "single", "--editors", "nudge,none", "--json")
    found = json.loads(out)
    assert (status, found["a"], found["b"]) == (0, "nudge", "none")
    row = next(r for r in found["rows"] if r["criterion"] == "reliability")
    assert row["difference"] == pytest.approx(row["a"] - row["b"])
    assert row["wins"] + row["losses"] + row["ties"] == row["cases"] == 4
    status, out, _ = called(capsys, "compare", runs / "single", "--cases")
    assert "cases on which they differ" in out


def test_more_than_two_editors_are_ranked(runs, tmp_path, capsys):
    lm = make_lm("llama")

    class Other(Nudge):
        name = "other"

    run(lm, [Other], [registry.task("anaphor-gender")], tmp_path, SETTINGS)
    status, out, _ = called(capsys, "compare", runs / "single", tmp_path, "--measure", "success", "--json")
    assert status == 0
    rows = json.loads(out)["tasks"]["anaphor-gender"]["reliability"]
    assert {r["editor"] for r in rows} == {"none", "nudge", "other"}
    assert all(1 <= r["best"] <= r["worst"] <= 3 for r in rows)
    by_name = {r["editor"]: r for r in rows}
    assert by_name["nudge"]["value"] == by_name["other"]["value"]


def test_more_than_two_editors_are_ranked_by_the_edit_score(runs, tmp_path, capsys):
    lm = make_lm("llama")

    class Other(Nudge):
        name = "other"

    run(lm, [Other], [registry.task("anaphor-gender")], tmp_path, SETTINGS)
    status, out, _ = called(capsys, "compare", runs / "single", tmp_path, "--json")
    assert status == 0
    rows = {row["method"]: row for row in json.loads(out)["edit_score"]["anaphor-gender"]}
    assert set(rows) == {"none", "nudge", "other"}
    assert rows["none"]["value"] == 0
    assert rows["none"]["preservation"] == pytest.approx(1, abs=1e-6)  # batches of another size are rounded differently
    for name in rows:
        folder = tmp_path if name == "other" else runs / "single"
        stored = json.loads((folder / name / "anaphor-gender" / "result.json").read_text())["edit_score"]
        assert rows[name]["value"] == pytest.approx(stored["value"])
    _, text, _ = called(capsys, "compare", runs / "single", tmp_path)
    assert "edit score" in text
    assert max(map(len, text.splitlines())) <= 100


def test_two_editors_are_compared_by_the_edit_score(runs, capsys):
    _, out, _ = called(capsys, "compare", runs / "single", "--editors", "nudge,none", "--json")
    row = json.loads(out)["edit_score"]["anaphor-gender"]
    assert row["difference"] == pytest.approx(row["a"] - row["b"])
    assert row["b"] == 0
    _, out, _ = called(capsys, "compare", runs / "single", "--editors", "nudge,none", "--measure", "exact", "--json")
    assert "edit_score" not in json.loads(out)


@pytest.mark.parametrize("args", [("--regime", "sequential"), ("--model", "another")])
def test_results_are_selected_by_model_and_regime(runs, capsys, args):
    status, _, err = called(capsys, "compare", runs / "single", *args)
    assert status == 2
    assert "no result is left" in err


def test_tables_fit_100_columns_and_show_criteria_on_request(runs, capsys):
    _, text, _ = called(capsys, "score", runs / "single")
    assert max(map(len, text.splitlines())) <= 100
    assert "reliability" not in text
    _, text, _ = called(capsys, "score", runs / "single", "--all-columns")
    assert "reliability" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["single/none", "sequential"], "regime: single and sequential"),
        (["single/none", "known"], "known_only: None and True"),  # in the order of the folders
        (["known", "single/none"], "known_only: True and None"),
        (["single", "known"], "two results of editor 'nudge'"),
        (["single", "--editors", "nudge,rome"], "unknown editor in these folders 'rome'"),
        (["single/none"], "needs two editors"),
        (["nowhere"], "does not exist"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs, capsys, args, message):
    folders = [a if a.startswith("-") or "," in a else runs / a for a in args]
    status, _, err = called(capsys, "compare", *folders)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def edit_result(folder, change):
    """Change the manifest and the result of a run folder."""
    for name in ("manifest.json", "result.json"):
        path = folder / name
        if path.exists():
            document = json.loads(path.read_text())
            change(document)
            path.write_text(json.dumps(document))


def variant(runs, target, **config):
    """Copy a run folder and give its editor other hyper-parameters."""
    shutil.copytree(runs / "single/nudge/anaphor-gender", target)
    edit_result(target, lambda document: document["editor"].update(config=config))
    return target


def test_two_settings_of_an_editor_are_compared(runs, tmp_path, capsys):
    one = variant(runs, tmp_path / "one/nudge/anaphor-gender", layer=3, steps=5, layers=[4, 5])
    two = variant(runs, tmp_path / "two/nudge/anaphor-gender", layer=7, steps=5, layers=[4, 6])
    status, text, err = called(capsys, "compare", one, two, "--json")
    assert status == 0
    document = json.loads(text)
    names = ["nudge (layer=3, layers=4|5)", "nudge (layer=7, layers=4|6)"]
    assert [document["a"], document["b"]] == names
    assert document["rows"][0]["difference"] == 0
    assert "layer: 3 and 7; layers: 4|5 and 4|6" in err
    swapped = ",".join(reversed(names))
    assert json.loads(called(capsys, "compare", one, two, "--editors", swapped, "--json")[1])["a"] == names[1]
    text = called(capsys, "compare", one, two)[1]
    assert "layer=3" in text  # the table names the settings
    assert "layer=7" in text


def test_an_editor_that_is_tuned_per_task_is_not_ranked_as_one_method(runs, tmp_path, capsys):
    for task, layer in (("anaphor-gender", 3), ("other", 7)):
        shutil.copytree(runs / "single", tmp_path / task)
        for name in ("none", "nudge"):
            folder = tmp_path / task / name / "anaphor-gender"
            edit_result(folder, lambda document, task=task: document["task"].update(name=task))
        edit_result(folder, lambda document, layer=layer: document["editor"].update(config={"layer": layer}))
    status, text, err = called(capsys, "compare", tmp_path)
    assert status == 0
    assert "'nudge' has several settings (layer: 3 and 7)" in err
    assert "nudge (layer=3) has results on 1 of 2 tasks" in " ".join(text.split())
    _, text, _ = called(capsys, "compare", tmp_path, "--measure", "success", "--json")
    assert {row["editor"] for row in json.loads(text)["overall"]} == {"none"}
    _, text, _ = called(capsys, "compare", tmp_path, "--json")
    assert {row["method"] for row in json.loads(text)["edit_score"]["phenomena"]} == {"none"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(benchmark_version="0.9.0"), f"benchmark: {release_series(__version__)} and 0.9"),
        (lambda d: d.update(seed=5), "seed: 0 and 5"),
        (lambda d: d["protocol"].update(split="tune"), "split: test and tune"),
        (lambda d: d["protocol"].update(new_tokens=9), "new_tokens: 2 and 9"),
    ],
)
@pytest.mark.parametrize("task", ["anaphor-gender", "other"])
def test_results_under_other_conditions_are_not_compared(runs, tmp_path, capsys, change, message, task):
    folder = variant(runs, tmp_path / "nudge/anaphor-gender")
    edit_result(folder, change)
    edit_result(folder, lambda document: document["task"].update(name=task))
    status, _, err = called(capsys, "compare", runs / "single/none", folder)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_patch_release_is_the_same_benchmark(runs, tmp_path, capsys):
    folder = variant(runs, tmp_path / "nudge/anaphor-gender")
    edit_result(
        folder, lambda document: document.update(benchmark_version=f"{release_series(__version__)}.9.dev3+local")
    )
    assert called(capsys, "compare", runs / "single/none", folder)[0] == 0


def test_compare_names_unfinished_runs(runs, tmp_path, capsys):
    shutil.copytree(runs / "single", tmp_path / "runs")
    folder = variant(runs, tmp_path / "runs/push/anaphor-gender")
    edit_result(folder, lambda document: document["editor"].update(name="push"))
    (folder / "result.json").unlink()
    status, _, err = called(capsys, "compare", tmp_path / "runs")
    assert status == 0
    assert f"{folder} is not finished and is left out" in err
