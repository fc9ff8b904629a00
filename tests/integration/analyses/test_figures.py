"""Figures of sequential runs: correct numbers, deterministic output, and a one-line error for other runs."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from knbench.benchmark.commands.main import main
from knbench.benchmark.core.settings import DriftSettings, RunSettings
from knbench.benchmark.results.documents import load_result
from knbench.benchmark.results.figures import _draw_curve, _draw_drift, retention_figure
from knbench.editors.none import NoEdit

from tests.conftest import make_lm
from tests.files import run_folders as run
from tests.integration.running.test_regimes import Nudge
from tests.integration.running.test_runner import task

SETTINGS = RunSettings(batch_size=8, new_tokens=2, sequential=4, drift=DriftSettings(("perplexity",)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequential")
    run(make_lm("llama"), [NoEdit, Nudge], [task()], root, SETTINGS)
    return root


def results(folder):
    return [load_result(path) for path in sorted(folder.rglob("result.json"))]


def test_a_figure_is_valid_svg_and_deterministic(folder):
    first = retention_figure(results(folder))
    assert first == retention_figure(results(folder))
    root = ET.fromstring(first)
    assert root.tag.endswith("svg")
    words = {"".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")}
    assert {"Reliability", "Paraphrase", "Neighbourhood", "Perplexity", "none", "nudge", "edits"} <= words
    assert not re.search(r"<dc:date>|\d\d:\d\d:\d\d", first)


class Axis:
    """A fake axis that records what is drawn."""

    def __init__(self):
        self.lines, self.bands = [], []

    def plot(self, x, y, **_):
        self.lines.append((list(x), list(y)))

    def fill_between(self, x, low, high, **_):
        self.bands.append((list(x), list(low), list(high)))

    def __getattr__(self, name):
        return lambda *_, **__: None


def test_curves_show_the_results_in_percent(folder):
    (result,) = (r for r in results(folder) if r.editor.name == "nudge")
    axis = Axis()
    _draw_curve(axis, result, "reliability", "success", 0)
    at = [point.edits for point in result.curve]

    def values(when, key):
        rows = [row for point in result.curve for row in getattr(point, when)]
        return [100 * getattr(r, key) for r in rows if (r.criterion, r.measure) == ("reliability", "success")]

    assert any(values("now", "value"))
    assert axis.lines == [(at, values("now", "value")), (at, values("immediate", "value"))]


def test_perplexity_is_drawn_as_the_exponential_of_the_nll(folder):
    (result,) = (r for r in results(folder) if r.editor.name == "nudge")
    (task_,) = result.drift.tasks
    axis = Axis()
    _draw_drift(axis, result, "perplexity", 0)
    wanted = [task_.before, *(task_.before + point.difference for point in task_.points)]
    assert axis.lines[0][1] == pytest.approx([math.exp(value) for value in wanted])


def test_the_command_writes_the_figure(folder, tmp_path, capsys):
    main(["plot", str(folder), "--output", str(tmp_path / "sub/figure.svg")])
    assert ET.parse(tmp_path / "sub/figure.svg")
    assert "figure.svg" in capsys.readouterr().out


def test_single_edits_are_plotted_by_gain_and_preservation(tmp_path, capsys):
    run(make_lm("llama"), [NoEdit], [task()], tmp_path, replace(SETTINGS, sequential=None, drift=None))
    main(["plot", str(tmp_path), "--output", str(tmp_path / "figure.svg")])
    text = (tmp_path / "figure.svg").read_text()
    assert "Gain, %" in text
    assert "none (control)" in text
    main(["plot", str(tmp_path), "--output", str(tmp_path / "again.svg")])
    assert (tmp_path / "again.svg").read_text() == text


def test_sequential_and_single_edits_are_not_mixed_in_a_figure(tmp_path, capsys):
    for name, settings in (("a", SETTINGS), ("b", replace(SETTINGS, sequential=None, drift=None))):
        run(make_lm("llama"), [NoEdit], [task()], tmp_path / name, settings)
    with pytest.raises(SystemExit):
        main(["plot", str(tmp_path), "--output", str(tmp_path / "figure.svg")])
    assert "pass the folders of one regime" in capsys.readouterr().err
    assert not (tmp_path / "figure.svg").exists()
