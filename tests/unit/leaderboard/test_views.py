"""Views of the site as values: traits, matrices, charts, navigation, facts, commands and needs of methods."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from knbench.benchmark.core.documents import CurvePoint, EditScore
from knbench.benchmark.core.records import EditRecord, SizeRecord
from knbench.benchmark.results.board_places import asked
from knbench.benchmark.results.boards import BoardTable
from knbench.benchmark.results.runs import Run
from knbench.benchmark.results.trust import Trust
from knbench.benchmark.scoring.edit_score import case_values, score
from knbench.benchmark.scoring.summary import result_from
from knbench.leaderboard.board_tables import scores_by_view, table_view
from knbench.leaderboard.cases import case_name, case_view
from knbench.leaderboard.cells import format_bytes, format_seconds
from knbench.leaderboard.charts import CONTOURS, cost_scatters, gain_scatter, method_chart
from knbench.leaderboard.columns import EDIT_SCORE_VIEW, VIEWS
from knbench.leaderboard.entries import EditSize, Entry, sections_of
from knbench.leaderboard.facts import MeasuredCases, facts_view
from knbench.leaderboard.matrices import edit_matrices, model_matrices
from knbench.leaderboard.navigation import navigation_of
from knbench.leaderboard.run_commands import result_command
from knbench.leaderboard.standings import needs_of, overview_standings
from knbench.leaderboard.traits import traits_of
from msgspec.structs import replace as changed

from tests.factories import board, failure, manifest, observation, probe, record

GOOD, BAD = observation(-1.0, -9.0), observation(-9.0, -1.0, generated="y")
KEPT, LOST = observation(-1.0, -9.0, kl=0.0), observation(-9.0, -1.0, kl=3.0)
CASES = 8
OWN = Trust("own run", 0, CASES)


def records_of(right, kept=CASES, size=None):
    """Return records of which the first ones are right, and the first ones keep a neighbour."""
    edit = EditRecord(parameters=("w",), parameters_touched=1, modules=(), prefix="", diagnostics={}, size=size)
    return [
        record(
            i,
            [
                probe("reliability", GOOD if i < right else BAD, before=BAD),
                probe("neighbourhood", KEPT if i < kept else LOST, before=KEPT, expect="unchanged", prompt="q"),
            ],
            edit=edit,
        )
        for i in range(CASES)
    ]


def entry(method, right=4, task="capital", model="m", kind="weights", curve=None, records=None, **protocol):
    records = records or records_of(right)
    made = manifest(method, task, "fact", cases=len(records), **protocol)
    made = changed(made, editor=changed(made.editor, kind=kind), model=changed(made.model, name=model))
    result = changed(result_from(made, records, "0" * 64), curve=curve)
    values = case_values(records, "fact")
    run = Run(Path(f"{method}-{task}-{model}-{made.protocol.regime}"), result)
    return Entry(run, {}, values, OWN, asked(records), size=EditSize.of(records))


def standings_of(*entries):
    (section,) = sections_of(entries)
    (found,) = overview_standings(section)
    return section, found


FIVE = [entry(name, right) for name, right in zip("abcde", (8, 6, 4, 2, 1), strict=True)]


def test_strengths_and_weaknesses_name_the_place_among_the_methods():
    _, found = standings_of(*FIVE, entry("none", 0, kind="control"))
    best, worst, middle = (traits_of(name, found) for name in "aec")
    assert best.strengths == [
        "Edit score: 100.0, place 1 of 5 (median 50.0)",
        "Gain on direct: 100.0, place 1 of 5 (median 50.0)",
    ]
    assert best.weaknesses == []  # all seconds are equal
    assert worst.weaknesses[0] == "Edit score: 12.5, place 5 of 5 (median 50.0)"
    assert (middle.strengths, middle.weaknesses) == ([], [])
    assert traits_of("none", found).strengths == ()
    assert traits_of("a", standings_of(*FIVE[:3])[1]).strengths == ()  # too few methods


def test_points_lie_at_gain_and_preservation_and_controls_are_marked():
    _, found = standings_of(
        entry("a", 8), entry("b", 4, records=records_of(4, kept=4)), entry("none", 0, kind="control")
    )
    chart = gain_scatter(found)
    by_name = {point.method: point for point in chart.points}
    (left, right), (bottom, top) = ((t[0].at, t[-1].at) for t in (chart.x_ticks, chart.y_ticks))
    assert (by_name["a"].x, by_name["a"].y) == (right, top)
    assert by_name["b"].x == pytest.approx((left + right) / 2, abs=0.1)
    assert by_name["b"].y == pytest.approx((bottom + top) / 2, abs=0.1)
    assert by_name["none"].kind == "control"
    assert by_name["b"].title == "b: edit score 25.0, gain 50.0, preservation 50.0"
    assert [contour.level for contour in chart.contours] == list(CONTOURS)
    labels = [point.label for point in chart.points if point.label]
    assert len(labels) == len(set(labels))
    assert gain_scatter(standings_of(entry("a"))[1]) is None


def test_costs_have_a_logarithmic_axis():
    (seconds,) = cost_scatters(standings_of(*FIVE)[1])
    assert (seconds.name, [tick.label for tick in seconds.x_ticks]) == ("seconds", ["1.0", "10"])
    assert len({point.x for point in seconds.points}) == 1  # all took equally long


def edit_score_of(value):
    return EditScore(value=value, low=None, high=None, gain=value, preservation=1.0, families={}, kept={},
                     without_headroom=(), cases=CASES)  # fmt: skip


def test_methods_across_numbers_of_edits_with_commands_for_empty_cells():
    curve = tuple(
        CurvePoint(edits=n, immediate=(), now=(), edit_score=edit_score_of(v)) for n, v in ((10, 0.5), (20, 0.25))
    )
    long = entry("rome", 2, curve=curve, regime="sequential", checkpoints=(10,))
    long = replace(
        long, run=replace(long.run, result=changed(long.result, protocol=changed(long.result.protocol, cases=20)))
    )
    sections = sections_of([entry("rome", 4), entry("memit", 8), long])
    (matrix,) = edit_matrices(sections, navigation_of(sections))
    assert matrix.columns == ["1 edit", "10 edits", "20 edits", "100 edits"]
    cells = dict(matrix.rows)
    assert [cell.value for cell in cells["rome"]] == [50.0, 50.0, 25.0, None]
    assert cells["rome"][1].note == "checkpoint of a sequence of 20 edits"
    assert [cell.value for cell in cells["memit"]] == [100.0, None, None, None]
    assert cells["memit"][2].note == "knbench run --model m --editors memit --tasks capital --sequential 20"
    assert [(gap.column, gap.methods) for gap in matrix.gaps] == [
        ("10 edits", ["memit"]),
        ("20 edits", ["memit"]),
        ("100 edits", ["memit", "rome"]),
    ]
    assert list(cells) == ["memit", "rome"]  # the best first
    assert method_chart(long.result).curves[0].points[-1][2] == "edit score, 20 edits: 25.0"


def test_methods_across_models_name_what_is_missing():
    sections = sections_of([entry("rome", 4), entry("memit", 8), entry("rome", 2, model="n")])
    (matrix,) = model_matrices(sections, navigation_of(sections))
    assert matrix.columns == ["m", "n"]
    assert {name: [cell.value for cell in cells] for name, cells in matrix.rows} == {
        "memit": [100.0, None],
        "rome": [50.0, 25.0],
    }
    assert [gap.command for gap in matrix.gaps] == ["knbench run --model n --editors memit --tasks capital"]


def test_a_board_names_its_missing_model():
    known = board({"capital": records_of(0)}, model_names=("m", "absent"))
    sections = sections_of([entry("rome"), entry("memit")], {known.key: known})
    (matrix,) = model_matrices(sections, navigation_of(sections))
    assert matrix.columns == ["m", "absent"]
    assert matrix.gaps[0].command == "knbench run --board towns-v1 --model absent --editors memit,rome"
    batch = BoardTable("batch", 20, "lite", None, ("capital",))
    both = sections_of([entry("rome")], {known.key: replace(known, tables=(*known.tables, batch))})
    assert navigation_of(both).sections[0].title == "towns v1 \N{MIDDLE DOT} m \N{MIDDLE DOT} single edits"


def test_menus_contain_every_table_once_and_mark_the_current_one():
    sections = sections_of([entry("rome"), entry("rome", task="religion"), entry("rome", split="all")])
    navigation = navigation_of(sections)
    paths = {navigation.path(s.key, t.name, v) for s in navigation.sections for t in s.tables for v in VIEWS}
    assert len(paths) == (3 + 1) * len(VIEWS)
    first = navigation.sections[0]
    menus = {menu.label: menu for menu in navigation.menus(first.key, "capital-v1", "exact")}
    assert set(menus) == {"Regime", "Task", "Measure"}  # one model and one kind leave no choice
    assert menus["Measure"].current == "exact"
    assert menus["Task"].current == "T"
    assert [title for title, _, _ in menus["Task"].items] == ["All tasks", "T", "T"]
    assert {path for menu in menus.values() for _, path, _ in menu.items} <= paths
    assert navigation.path(first.key) == "index.html"


@pytest.mark.parametrize(
    ("editor", "needs"),
    [
        ({"kind": None}, None),  # a result of version 0.1
        ({"kind": "weights"}, ()),
        ({"kind": "weights", "needs_subject": True, "replays": True}, ("subject", "replay")),
        ({"kind": "memory", "trains": True}, ("training",)),
    ],
)
def test_needs_are_unknown_in_results_that_do_not_state_them(editor, needs):
    assert needs_of(changed(manifest().editor, **editor)) == needs


def test_sizes_are_columns_that_are_hidden_at_first():
    size = SizeRecord(weights=4_000_000, memory=1000, state=0, entries=2, recall=500)
    section, found = standings_of(entry("a", records=records_of(4, size=size)), entry("b"))
    shown = table_view(found, EDIT_SCORE_VIEW, scores_by_view(section, found))
    cells = {
        row.standing.method: {c.name: cell and cell.text for c, cell in zip(shown.columns, row.cells, strict=True)}
        for row in shown.rows
    }
    assert [cells["a"][name] for name in ("changed", "memory", "facts_kept")] == ["4.0 MB", "1.5 kB", "2"]
    assert cells["b"]["changed"] is None  # an earlier result
    assert [c.shown for c in shown.columns if c.name in ("edit_score", "seconds", "changed")] == [True, True, False]


def test_a_command_repeats_the_protocol():
    made = manifest("rome", regime="sequential", cases=20, subset="lite", known_only=True, known_by="exact")
    command = result_command(result_from(made, records_of(1), "0" * 64), ["capital", "religion"])
    assert command == (
        "knbench run --model m --editors rome --tasks capital,religion --sequential 20 --subset lite --known-only "
        "--known-by exact"
    )
    assert result_command(result_from(made, records_of(1), "0" * 64), ["a;b"]).count("'a;b'") == 1


def measured(method, right, records=None):
    records = records or records_of(right)
    made = manifest(method, cases=len(records))
    found = score(case_values(records, "fact"))
    result = result_from(made, records, "0" * 64)
    return MeasuredCases(method, "weights", result, float(found.value), [case_view(r) for r in records])


def test_a_fact_groups_equal_answers_and_orders_methods_by_their_score():
    failed = records_of(0)
    failed[0] = record(0, [replace(p, after=None) for p in failed[0].probes], failure("OutOfMemory"))
    view = facts_view([measured("none", 0), measured("rome", 8), measured("memit", 8), measured("broken", 0, failed)])
    assert len(view.facts) == CASES
    first = view.facts[0]
    assert [row.method for row in first.rows][:2] == ["memit", "rome"]
    assert (first.previous, view.facts[1].previous, view.facts[-1].following) == ("", first.path, "")
    (reliability, _) = first.probes
    assert reliability.before == "y"
    assert [(answer.text, answer.passed, [name for name, _ in answer.methods]) for answer in reliability.answers] == [
        ("x", True, ["memit", "rome"]),
        ("not measured", None, ["broken"]),
        ("y", False, ["none"]),
    ]
    assert dict(reliability.answers[0].methods)["rome"] == ".368"
    assert next(row.failure for row in first.rows if row.method == "broken") == "edit: OutOfMemory: m"
    assert [row.counts for row in first.rows if row.method == "rome"] == [[(1, 1), (1, 1)]]


def test_the_name_of_a_case_depends_on_its_questions_alone():
    one, other = records_of(0)[3], records_of(8)[3]
    assert case_name(one) == case_name(other)
    assert case_name(one) != case_name(records_of(0)[2])
    asked_else = changed(one, probes=(replace(one.probes[0], prompt="another"), one.probes[1]))
    assert case_name(one) != case_name(asked_else)
    hostile = changed(one, request=changed(one.request, subject="../<b>" * 30))
    assert len(case_name(hostile)) < 50
    assert not set(case_name(hostile)) & set("/<>")


def test_quantities_have_short_texts():
    assert [format_bytes(n) for n in (0, 999, 1000, 9_960_000, 3e12)] == ["0 B", "999 B", "1.0 kB", "10 MB", "3.0 TB"]
    assert [format_seconds(s) for s in (0.0, 1.0, 9.96, 600)] == ["0", "1.0", "10", "600"]
