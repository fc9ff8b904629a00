"""``knbench edit`` on a tiny model in a folder."""

from __future__ import annotations

import io
import json

import pytest
from knbench.benchmark.api import text, trial
from knbench.benchmark.commands import progress
from knbench.benchmark.core.errors import KnbenchError

from tests.conftest import called

CAPITAL = ("--prompt", "The capital of {} is", "--subject", "Canada", "--new", "Rome")


@pytest.fixture
def edit(capsys, model_folder):
    """Return a function that runs the command on the tiny model and returns its status, stdout and stderr."""
    return lambda *arguments: called(capsys, "edit", "--model", model_folder, *arguments)


def test_two_editors_with_a_page_and_a_saved_model(edit, tmp_path, model_folder):
    page, saved = tmp_path / "page.html", tmp_path / "saved"
    status, out, err = edit(*CAPITAL, "--editors", "ft,none", "--ask", "{} <b>is</b>", "--html", page)
    assert status == 0, err
    assert out.startswith("The capital of Canada is -> Rome (instead of Ottawa)\ntiny, ")
    assert max(map(len, out.splitlines())) <= text.WIDTH
    rows = [line.split() for line in out.splitlines() if line.startswith(("ft ", "none "))]
    assert [row[0] for row in rows] == ["ft", "none"]
    assert "none    0 of 1  0 of 3   0 of 1      3 of 3     0.00" in out
    html = page.read_text(encoding="utf-8")
    assert "Canada &lt;b&gt;is&lt;/b&gt;" in html
    assert "<script" not in html
    status, out, err = edit(*CAPITAL, "--editors", "ft", "--save", saved, "--json")
    assert (status, json.loads(out)["edit"]["old"]) == (0, "Ottawa"), err
    assert (saved / "model.safetensors").exists()


def test_interactive_reads_questions_until_an_empty_line(edit, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("{} is in\n{} {}\nRome is\n\nnot asked\n"))
    status, out, err = edit(*CAPITAL, "--editors", "none", "--interactive", "--quiet")
    assert (status, "loading" in err) == (0, False), err
    assert out.endswith("\n")
    asked = [line for line in out.splitlines() if line.endswith("___")]
    assert asked[-3:] == ["  Canada is in ___", "  Canada Canada ___", "  Rome is ___"]
    assert "not asked" not in out


def test_an_edit_of_another_relation_says_that_only_own_questions_are_asked(edit, monkeypatch):
    """The edit is shown before it is computed, which may take minutes or fail."""

    def fail(*_):
        raise KnbenchError("no edit today")

    monkeypatch.setattr(trial.Trial, "attempt", fail)
    status, out, err = edit("--prompt", "Snow is", "--new", "black", "--editors", "none", "--quiet")
    assert (status, err) == (2, "knbench: no edit today\n")
    assert out.startswith("Snow is -> black\ntiny, ")
    assert "only your own questions (--ask) are asked." in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no edit is given; state one, for example --prompt 'The capital of {} is' --subject Canada --new Rome"),
        ((*CAPITAL, "--editors", "rmoe"), "unknown editor 'rmoe'; did you mean 'rome'?"),
        ((*CAPITAL[:4],), "the new answer of 'The capital of {} is' is missing"),
        ((*CAPITAL, "--old", "Rome"), "equals the old one"),
        (("--task", "captial", "--case", "CA"), "unknown task 'captial'; did you mean 'capital'?"),
        (("--task", "rivers", "--case", "x"), "knbench list tasks; for a task of your own, add --include-path FOLDER"),
        (("--task", "capital,religion", "--case", "CA"), "names 2 tasks; name one"),
        (("--task", "capital", "--case", "XX"), "task 'capital' has no case 'XX' among its 187 cases"),
        ((*CAPITAL, "--editors", "rome,ft", "--save", "x"), "--save saves one edited model; choose one of the editors"),
        ((*CAPITAL, "--editors", "in-context", "--save", "x"), "is a text before the prompt and cannot be saved"),
        ((*CAPITAL, "--save", "."), "the folder exists and is not empty"),
        ((*CAPITAL, "--html", "."), "--html '.' is a folder; name a file"),
        ((*CAPITAL, "--interactive", "--json"), "--interactive and --json exclude each other"),
        (
            (*CAPITAL, "--editor-args", "ft.layre=1", "--editors", "ft"),
            "unknown hyper-parameter of editor 'ft' 'layre'",
        ),
        (("--prompt", "Snow is", "--new", "black"), "editor 'rome' needs a subject: write {} in --prompt"),
        ((*CAPITAL, "--ask", " ", "--editors", "none"), "a question is empty"),
        ((*CAPITAL, "--model", "smollm2-135", "--editors", "none"), "unknown model 'smollm2-135'; did you mean"),
    ],
)
def test_a_wrong_command_prints_one_line(edit, arguments, message):
    status, out, err = edit(*arguments)
    lines = [line for line in err.strip().splitlines() if not line.startswith("knbench: loading")]
    assert (status, out, len(lines)) == (2, "", 1), err
    assert message in lines[0]


def test_lines_of_progress_name_the_stage_the_count_and_the_time_left():
    now = [0.0]
    reporter = progress.LineReporter(stream=io.StringIO(), clock=lambda: now[0])
    assert reporter.line() == "knbench: loading, 0 s so far"
    now[0] = 10.0
    reporter.begin(100)
    reporter.doing("rome on capital")
    assert reporter.line() == "knbench: rome on capital, 0 of 100 done, 10 s so far"
    now[0] = 130.0
    reporter.advance(25)
    assert reporter.line() == "knbench: rome on capital, 25 of 100 done, 2 min 10 s so far, about 6 min 0 s left"
    now[0] += 300.0
    assert reporter.line().endswith("7 min 10 s so far, about 1 min 0 s left")
    now[0] += 60.0
    assert reporter.line().endswith("8 min 10 s so far")
    with reporter.stage("reading", 3) as step:
        now[0] += 7.0
        step()
        assert "reading, 1 of 3, about 14 s for the rest, 25 of 100 done, 8 min 17 s so far" in reporter.line()
    assert "rome on capital" in reporter.line()


def test_lines_of_progress_come_at_intervals_while_nothing_advances():
    stream = io.StringIO()
    with progress.LineReporter(interval=0.01, stream=stream) as reporter:
        reporter.doing("editing")
        while stream.getvalue().count("\n") < 3:
            pass
    written = stream.getvalue()
    assert written.startswith("knbench: ")
    assert stream.getvalue() == written
