"""The public names of ``knbench.benchmark``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import knbench.benchmark
import pytest
from knbench.benchmark.core.errors import KnbenchError

ROOT = Path(__file__).parents[2]


def test_every_public_name_can_be_imported():
    for name in knbench.benchmark.__all__:
        assert getattr(knbench.benchmark, name) is not None
    assert set(knbench.benchmark.__all__) <= set(dir(knbench.benchmark))


def test_public_names_are_the_originals():
    from knbench.benchmark.core.schema import EditRequest
    from knbench.benchmark.editing import Editor

    assert knbench.benchmark.EditRequest is EditRequest
    assert knbench.benchmark.Editor is Editor


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'knbench\.benchmark' has no attribute 'nothing'"):
        knbench.benchmark.nothing  # noqa: B018


@pytest.mark.parametrize(
    "statement", ["import knbench.benchmark", "from knbench.benchmark import Case, Task, load_model, load_results"]
)
def test_importing_the_package_does_not_import_torch(statement):
    code = f"import sys\n{statement}\nsys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_that_of_the_project():
    assert f'version = "{knbench.benchmark.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_load_results_reads_stored_results():
    runs = knbench.benchmark.load_results(ROOT / "results" / "none", str(ROOT / "results" / "rome"))
    assert {run.result.editor.name for run in runs} == {"none", "rome"}


def test_load_results_names_a_missing_folder(tmp_path):
    with pytest.raises(KnbenchError, match="nowhere"):
        knbench.benchmark.load_results(tmp_path / "nowhere")
