"""Computes the tables and figures of the findings: ``python -m tools.findings results``.

Pages below ``docs`` contain blocks that are replaced, see :mod:`.pages`; the text around them is kept. With
``--check``, nothing is written, and the exit status tells whether a page or a figure would change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from knbench.benchmark.core.files import write_text
from knbench.benchmark.results.score_figure import ScorePoint, score_figure

from .pages import BLOCK, filled
from .regimes import Regimes
from .scores import SingleEdits
from .store import Results, Setting, load_results

MODEL = "smollm2-135m"
PROTECTORS = "rome,memit,memit-seq,alphaedit,blue,encore,locft,ultraedit,crispedit"
"""Methods of the figure of sequences."""


def blocks(results: dict[Setting, Results]) -> dict[str, Callable[..., str]]:
    """Return the functions that blocks can name, each a method of :class:`SingleEdits` or :class:`Regimes`.

    Blocks about single edits take ``model``, the default model otherwise.
    """
    regimes = Regimes(results)

    def single(name: str) -> Callable[..., str]:
        def block(model: str = MODEL, **arguments: str) -> str:
            text: str = getattr(SingleEdits(results, model), name)(**arguments)
            return text

        return block

    names = ("gains", "literature", "constant", "sensitivity", "criteria", "family", "power", "worked")
    found: dict[str, Callable[..., str]] = {name: single(name) for name in names}
    return found | {name: getattr(regimes, name) for name in ("overview", "sequence", "cost", "compute")}


def figures(results: dict[Setting, Results]) -> dict[str, str]:
    """Return the figures of the findings as SVG by file name."""
    found = {}
    for kind, name in (("fact", "facts"), ("linguistic", "phenomena")):
        single = results.get(Setting(MODEL))
        rows = single.scored(kind) if single else {}
        if rows:
            found[f"gain-{name}.svg"] = score_figure([ScorePoint.of(row) for row in rows.values()])
    retention = Regimes(results).retention(MODEL, 100, "capital", PROTECTORS)
    if retention is not None:
        found["retention.svg"] = retention
    return found


def main(argv: list[str] | None = None) -> int:
    """Fill the pages, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.findings", description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, help="folder of results: a store or run folders")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the pages")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something would change")
    options = parser.parse_args(argv)
    results = load_results(options.results)
    available = blocks(results)
    new: dict[Path, str] = {options.docs / "findings" / name: text for name, text in figures(results).items()}
    for page in sorted(options.docs.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if BLOCK.search(text):
            new[page] = filled(text, available, page)
    changed = [path for path, text in new.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        print(path, file=sys.stderr)
        if not options.check:
            write_text(path, new[path])
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
