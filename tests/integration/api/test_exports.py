"""Results in the formats of other tools, read back by these tools where they are installed."""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
from pathlib import Path

import jsonschema
import pytest
from knbench.benchmark import load_results
from knbench.benchmark.api.exports import export, push_to_hub
from knbench.benchmark.core.errors import KnbenchError

from tests.conftest import called

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def results():
    """Stored results of two editors, several tasks and regimes."""
    return load_results(ROOT / "results" / "rome")


def test_parquet_holds_the_rows_of_the_records(results, tmp_path):
    from pyarrow import parquet

    (path,) = export(results, "parquet", tmp_path / "new" / "rows.parquet")
    assert parquet.read_table(path).to_pylist() == results.records()


def test_lm_eval_prints_its_table_of_the_results(results, tmp_path):
    from lm_eval.utils import make_table

    paths = export(results, "lm-eval", tmp_path)
    assert {path.parent.name for path in paths} == {f"{run.result.model.name}+rome" for run in results}
    documents = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    for run in results:
        document = documents[f"{run.result.model.name}+rome"]
        rows = [row for name, row in document["results"].items() if name.startswith(run.result.task.name)]
        scores = [row["edit_score,none"] for row in rows if "edit_score,none" in row]  # not of version 0.1
        assert run.result.edit_score is None or run.result.edit_score.value in scores
        success = next(row for row in run.result.summary if (row.criterion, row.measure) == ("reliability", "success"))
        assert success.value in [row["reliability_success,none"] for row in rows]
    for document in documents.values():
        assert "reliability_success" in make_table(document)


def test_every_eval_ever_accepts_the_documents(results, tmp_path):
    paths = export(results, "every-eval-ever", tmp_path)
    assert len(paths) == len(results)
    document = json.loads(paths[0].read_text(encoding="utf-8"))
    first = results[0].result
    values = {
        row["metric_config"]["metric_name"]: row["score_details"]["score"] for row in document["evaluation_results"]
    }
    assert values == {
        **({} if first.edit_score is None else {"edit_score": first.edit_score.value}),
        **{f"{row.criterion}_{row.measure}": row.value for row in first.summary},
    }
    if importlib.util.find_spec("every_eval_ever") is None:
        pytest.skip("needs the package every-eval-ever, which needs Python 3.12, for its schema")
    schema = importlib.resources.files("every_eval_ever").joinpath("schemas/eval.schema.json").read_text("utf-8")
    for path in paths:
        jsonschema.Draft7Validator(json.loads(schema)).validate(json.loads(path.read_text(encoding="utf-8")))


class StandIn:
    """Stands in for a data set of the package ``datasets``."""

    def __init__(self, rows):
        self.rows, self.pushed = rows, None

    def push_to_hub(self, repository, *, private):
        if repository == "me/refused":
            raise PermissionError("403 Forbidden\nmore")
        self.pushed = (repository, private)


def test_rows_are_pushed_as_a_data_set(results):
    made = []

    def make(rows):
        made.append(StandIn(rows))
        return made[-1]

    assert push_to_hub(results, "me/edits", dataset=make) == "https://huggingface.co/datasets/me/edits"
    assert (made[0].pushed, made[0].rows) == (("me/edits", True), results.records())
    with pytest.raises(KnbenchError, match=r"--push-to-hub 'me/refused': 403 Forbidden; log in with"):
        push_to_hub(results, "me/refused", dataset=make)
    with pytest.raises(KnbenchError, match="expected NAME/DATASET"):
        push_to_hub(results, "edits", dataset=make)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "parquet"), "--format and --output belong together"),
        ((), "nothing to do; give --format and --output, or --push-to-hub"),
        (("--push-to-hub", "x"), "expected NAME/DATASET"),
    ],
)
def test_a_wrong_command_prints_one_line(capsys, arguments, message):
    status, out, err = called(capsys, "export", ROOT / "results" / "none", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
