"""A method whose settings differ between tasks is shown and not ranked."""

from __future__ import annotations

import re

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.leaderboard.build import build_site

from tests.integration.results.test_submission import write_run


def board_text(tmp_path, *configs, editor="rome"):
    """Return the text of the front page for one method with the given configuration on each task."""
    for number, config in enumerate(configs):
        write_run(tmp_path / "runs", editor=editor, task=f"task-{number}", config=config)
        write_run(tmp_path / "runs", editor="other", task=f"task-{number}", config={"layer": 1})
    page = build_site([tmp_path / "runs"], tmp_path / "site").read_text()
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


@pytest.mark.parametrize(
    ("configs", "keys"),
    [
        (({"layer": 3}, {"layer": 7}), "layer"),
        (({"layer": 3, "steps": 5}, {"layer": 3}), "steps"),
        (({"layers": [1, 2]}, {"layers": [1, 3]}, {"layers": [1, 2]}), "layers"),
        (({"a": 1, "b": 2.0}, {"a": 2, "b": 3.0}), "a, b"),
    ],
)
def test_a_method_that_is_tuned_per_task_is_not_ranked(tmp_path, configs, keys):
    assert f"settings differ between tasks: {keys}" in board_text(tmp_path, *configs)


def test_equal_settings_are_ranked(tmp_path):
    assert "settings differ" not in board_text(tmp_path, {"layer": 3, "steps": 5}, {"steps": 5, "layer": 3})


def test_two_settings_on_one_task_are_refused_with_their_difference(tmp_path):
    write_run(tmp_path / "a", config={"layer": 3})
    write_run(tmp_path / "b", config={"layer": 7})
    with pytest.raises(KnbenchError, match=r"two results of editor 'rome'.*\(layer: 3 and 7\).*pass only one"):
        build_site([tmp_path / "a", tmp_path / "b"], tmp_path / "site")
