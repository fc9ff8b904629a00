"""Pages of findings: blocks that are computed from stored records, against numbers computed by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import msgspec
import pytest
from knbench.benchmark.core.files import write_json
from knbench.benchmark.core.records import to_json
from knbench.benchmark.core.version import __version__
from knbench.benchmark.results.io import lines_text
from knbench.benchmark.results.rescoring import score_files

from tests.factories import failure, manifest, observation, probe, record
from tools.findings.__main__ import MODEL, main
from tools.findings.pages import UnknownBlockError, filled

ROOT = Path(__file__).resolve().parents[3]
CASES = 4
SAID = {"edits": 4, "half": 2, "none": 0}
"""Number of cases in which the model says the new answer after the edit."""
KL = {"edits": math.log(2), "half": 0.0, "none": 0.0}
"""Divergence of the neighbours."""


def case(editor, index):
    after = observation(-1.0, -9.0, generated="x" if index < SAID[editor] else "z")
    kept = observation(-1.0, -9.0, kl=KL[editor])
    probes = [
        probe("reliability", after, before=observation(-9.0, -1.0, generated="y")),
        probe("paraphrase", after, before=observation(-9.0, -1.0, generated="y")),
        probe("neighbourhood", kept, before=observation(-1.0, -9.0), expect="unchanged"),
    ]
    failed = failure() if editor == "half" and index == CASES - 1 else None
    return record(index, [p if failed is None else dataclasses.replace(p, after=None) for p in probes], failed)


@pytest.fixture
def runs(tmp_path):
    for editor in SAID:
        folder = tmp_path / "runs" / editor
        folder.mkdir(parents=True)
        about = manifest(editor, cases=CASES)
        about = msgspec.structs.replace(
            about, benchmark_version=__version__, model=msgspec.structs.replace(about.model, name=MODEL)
        )
        write_json(folder / "manifest.json", to_json(about))
        (folder / "records.jsonl").write_text(lines_text([case(editor, i) for i in range(CASES)]))
        write_json(folder / "result.json", to_json(score_files(about, lambda name, at=folder: at / name)))
    return tmp_path / "runs"


@pytest.fixture
def cells(runs, tmp_path):
    """Return a function that computes a block, and returns the cells of its table by method and column."""

    def block(name):
        page = tmp_path / "docs" / "page.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"# Page\n\n<!-- begin {name} -->\nold\n<!-- end -->\n\nProse.\n")
        assert main([str(runs), "--docs", str(page.parent)]) == 0
        text = page.read_text()
        assert text.startswith(f"# Page\n\n<!-- begin {name} -->\n")
        assert text.endswith("<!-- end -->\n\nProse.\n")
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
        if not rows:
            return {}
        named = next(n for n, title in enumerate(rows[0]) if title in ("method", "tasks", "variant", "criterion"))
        return {row[named].strip("`"): dict(zip(rows[0], row, strict=True)) for row in rows[2:]}

    return block


def test_scores_and_their_parts(cells):
    found = cells("gains kind=fact")
    assert list(found) == ["edits", "half", "none"]
    assert {m: (row["gain"], row["preservation"]) for m, row in found.items()} == {
        "edits": ("100", "50"), "half": ("50", "100"), "none": ("0", "100"),
    }  # fmt: skip
    assert [row["edit score"].split()[0] for row in found.values()] == ["50", "50", "0"]
    assert found["edits"]["neighbourhood"] == "50"
    literature = cells("literature kind=fact")
    assert [row["S"].split()[0] for row in literature.values()][:1] == ["100"]
    overview = cells(f"overview model={MODEL}")
    assert overview["edits"]["single: facts"] == found["edits"]["edit score"]


def test_variants_pairs_failures_and_cost(cells):
    found = cells("sensitivity kind=fact")
    assert found["without integrity"]["Spearman"] == "1.00"
    assert cells("power")["facts"]["pairs told apart"] == "1 of 3"  # two of four cases are not enough
    computed = cells("compute")
    assert {m: row["failed"] for m, row in computed.items()} == {
        "edits": "0", "half": "1 ValueError", "none": "0", "all": "1"
    }  # fmt: skip
    assert computed["all"]["cases"] == "12"
    assert cells(f"cost model={MODEL}")["edits"]["seconds per edit"] == "2.50"  # the median of 1, 2, 3 and 4


def test_one_case_is_worked_through(cells):
    found = cells("worked task=capital methods=edits,none")
    assert {name: row["`edits`"] for name, row in found.items()} == {
        "reliability": "0.00 to 1.00", "paraphrase": "0.00 to 1.00", "neighbourhood (kept)": "0.50",
        "**gain**": "1.00", "**preservation**": "0.50", "**edit score**": "50",
    }  # fmt: skip
    assert found["**edit score**"]["`none`"] == "0"


def test_blocks_without_results_say_so_and_unknown_ones_are_named(cells, runs, tmp_path):
    assert cells("sequence model=m edits=100 task=capital") == {}
    page = tmp_path / "docs" / "page.md"
    assert "*No stored results yet.*" in page.read_text()
    assert main([str(runs), "--docs", str(page.parent), "--check"]) == 0
    page.write_text(page.read_text().replace("*No", "*Not"))
    assert main([str(runs), "--docs", str(page.parent), "--check"]) == 1
    assert "*Not" in page.read_text()
    for name in ("nothing", "gains", "gains kind=other", "gains kind=fact colour=red"):
        with pytest.raises(UnknownBlockError, match=f"page: block '{name}'"):
            filled(f"<!-- begin {name} -->\n<!-- end -->", {"gains": lambda kind: {"fact": "x"}[kind]}, Path("page"))


def test_pages_are_those_of_the_stored_results(capsys):
    """Figures are compared by eye: their coordinates may differ in the last digit between processors."""
    main([str(ROOT / "results"), "--docs", str(ROOT / "docs"), "--check"])
    changed = [line for line in capsys.readouterr().err.splitlines() if line.endswith(".md")]
    assert changed == [], "run: make findings"
