"""Renders the site: static files with relative links, which work from disk, offline and under any path."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..benchmark.protocols import PROTOCOLS
from ..benchmark.results import CRITERIA, MEASURES, KnbenchError, Run, find_analyses, find_runs
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
    runs, analyses = find_runs(results), find_analyses(results)
    if output.exists() and not (output / MARKER).exists() and (not output.is_dir() or any(output.iterdir())):
        raise KnbenchError(f"'{output}' is not empty and no site of knbench; choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        fresh = Path(work) / "site"
        _render(runs, analyses, fresh, title)
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


def _render(runs: Sequence[Run], analyses: Sequence[Mapping[str, Any]], folder: Path, title: str) -> None:
    environment: Any = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(task_page=views.task_page, model_page=views.model_page)
    measures = [MEASURES[name] for name in views.BOARD_MEASURES]
    pages = {m.name: "index.html" if i == 0 else f"{m.name.replace('_', '-')}.html" for i, m in enumerate(measures)}
    shared: dict[str, Any] = {
        "title": title,
        "criteria": CRITERIA.values(),
        "composites": [(views.COMPOSITE_TITLES[n], views.COMPOSITE_NOTES[n]) for n in views.COMPOSITE_TITLES],
        "version": ", ".join(sorted({run.result["benchmark_version"] for run in runs})),
    }
    for measure in measures:
        shown = [board for board in views.boards(runs, measure.name) if board.columns]
        tabs = [(m.title, pages[m.name], m.name == measure.name) for m in measures]
        tables = [f"data/{views.slug(measure.name)}-{number}.csv" for number in range(1, len(shown) + 1)]
        page = environment.get_template("board.html").render(
            **shared, root="", measure=measure, boards=shown, tables=tables, tabs=tabs
        )
        _write(folder / pages[measure.name], page)
        for board, table in zip(shown, tables, strict=True):
            _write(folder / table, views.board_csv(board, measure.name))
    for name in sorted({run.result["editor"]["name"] for run in runs}):
        method = views.method_view(name, runs)
        page = environment.get_template("method.html").render(**shared, root="../", method=method, measures=measures)
        _write(folder / views.method_page(name), page)
        for file, svg in method["files"].items():
            _write(folder / file, svg)
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(views.task_page(run.result["task"]), []).append(run)
    for path, members in tasks.items():
        page = environment.get_template("task.html").render(**shared, root="../", view=views.task_view(members))
        _write(folder / path, page)
    models = {views.model_page(run.result["model"]): run.result["model"] for run in runs}
    models |= {views.model_page(document["model"]): document["model"] for document in analyses}
    for path, model in models.items():
        mine = [run for run in runs if views.model_page(run.result["model"]) == path]
        found = [document for document in analyses if views.model_page(document["model"]) == path]
        view = views.model_view(model, mine, found)
        _write(folder / path, environment.get_template("model.html").render(**shared, root="../", view=view))
        for file, svg in view["files"].items():
            _write(folder / file, svg)
        for section in view["sections"]:
            _write(folder / f"{path.removesuffix('.html')}-{section['command'].split()[-1]}.json", section["json"])
    about = environment.get_template("about.html").render(
        **shared, root="", measures=MEASURES.values(), protocols=PROTOCOLS.values()
    )
    _write(folder / "about.html", about)
    _write(folder / "style.css", files(__package__).joinpath("templates/style.css").read_text(encoding="utf-8"))
    _write(folder / MARKER, "Built by knbench; replaced as a whole by the next build.\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
