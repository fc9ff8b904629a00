"""Renders the site: static files with relative links, which work from disk, offline and under any path."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..benchmark.results import CRITERIA, MEASURES, KnbenchError, Run, find_runs
from . import views

MARKER = "knbench-site"
"""A file that says that a folder is a site of ours, which may be replaced."""


def build_site(results: Sequence[Path], output: Path, *, title: str = "KNBench") -> Path:
    """Render the results below some folders.

    The site is built aside and then put in place, so that a failure leaves the old one as it was.

    Returns:
        The path of the front page.

    Raises:
        KnbenchError: a result is missing or broken, or ``output`` is a folder that is no site.
    """
    runs = find_runs(results)
    if output.exists() and not (output / MARKER).exists() and (not output.is_dir() or any(output.iterdir())):
        raise KnbenchError(f"'{output}' is not empty and no site of knbench; choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        fresh = Path(work) / "site"
        _render(runs, fresh, title)
        fresh.chmod(0o755)
        _replace(fresh, output, Path(work) / "old")
    return output / "index.html"


def _replace(fresh: Path, output: Path, aside: Path) -> None:
    if output.exists():
        output.rename(aside)
    try:
        fresh.rename(output)
    except OSError:
        if aside.exists():
            aside.rename(output)
        raise


def _render(runs: Sequence[Run], folder: Path, title: str) -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measures = [MEASURES[name] for name in views.BOARD_MEASURES]
    pages = {m.name: "index.html" if i == 0 else f"{m.name.replace('_', '-')}.html" for i, m in enumerate(measures)}
    shared: dict[str, Any] = {
        "title": title,
        "criteria": CRITERIA.values(),
        "composites": [(views.COMPOSITE_TITLES[n], views.COMPOSITE_NOTES[n]) for n in views.COMPOSITE_TITLES],
        "version": ", ".join(sorted({run.result["benchmark_version"] for run in runs})),
    }
    for measure in measures:
        shown = views.boards(runs, measure.name)
        tabs = [(m.title, pages[m.name], m.name == measure.name) for m in measures]
        page = environment.get_template("board.html").render(
            **shared, root="", measure=measure, boards=[b for b in shown if b.columns], tabs=tabs
        )
        _write(folder / pages[measure.name], page)
    for name in sorted({run.result["editor"]["name"] for run in runs}):
        page = environment.get_template("method.html").render(
            **shared, root="../", method=views.method_view(name, runs), measures=measures
        )
        _write(folder / views.method_page(name), page)
    _write(folder / "style.css", files(__package__).joinpath("templates/style.css").read_text(encoding="utf-8"))
    _write(folder / MARKER, "Built by knbench; replaced as a whole by the next build.\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
