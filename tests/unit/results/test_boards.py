"""Definitions of boards: reading, hostile files, and the comparison of results with a board."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import yaml
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.results.board_places import asked, places_of
from knbench.benchmark.results.boards import boards, find_board, load_board, read_boards
from knbench.benchmark.scoring.summary import result_from

from tests.conftest import called
from tests.factories import board, manifest, observation, probe, record

BOARD_FOLDER = Path(__file__).parents[3] / "leaderboard" / "boards"
RECORDS = [
    record(i, [probe("reliability", observation()), probe("neighbourhood", observation(), expect="unchanged")])
    for i in range(4)
]
BOARD = board({"capital": RECORDS})


def definition(**changed):
    """Return a definition that has not been measured."""
    protocol = {"split": "test", "known_only": True, "known_by": "success", "seed": 0, "bos": "auto"}
    document = {
        "name": "towns",
        "version": 1,
        "title": "Towns",
        "purpose": "For tests.",
        "models": ["toy-gpt2"],
        "protocol": {**protocol, "dtype": "float32", "new_tokens": 6},
        "tables": [table()],
    }
    return {**document, **changed}


def table(**changed):
    return {"regime": "single", "subset": "lite", "tasks": ["capital"], **changed}


def write(folder, document, name="towns-v1.yaml"):
    path = folder / name
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


# --- definitions -----------------------------------------------------------------------------------------------------


def test_the_definitions_of_this_package_are_measured_on_the_installed_tasks():
    tasks = registry.tasks()
    assert {path.stem for path in BOARD_FOLDER.glob("*.yaml")} == set(boards())
    for found in boards().values():
        for table in found.tables:
            for name in table.tasks:
                card = found.tasks[name]
                assert (card.version, card.content) == (tasks[name].version, tasks[name].content_hash()), found.label
                for model in found.model_names or ("any",):
                    questions = found.questions_of(table, model, name)
                    assert len(questions.ids) in (0, questions.cases)
                    assert questions.margin is None or questions.margin > 1e-4, "a decision that rounding can change"


def test_a_board_is_found_by_name_in_its_newest_version_and_by_version():
    known = {found.key: found for found in (BOARD, replace(BOARD, version=3), replace(BOARD, version=2))}
    assert find_board("towns", known).version == 3
    assert find_board("towns-v2", known).version == find_board("towns v2", known).version == 2
    with pytest.raises(KnbenchError, match="unknown board 'town'; did you mean 'towns'"):
        find_board("town", known)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("document", "flaw"),
    [
        (BOMB, "aliases are not allowed"),
        ("name: [" * 100_000, "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("name: towns\nname: rivers\n", "the key 'name' occurs twice"),
        ("- towns\n", "not a valid board"),
        ("", "not a valid board"),
        ("x: 1\n" * 300_000, "at most 1024 kB"),
        ('name: "a\u202eb"', "control or bidirectional character"),
        (definition(name="../../towns"), "at /name"),
        (definition(name="Towns"), "at /name"),
        (definition(name="t0wns"), "rename the file to t0wns-v1.yaml"),
        (definition(version=True), "at /version"),
        (definition(version=10**9), "at /version"),
        (definition(models=["../../model"]), "at /models"),
        (definition(models="any"), "needs known_only: false"),
        (definition(tables=[]), "at /tables"),
        (definition(extra=1), "'extra' was unexpected"),
        (definition(tables=[table(), table(subset="full")]), "two tables"),
        (definition(tables=[table(regime="batch")]), "edits is required exactly"),
        (
            definition(tables=[table(subset="full", limit=3)]),
            "limit needs subset lite",
        ),
        (
            definition(measured={"benchmark": "0.2", "models": [], "tasks": [], "questions": []}),
            "measured: 'toy-gpt2' is missing",
        ),
    ],
)
def test_a_hostile_or_faulty_definition_is_refused_in_one_line(tmp_path, document, flaw):
    with pytest.raises(KnbenchError, match=flaw) as caught:
        load_board(write(tmp_path, document))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_broken_definition_disables_itself_only_and_the_first_of_two_equal_names_counts(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, title in ((first, "First"), (second, "Second")):
        folder.mkdir()
        write(folder, definition(title=title))
    write(first, "name: [", "rivers-v1.yaml")
    found = read_boards([first, second])
    assert {key: value.title for key, value in found.items()} == {"towns-v1": "First"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "rivers-v1.yaml: not valid YAML" in lines[0]
    assert "board towns v1 is defined twice; the first definition is used" in lines[1]


# --- results on boards -----------------------------------------------------------------------------------------------


def place(records=RECORDS, change=lambda document: document, known=BOARD, **about):
    """Return the place of a result on a board, or None."""
    made = change(manifest(**{"cases": len(records), **about}))
    result = result_from(made, sorted(records, key=lambda r: r.index), "0" * 64)
    found = places_of(result, asked(sorted(records, key=lambda r: r.index)), {known.key: known})
    return found[0] if found else None


def model(**changed):
    return lambda made: msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, **changed))


def task(**changed):
    return lambda made: msgspec.structs.replace(made, task=msgspec.structs.replace(made.task, **changed))


def top(**changed):
    return lambda made: msgspec.structs.replace(made, **changed)


def changed_probe(record, **changed):
    return msgspec.structs.replace(record, probes=(replace(record.probes[0], **changed), *record.probes[1:]))


def test_an_honest_result_has_its_place_whatever_the_answers_are():
    assert place().exact
    other_answers = [
        msgspec.structs.replace(r, probes=tuple(replace(p, after=None) for p in r.probes)) for r in RECORDS
    ]
    assert place(other_answers).exact


def test_fluency_may_be_measured_in_addition():
    added = [
        msgspec.structs.replace(r, probes=(*r.probes, probe("fluency", None, kind="generation", rival="", target="")))
        for r in RECORDS
    ]
    assert place(added, fluency_tokens=100).exact


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        (model(weight_hash="1" * 64), "another weights of the model"),
        (model(tokenizer_hash="1" * 64), "another tokenizer of the model"),
        (model(config_hash="1" * 64), "another configuration of the model"),
        (model(revision="2"), "another revision of the model"),
        (model(dtype="bfloat16"), "data type: bfloat16, the board has float32"),
        (task(version=2), "version 2 of the task, the board has 1"),
        (task(content_hash="1" * 64), "other content of the task"),
        (top(seed=7), "seed: 7, the board has 0"),
        (top(benchmark_version="1.1"), "version 1.1 of the benchmark, the board has 0"),
    ],
)
def test_a_relabelled_model_task_or_seed_is_not_on_the_board(change, flaw):
    assert flaw in place(change=change).settings


@pytest.mark.parametrize(
    ("about", "flaw"),
    [
        ({"bos": "always"}, "BOS policy: always"),
        ({"bos_prepended": True}, "another use of the BOS token"),
        ({"split": "tune"}, "split: tune, the board has test"),
        ({"subset": "lite"}, "subset: lite, the board has full"),
        ({"limit": 4}, "limit: 4, the board has none"),
        ({"known_only": True, "known_by": "exact"}, "known only: yes, the board has no"),
        ({"new_tokens": 3}, "new tokens: 3, the board has 6"),
    ],
)
def test_another_protocol_is_not_on_the_board(about, flaw):
    assert flaw in place(**about).settings


def test_a_result_of_another_model_task_or_regime_has_no_place():
    assert place(change=model(name="n")) is None
    assert place(task="religion") is None
    assert place(regime="batch", batch_edits=2) is None


@pytest.mark.parametrize(
    ("records", "flaw"),
    [
        (RECORDS[:3], "case '3' of the board is missing"),
        ([*RECORDS, record(4, list(RECORDS[0].probes))], "case '4' is not on the board"),
        ([msgspec.structs.replace(r, index=3 - r.index) for r in RECORDS], "the cases are in another order"),
        ([*RECORDS[:3], changed_probe(RECORDS[3], prompt="q")], "other probes"),
        ([*RECORDS[:3], changed_probe(RECORDS[3], target="easy")], "other probes"),
        ([*RECORDS[:3], changed_probe(RECORDS[3], expect="unchanged")], "other probes"),
        ([*RECORDS[:3], changed_probe(RECORDS[3], aliases=("a", "b"))], "other probes"),
        ([*RECORDS[:3], msgspec.structs.replace(RECORDS[3], probes=RECORDS[3].probes[:1])], "other probes"),
        ([*RECORDS[:3], msgspec.structs.replace(RECORDS[3], further=(RECORDS[3].request,))], "other probes"),
        ([*RECORDS[:3], msgspec.structs.replace(RECORDS[3], probes=RECORDS[3].probes[::-1])], "other probes"),
        ([*RECORDS[:3], msgspec.structs.replace(RECORDS[3], probes=RECORDS[3].probes * 2)], "other probes"),
    ],
)
def test_other_cases_or_probes_are_named(records, flaw):
    found = place(records)
    assert not found.exact
    assert not found.settings
    assert flaw in found.questions


def test_cases_that_run_into_each_other_have_other_digests():
    """Texts are parts of a JSON value: moving a character from one to the next gives another digest."""
    one = changed_probe(RECORDS[0], prompt="ab", target="c")
    two = changed_probe(RECORDS[0], prompt="a", target="bc")
    assert asked([one]).digest != asked([two]).digest


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flaw"),
    [
        (["--seed", 1], "--seed contradicts board knbench-full v1, which has 0; omit it"),
        (["--known-only"], "--known-only contradicts board knbench-full v1, which has no; omit it"),
        (["--limit", 3], "--limit contradicts board knbench-full v1, which has none; omit it"),
        (["--subset", "lite"], "--subset contradicts board knbench-full v1, which has full; omit it"),
        (["--dtype", "bfloat16"], "--dtype contradicts board knbench-full v1, which has float32; omit it"),
        (["--data", "zsre=x"], "--data contradicts board knbench-full v1; omit it"),
        (["--batch-edits", 5], "--batch-edits 5: board knbench-full v1 has single edits"),
        (["--tasks", "towns"], "unknown task of table 'single' of board knbench-full v1 'towns'"),
    ],
)
def test_options_that_contradict_the_board_are_refused_before_a_model_is_loaded(capsys, options, flaw):
    status, _, err = called(capsys, "run", "--board", "knbench-full", "--editors", "none", *options)
    assert status == 2
    assert flaw in err
    assert err.count("\n") == 1


def test_a_run_needs_tasks_or_a_board(capsys):
    status, _, err = called(capsys, "run", "--editors", "none")
    assert status == 2
    assert "--tasks" in err
