"""The option --data: the sources of readers."""

from __future__ import annotations

import pytest
from knbench.benchmark.commands.options import chosen_tasks, read_data_sources
from knbench.benchmark.core.errors import KnbenchError

from tests.unit.tasks.readers.samples import COUNTERFACT, MEND, put


def test_each_reader_has_one_source(tmp_path):
    first, second = put(tmp_path / "a.json", [COUNTERFACT]), put(tmp_path / "b.json", [MEND])
    data = [f"counterfact={first}", f"zsre = {second}", f"counterfact={first}"]
    assert [task.name for task in chosen_tasks("counterfact,zsre", (), data)] == ["counterfact", "zsre"]
    assert read_data_sources(["pararel=a=b.json"], "capital, pararel:P36") == {"pararel": "a=b.json"}


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_data_sources(["zsre=~/a.json"], "zsre") == {"zsre": str(tmp_path / "a.json")}


@pytest.mark.parametrize(
    ("data", "tasks", "message"),
    [
        (["counterfact=A", "counterfact=B"], "counterfact", "counterfact already has the source 'A'"),
        (
            ["pararel=A", "zsre=C", "pararel=B"],
            "zsre,pararel:P36",
            "--data 'pararel=B': pararel already has the source",
        ),
        (["blimp=A", "blimp = B"], "blimp:wh_island", "give one source for each reader"),
        (["counterfact=A"], "capital", "no task of counterfact is selected; add counterfact to --tasks"),
        (["counterfact=A"], "all", "no task of counterfact is selected"),
        (["zsre=A"], "zsre-own", "no task of zsre is selected"),
        (["counterfact"], "counterfact", "expected READER=SOURCE"),
        (["counterfact= "], "counterfact", "expected READER=SOURCE"),
        (["counterfacts=A"], "counterfact", "did you mean 'counterfact'"),
        (["=A"], "counterfact", "unknown reader of published data ''"),
    ],
)
def test_sources_that_would_be_ignored_are_errors(data, tasks, message):
    with pytest.raises(KnbenchError) as error:
        read_data_sources(data, tasks)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
