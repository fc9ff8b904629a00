"""The citation file names the current version."""

from __future__ import annotations

from pathlib import Path

import yaml
from knbench.benchmark.core.version import __version__

ROOT = Path(__file__).parents[2]


def test_the_citation_file_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # required by the format
    assert citation["version"] == __version__
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
