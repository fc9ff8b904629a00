"""The cases and probes that a board demands are those that a run selects."""

from __future__ import annotations

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.settings import RunSettings
from knbench.benchmark.results.board_places import asked
from knbench.benchmark.running.board_questions import QuestionSelector
from knbench.benchmark.running.runner import run
from knbench.benchmark.scoring.summary import in_order
from knbench.editors.none import NoEdit

from tests.conftest import make_lm

BASE = {"subset": "lite", "limit": 5, "new_tokens": 2}
KNOWN = {**BASE, "known_only": True}


@pytest.fixture(scope="module")
def lm():
    return make_lm("llama")


@pytest.mark.parametrize("task", ["religion", "anaphor-gender"])
@pytest.mark.parametrize("settings", [KNOWN, {**KNOWN, "batch_edits": 2}, BASE], ids=["known", "batch", "all"])
def test_a_run_asks_the_questions_that_the_selector_measures(lm, tmp_path, task, settings):
    chosen = registry.task(task)
    settings = RunSettings(**settings)
    wanted = QuestionSelector(lm, settings).select(chosen, settings)
    (made,) = run(lm, [NoEdit], [chosen], tmp_path, settings)
    found = asked(in_order(made.records()))
    assert (found.cases, found.digest) == (wanted.cases, wanted.digest)
    assert tuple(wanted.ids) == (tuple(found.ids) if settings.known_only else ())
    if settings.known_only:
        assert wanted.margin > 0
        left_out = [len(case.probes) for case in chosen.cases if case.id in found.ids]
        kept = [len(record.probes) - 1 for record in made.records()]
        assert sum(kept) < sum(left_out)  # an untrained model answers some neighbours wrongly


def test_each_case_is_measured_once_for_all_tables(lm, monkeypatch):
    chosen, single = registry.task("religion"), RunSettings(**KNOWN)
    selector = QuestionSelector(lm, single)
    first = selector.select(chosen, single)
    monkeypatch.setattr(QuestionSelector, "_measure", lambda *_: pytest.fail("measured again"))
    batch = selector.select(chosen, RunSettings(**{**KNOWN, "batch_edits": 2}))
    assert batch.ids == first.ids[:4]
