"""Attacks on boards through results: each result stays below the ranks or off the board, and changes no other row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from knbench.benchmark.results.board_places import asked
from knbench.benchmark.results.runs import Run
from knbench.benchmark.results.trust import Trust
from knbench.benchmark.scoring.edit_score import case_values
from knbench.benchmark.scoring.summary import result_from
from knbench.leaderboard.entries import Entry, sections_of
from knbench.leaderboard.standings import overview_standings

from tests.factories import board, failure, manifest, observation, probe, record

GOOD, BAD = observation(-1.0, -9.0), observation(-9.0, -1.0, generated="y")
KEPT = observation(-1.0, -9.0, kl=0.0)
CASES = 8
VERIFIED = Trust("spot-checked", 3, CASES)
CLAIMED = Trust("self-reported", 0, CASES)


def records_of(right):
    """Return records of which the first ones are right."""
    return [
        record(
            i,
            [
                probe("reliability", GOOD if i < right else BAD, before=BAD),
                probe("neighbourhood", KEPT, before=KEPT, expect="unchanged"),
            ],
        )
        for i in range(CASES)
    ]


TASKS = ("capital", "religion")
BOARD = board(dict.fromkeys(TASKS, records_of(0)))
ANY = board(
    dict.fromkeys(TASKS, records_of(0)),
    any_model=True,
    model_names=(),
    models={},
    questions={("single", "any", task): asked(records_of(0)) for task in TASKS},
)


def entry(method, task="capital", records=None, trust=VERIFIED, about=lambda made: made, **protocol):
    records = records if records is not None else records_of(2)
    made = about(manifest(method, task, "fact", cases=len(records), **protocol))
    result = result_from(made, records, "0" * 64)
    values = case_values(records, "fact")
    name = f"{method}-{task}-{made.seed}"
    return Entry(Run(Path(name), result, "stem"), {}, values, trust, asked(records))


def honest():
    """Return the results of two verified methods on all tasks of the board."""
    return [entry(m, task, records_of(right)) for task in TASKS for m, right in (("none", 0), ("rome", 6))]


def rows(entries, known=BOARD, **options):
    """Return the rows of the front page by method, and the sections."""
    sections = sections_of(entries, {known.key: known}, **options)
    (found,) = overview_standings(sections[0])
    return {row.method: row for row in found.rows}, sections


def ranks(entries, **options):
    return {name: row.rank for name, row in rows(entries, **options)[0].items()}


HONEST = {"rome": "1", "none": "2"}


def editor(**changed):
    return lambda made: msgspec.structs.replace(made, editor=msgspec.structs.replace(made.editor, **changed))


def model(**changed):
    return lambda made: msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, **changed))


def seed(number):
    return lambda made: msgspec.structs.replace(made, seed=number)


def test_honest_rows_are_ranked():
    assert ranks(honest()) == HONEST


def test_a_missing_task_never_averages_away():
    found, _ = rows([*honest(), entry("best", records=records_of(CASES))])
    assert (found["best"].rank, found["best"].unranked) == ("", "1 of 2 tasks")
    assert {name: row.rank for name, row in found.items() if name != "best"} == HONEST


def test_rows_with_fewer_tasks_stand_below_those_with_more():
    """The mean over one task and the mean over two cannot be compared."""
    perfect = [entry("made-up", task, records_of(CASES), CLAIMED) for task in TASKS]
    found, _ = rows([entry("best", records=records_of(CASES)), *perfect, *honest()])
    assert list(found) == [*HONEST, "made-up", "best"]


def test_a_task_that_nobody_ran_leaves_every_row_unranked():
    found, _ = rows([entry("rome"), entry("none")])
    assert {row.unranked for row in found.values()} == {"1 of 2 tasks"}


def test_made_up_records_with_the_probes_of_the_board_stay_below_the_ranks():
    perfect = [entry("made-up", task, records_of(CASES), CLAIMED) for task in TASKS]
    found, _ = rows([*perfect, *honest()])
    assert (found["made-up"].rank, found["made-up"].unranked) == ("", "self-reported")
    assert [*found][-1] == "made-up"
    assert {name: row.rank for name, row in found.items() if name != "made-up"} == HONEST


@pytest.mark.parametrize(
    ("about", "protocol"),
    [
        (seed(1), {}),
        (model(dtype="bfloat16"), {}),
        (model(weight_hash="1" * 64), {}),
        (model(tokenizer_hash="1" * 64), {}),
        (lambda made: made, {"bos": "always"}),
        (lambda made: made, {"bos_prepended": True}),
        (lambda made: made, {"limit": CASES}),
    ],
)
def test_relabelled_results_of_a_verified_method_have_their_own_section_without_ranks(about, protocol):
    other = [entry("best", task, records_of(CASES), about=about, **protocol) for task in TASKS]
    found, sections = rows([*other, *honest()])
    assert {name: row.rank for name, row in found.items()} == HONEST
    (alone,) = [section for section in sections if section.board is None]
    assert alone.reasons[0].startswith("towns v1: ")
    (table,) = overview_standings(alone)
    assert [(row.rank, row.unranked) for row in table.rows] in ([("", "no board")], [("", "limited")])


def test_a_case_that_is_said_to_be_unreadable_does_not_leave_the_scores():
    """Cases without observations count nowhere: a method must not drop those that it gets wrong."""

    def dropped(number):
        return [
            r
            if r.index < number
            else msgspec.structs.replace(
                r,
                probes=tuple(probe(p.criterion, None, before=None, expect=p.expect) for p in r.probes),
                failure=failure(phase="tokenise"),
            )
            for r in records_of(number)
        ]

    cheat = [entry("cheat", task, dropped(4)) for task in TASKS]
    for known in (BOARD, ANY):
        found, _ = rows([*cheat, *honest()], known=known)
        assert {name: row.rank for name, row in found.items() if name != "cheat"} == HONEST
        assert "observations" in found["cheat"].unranked


def test_a_self_reported_control_raises_no_alarm():
    claimed = [entry("destroyed", task, records_of(CASES), CLAIMED, editor(kind="control")) for task in TASKS]
    for entries in ([*honest(), *claimed], [*claimed, *honest()]):
        sections = sections_of(entries, {BOARD.key: BOARD})
        (table,) = overview_standings(sections[0])
        assert table.violations == []


def test_two_results_of_one_place_are_reported_and_stop_nothing():
    again = entry("rome", "capital", records_of(CASES), CLAIMED)
    errors = []
    found, _ = rows([again, *honest()], on_broken=errors.append)
    assert {name: row.rank for name, row in found.items()} == HONEST  # the verified one counts
    assert ["two results of editor 'rome' on task 'capital'" in str(error) for error in errors] == [True]


def test_many_self_reported_results_do_not_change_the_front_page():
    other = board({"capital": records_of(0)}, name="easy", benchmark="0", tables=BOARD.tables[:0])
    crowd = [entry(f"m{i}", "capital", trust=CLAIMED, about=seed(1)) for i in range(30)]
    sections = sections_of([*crowd, *honest()], {BOARD.key: BOARD, other.key: other})
    assert sections[0].board is BOARD
    assert len(sections) == 2


def test_sections_of_a_board_of_any_model_never_mix_models_or_tokenizations():
    changes = (lambda made: made, model(name="n"), model(weight_hash="1" * 64), model(tokenizer_hash="1" * 64))
    entries = [entry("rome", about=about) for about in changes] + [entry("rome", bos_prepended=True)]
    sections = sections_of(entries, {ANY.key: ANY})
    assert len({section.key for section in sections}) == len(entries) == len(sections)
    assert all(section.board is ANY for section in sections)


def test_a_long_case_id_is_shortened_in_the_reason():
    strange = [*records_of(2)[:-1], msgspec.structs.replace(records_of(2)[-1], case_id="<b>" * 300)]
    found, _ = rows([*honest(), *(entry("odd", task, strange) for task in TASKS)])
    assert len(found["odd"].unranked) < 100


def test_names_that_run_into_each_other_have_sections_of_their_own():
    def named(name, model_name):
        models = {model_name: replace(BOARD.models["m"], name=model_name)}
        questions = {(table, model_name, task): found for (table, _, task), found in BOARD.questions.items()}
        return replace(BOARD, name=name, models=models, model_names=(model_name,), questions=questions)

    first, second = named("b", "m-v1-x"), named("b-v1-m", "x")
    entries = [entry("rome", about=model(name=name)) for name in ("m-v1-x", "x")]
    sections = sections_of(entries, {found.key: found for found in (first, second)})
    assert {section.key for section in sections} == {"b-v1.m-v1-x.single", "b-v1-m-v1.x.single"}
