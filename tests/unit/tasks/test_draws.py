"""Draws from the rows of fact tasks: against the definition for small tables, and the time for large ones."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import digest
from knbench.tasks.definition import load_definition
from knbench.tasks.draws import SORTED_ROWS, FactDraws, new_targets

DEFINITION = """
name: people
version: 1
kind: fact
title: People
description: d
relation: r
licence: CC0-1.0
source: s
citation: c
facts:
  data: [people.csv]
  id: id
  subject: who
  object: town
  new: { seed: 1 }
  edit: "{} lives in"
  probes:
    symmetry: ["{town} is the home of"]
    neighbourhood: { templates: ["{who} lives in"], count: 4, same_object: SAME }
    unrelated: { templates: ["{who} works as"], answer: job }
"""
LARGE = SORTED_ROWS + 1


def make_rows(count, towns):
    return [
        {"id": f"{i}", "who": f"Person {i}.", "town": f"Town {i % towns}.", "job": f"job {i % 7}"} for i in range(count)
    ]


def make_spec(*, same=False, count=3):
    neighbourhood = {"templates": ["{who} lives in"], "count": count, "same_object": same}
    probes = {"neighbourhood": neighbourhood, "unrelated": {"answer": "job"}}
    return {"id": "id", "subject": "who", "object": "town", "new": {"seed": 1}, "probes": probes}


def count_calls(action):
    """Return the number of calls of functions, of Python and of C, that an action makes."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("same", [False, True])
def test_small_tables_are_drawn_from_by_the_digests_of_all_pairs(same):
    rows, spec = make_rows(40, 5), make_spec(same=same)
    draws = FactDraws(spec, rows)
    for row in rows:
        new = "Town 0." if row["town"] != "Town 0." else "Town 1."
        candidates = [
            o for o in rows if o is not row and o["town"] != new and (o["town"] == row["town"]) == same
        ]  # fmt: skip
        nearest = sorted(candidates, key=lambda o, row=row: digest([row["id"], o["id"]]))[:3]
        assert draws.neighbours(row, new) == nearest
        jobs = {o["job"] for o in rows} - {row["job"]}
        assert draws.rival(row, "job") == min(jobs, key=lambda job, row=row: digest([row["id"], job]))


@pytest.mark.parametrize("towns", [9, LARGE])
@pytest.mark.parametrize("same", [False, True])
def test_large_tables_give_as_many_and_as_suitable_rows(same, towns):
    rows, spec = make_rows(LARGE, towns), make_spec(same=same)
    draws, targets = FactDraws(spec, rows), new_targets(spec, rows)
    for row in rows:
        new = targets[row["id"]]
        assert new != row["town"]
        others = draws.neighbours(row, new)
        assert len({o["id"] for o in others}) == (0 if same and towns == LARGE else 3)
        for other in others:
            assert other["id"] != row["id"]
            assert other["town"] != new
            assert (other["town"] == row["town"]) == same
        assert draws.rival(row, "job") not in (row["job"], None)
    uses = Counter(targets.values())
    assert len(uses) == towns
    assert max(uses.values()) - min(uses.values()) <= 4
    assert new_targets(spec, rows[::-1]) == targets
    reversed_draws = FactDraws(spec, rows[::-1])
    assert all(reversed_draws.neighbours(row, "") == draws.neighbours(row, "") for row in rows[::50])


@pytest.mark.parametrize("count", [3, LARGE])
def test_a_table_with_one_object_has_no_new_target(count):
    rows = make_rows(count, 1)
    with pytest.raises(KnbenchError, match=r"id '\d+' has no other object to change 'Town 0.' to; add rows"):
        new_targets(make_spec(), rows)
    assert FactDraws(make_spec(), rows).neighbours(rows[0], "") == []


@pytest.mark.parametrize("same", ["false", "true"])
@pytest.mark.parametrize("share", [1, 50])
def test_the_work_for_a_large_table_is_proportional_to_its_rows(tmp_path, same, share):
    """The number of function calls grows by the factor of the rows, not by its square (which is 6.25)."""
    calls = []
    for number in (800, 2000):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "people.yaml").write_text(DEFINITION.replace("SAME", same))
        rows = make_rows(number, number // share)
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (folder / "people.csv").write_text("\n".join(lines) + "\n")
        task = load_definition(folder / "people.yaml")
        calls.append(count_calls(lambda task=task: len(task.cases)))
        assert len(task.cases) == number
    assert calls[1] / calls[0] < 3.2


@pytest.mark.long
@pytest.mark.slow
def test_ten_thousand_rows_load_in_seconds(tmp_path):
    import time

    (tmp_path / "people.yaml").write_text(DEFINITION.replace("SAME", "false"))
    rows = make_rows(10_000, 10_000)
    (tmp_path / "people.csv").write_text("\n".join([",".join(rows[0]), *(",".join(r.values()) for r in rows)]) + "\n")
    start = time.perf_counter()
    assert len(load_definition(tmp_path / "people.yaml").cases) == 10_000
    assert time.perf_counter() - start < 60  # it took over half an hour with the digests of all pairs
