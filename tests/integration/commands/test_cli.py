"""The command line, run on a tiny model in a folder."""

from __future__ import annotations

import doctest
import errno
import json
import shutil
from importlib.metadata import EntryPoint

import pytest
from knbench.benchmark.commands import options, terminal
from knbench.benchmark.core import registry
from knbench.benchmark.results import io as results

from tests.conftest import knbench


@pytest.fixture
def error_line(capsys):
    """Return a function that runs a failing command and returns its single line on stderr."""

    def run(*arguments, status=2, stdout=""):
        capsys.readouterr()
        assert knbench(*arguments) == status
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert captured.out.startswith(stdout)
        assert bool(captured.out) == bool(stdout)
        assert "Traceback" not in lines[0]
        return lines[0]

    return run


@pytest.fixture(scope="module")
def finished(model_folder, tmp_path_factory):
    """Return a run folder with two editors on two tasks."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["--editors", "none,ft", "--tasks", "capital,det-noun-agreement", "--limit", "2", "--batch-size", "64"]
    assert knbench("run", "--model", model_folder, *arguments, "--output", folder) == 0
    return folder


def test_listing_and_describing(capsys):
    for arguments in (["list", "editors"], ["list", "tasks"], ["list", "models"], ["describe", "capital"]):
        assert knbench(*arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out)
        assert knbench(*arguments) == 0
        assert capsys.readouterr().out


def test_describe_prints_hyperparameters_with_help_and_published_values(capsys):
    assert knbench("describe", "rome", "--json") == 0
    description = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in description["hyper_parameters"]}
    assert rows["layer"]["default"] == "set per model"
    assert (rows["steps"]["default"], rows["steps"]["type"]) == (20, "int")
    published = {row["model"]: row for row in description["published"]}
    gpt_j = published["gpt-j-6b"]
    assert gpt_j["source"].startswith("Meng et al. 2022")
    assert (gpt_j["values"]["layer"], gpt_j["values"]["mom2_adjustment"]) == (5, True)
    assert knbench("describe", "rome") == 0
    out = capsys.readouterr().out
    for text in ("mom2_adjustment", "int | None", "none", "Learning rate of Adam.", "gpt-j-6b", "layer 5, steps 20"):
        assert text in out


def test_brackets_in_text_are_not_markup(capsys):
    from knbench.benchmark.commands.terminal import print_card, print_table

    print_table("t", ["prompt"], [["Ottawa is in [MASK]."]])
    print_card({"prompt": "[bold] is [MASK]", "rows": [{"a": "1"}, {"a": "2", "b": "[x]"}]})
    out = capsys.readouterr().out
    assert "Ottawa is in [MASK]." in out
    assert "prompt: [bold] is [MASK]" in out
    assert "[x]" in out


@pytest.mark.parametrize("module", [options, terminal])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_help_has_examples(capsys):
    for arguments in (["--help"], ["run", "--help"], ["score", "--help"], ["site", "build", "--help"]):
        assert knbench(*arguments) == 0
        assert "Examples:" in capsys.readouterr().out


def test_a_run_writes_results_and_prints_a_table(finished, capsys):
    names = {p.relative_to(finished).as_posix() for p in finished.rglob("*.json*")}
    assert names == {
        f"{editor}/{task}/{name}"
        for editor in ("none", "ft")
        for task in ("capital", "det-noun-agreement")
        for name in ("manifest.json", "records.jsonl", "result.json")
    } | {"events.jsonl"}
    assert knbench("score", finished) == 0
    out = capsys.readouterr().out
    assert "capital" in out
    assert "edit score" in out
    assert knbench("score", finished, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 4


def test_scoring_again_gives_the_same_bytes(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    for path in copy.rglob("result.json"):
        path.unlink()
    assert knbench("score", copy) == 0
    for path in finished.rglob("result.json"):
        assert (copy / path.relative_to(finished)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (["list", "editor"], "did you mean 'editors'?"),
        (["describe", "captial"], "did you mean 'capital'?"),
        (["run", "--editors", "rmoe", "--tasks", "capital"], "unknown editor 'rmoe'; did you mean 'rome'?"),
        (["run", "--tasks", "det-noun-agreemnt"], "did you mean 'det-noun-agreement'?"),
        (["run", "--tasks", "capital", "--model", "smolm2-135m"], "did you mean 'smollm2-135m'?"),
        (["run", "--tasks", "capital", "--model", "./nowhere"], "model folder './nowhere' does not exist"),
        (["run", "--taks", "capital"], "No such option"),
        (["run"], "Missing option '--tasks'"),
        (["run", "--tasks", "capital", "--limit", "0"], "'--limit'"),
        (["run", "--tasks", "capital", "--split", "train"], "'train' is not one of 'test', 'tune', 'all'"),
        (["run", "--tasks", ","], "no task named"),
        (["run", "--tasks", "capital", "--device", "cuda:7"], "device 'cuda:7' is not available"),
        (["run", "--tasks", "capital", "--editor-args", "rome.layr=7"], "did you mean 'layer'?"),
        (["run", "--tasks", "capital", "--editor-args", "rome.layer=x"], "expected a whole number"),
        (["run", "--tasks", "capital", "--editor-args", "layer=7"], "expected EDITOR.FIELD=VALUE"),
        (["run", "--tasks", "capital", "--editor-args", "ft.layer=7"], "editor 'ft' is not selected"),
        (["score", "nowhere"], "no manifest.json below nowhere"),
        (["site", "build", "nowhere"], "results folder 'nowhere' does not exist"),
    ],
)
def test_errors_are_one_line_with_the_nearest_valid_name(error_line, tmp_path, monkeypatch, arguments, part):
    monkeypatch.chdir(tmp_path)
    assert part in error_line(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_missing_module_of_a_plug_in_is_not_reported_as_an_extra(error_line, monkeypatch):
    point = EntryPoint(name="mine", value="module_that_does_not_exist:command", group=registry.COMMANDS)
    monkeypatch.setattr(registry, "registered", lambda _: {"mine": point})
    line = error_line("mine")
    assert "plug-in 'mine' (module_that_does_not_exist:command) cannot be imported" in line
    assert "knbench[" not in line


def test_a_plug_in_that_imports_a_package_of_an_extra_names_the_extra(error_line, monkeypatch, tmp_path):
    (tmp_path / "plug_in_with_ray.py").write_text("raise ModuleNotFoundError('No module named ray', name='ray')\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint(name="mine", value="plug_in_with_ray:command", group=registry.COMMANDS)
    monkeypatch.setattr(registry, "registered", lambda _: {"mine": point})
    message = "'knbench mine' needs ray, which is not installed; install it with: pip install 'knbench[ray]'"
    assert error_line("mine", "--json") == f"knbench: {message}"


def test_invalid_model_folders_are_refused(error_line, model_folder, tmp_path, monkeypatch):
    def attempt(folder):
        return error_line("run", "--tasks", "capital", "--model", folder, "--output", tmp_path / "out")

    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is not a model folder: it has no config.json" in attempt(empty)
    bare = shutil.copytree(model_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert "no *.safetensors file" in attempt(bare)
    (bare / "pytorch_model.bin").write_bytes(b"pickle")
    assert "only pickled weights" in attempt(bare)
    strange = shutil.copytree(model_folder, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "architectures": ["XGLMForCausalLM"]}))
    assert "no model family for architecture 'XGLMForCausalLM'" in attempt(strange)
    (strange / "config.json").write_text("{")
    assert "cannot load model 'strange'" in attempt(strange)
    cut = shutil.copytree(model_folder, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"'{weights}' is cut" in attempt(cut)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_run_is_refused(error_line, finished, model_folder, monkeypatch):
    monkeypatch.setattr("knbench.benchmark.commands.terminal.ProgressReporter", _Silent)
    line = error_line(
        "run", "--model", model_folder, "--editors", "ft", "--tasks", "capital", "--limit", "1", "--output", finished
    )
    assert "holds another run" in line
    assert "choose another --output" in line


def test_tampered_and_broken_results_are_reported(error_line, finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    path = copy / "ft/capital/result.json"
    good = path.read_text()
    result = json.loads(good)
    result["summary"][0]["value"] = 0.999
    path.write_text(json.dumps(result))
    assert "ft/capital/result.json: /summary/0/value differs from the value computed from the records" in error_line(
        "score", copy
    )
    site = tmp_path / "site"
    assert knbench("site", "build", finished, "--output", site) == 0
    result_page = "results/ft/*/capital-*.html"
    assert list(site.glob(result_page))
    for broken, part in [
        (good[:-40], "not valid JSON"),
        (good.replace('"schema_version": 1', '"schema_version": 9'), "schema version 9 is newer"),
        (good.replace('"seed": 0', '"seed": "zero"'), "at /seed: 'zero' is not of type 'integer'"),
    ]:
        path.write_text(broken)
        line = error_line("site", "build", copy, "--output", site, stdout="Site: ")
        assert part in line
        assert "ft/capital/result.json" in line
        assert not list(site.glob(result_page))
        assert "methods/ft.html" in (site / "index.html").read_text()  # its other result is valid
    path.write_text(good)
    records = copy / "ft/capital/records.jsonl"
    records.write_text(records.read_text().replace("-1", "-2", 1))
    assert "changed since it was scored" in error_line("site", "build", copy, "--output", site, stdout="Site: ")
    assert not list(site.glob(result_page))
    front = (site / "index.html").read_bytes()
    assert "no readable result.json below" in error_line("site", "build", _only_broken(tmp_path), "--output", site)
    assert (site / "index.html").read_bytes() == front
    records.write_text(records.read_text().splitlines()[0] + "\n")
    assert "1 of 2 cases" in error_line("score", copy)


def _only_broken(folder):
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text("{")
    return folder / "broken"


def test_a_full_disk_is_one_line_and_the_run_can_continue(error_line, model_folder, tmp_path, monkeypatch):
    arguments = ["run", "--model", model_folder, "--editors", "none", "--tasks", "capital", "--limit", "3"]
    out = tmp_path / "out"
    append, calls = results.JsonLinesFile.append, []

    def full(self, record):
        calls.append(record)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        append(self, record)

    monkeypatch.setattr(results.JsonLinesFile, "append", full)
    with monkeypatch.context() as quiet:
        quiet.setattr("knbench.benchmark.commands.terminal.ProgressReporter", _Silent)
        assert "records.jsonl: no space left on the disk" in error_line(*arguments, "--output", out)
    assert not list(out.rglob("result.json"))
    assert knbench(*arguments, "--output", out) == 0
    assert len(calls) == 2 + 2


def test_ctrl_c_is_one_line_and_says_how_to_continue(error_line, model_folder, tmp_path, monkeypatch):
    def stop(self, record):
        raise KeyboardInterrupt

    monkeypatch.setattr(results.JsonLinesFile, "append", stop)
    monkeypatch.setattr("knbench.benchmark.commands.terminal.ProgressReporter", _Silent)
    arguments = ["run", "--model", model_folder, "--editors", "none", "--tasks", "capital", "--limit", "3"]
    line = error_line(*arguments, "--output", tmp_path / "out", status=130)
    assert "start the same command to continue" in line


class _Silent:
    """Replaces the progress bar, which prints to stderr."""

    def __enter__(self):
        from knbench.benchmark.core.progress import Reporter

        return Reporter()

    def __exit__(self, *exc):
        return None


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "nowhere"],
        ["run", "--model", "./nowhere", "--tasks", "capital", "--output", "x"],
        ["describe", "nothing"],
    ],
)
def test_debug_prints_the_traceback(arguments, error_line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = error_line(*arguments)
    assert knbench("--debug", *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == line
    assert lines[0].startswith("Traceback") or "During handling" in "\n".join(lines)
