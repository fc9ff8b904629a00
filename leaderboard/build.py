"""Renders the site: static files with relative links, which work from disk, offline and under any path."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.files import many_objects
from ..benchmark.results.documents import Broken, find_documents, refuse
from ..benchmark.results.figures import retention_figure
from ..benchmark.results.io import ANALYSIS
from ..benchmark.results.runs import Run, find_runs
from ..benchmark.results.store import BADGES, REPORTED, badges_of, read_status, slug
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.protocols import PROTOCOLS
from ..benchmark.scoring.summary import case_table, in_order
from . import boards, bundle, entries, pages, plots
from .cards import card_html, cards_in
from .cases import case_view
from .entries import Entry, Section

MANY_RESULTS = 24
"""From so many results on, starting more processes pays."""
MARKER = "knbench-site"
"""A file that says that a folder is a site of ours, which may be replaced."""
FIGURE_NOTES = {
    "tradeoff": (
        "What quality costs",
        "Edit quality is the harmonic mean of reliability, paraphrase, symmetry and synonym, as far as there are any. "
        "Up and to the right is good; the line is the Pareto front, the methods that no other beats in both.",
    ),
    "profile": ("All criteria side by side", "Means over the tasks that have the criterion, in percent."),
    "retention": (
        "What becomes of the edits",
        "Solid, with 95% bands: all edits so far, measured again after so many. Dashed: each right after it was made.",
    ),
}


def build_site(results: Sequence[Path], output: Path, *, title: str = "KNBench", broken: Broken = refuse) -> Path:
    """Render the results below some folders.

    The site is built aside and then put in place, so that a failure leaves the old one as it was.

    Args:
        results: the folders.
        output: where the site comes; a site that is there is replaced.
        title: its heading.
        broken: told of each result, card or analysis that cannot be shown; where it does not raise, the site is built
            without.

    Returns:
        The path of the front page.

    Raises:
        KnbenchError: there is no result, two are of one row, or ``output`` is a folder that is no site.
    """
    runs = find_runs(results, broken)
    if output.exists() and not (output / MARKER).exists() and (not output.is_dir() or any(output.iterdir())):
        raise KnbenchError(f"'{output}' is not empty and no site of knbench; choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        fresh = Path(work) / "site"
        with many_objects():
            _Site(fresh, title, results, broken).render(runs)
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


@dataclass
class _Extremes:
    """The best and the worst cases of one method, seen one result after the other."""

    kept: list[dict[str, Any]] = field(default_factory=list)

    def add(self, cases: Sequence[dict[str, Any]]) -> None:
        """Take more cases, and keep those at either end."""
        found = self.kept + list(cases)
        best = heapq.nlargest(pages.EXTREMES, found, key=lambda case: case["score"])
        worst = heapq.nsmallest(pages.EXTREMES, found, key=lambda case: case["score"])
        self.kept = [*best, *(case for case in worst if case not in best)]


Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``each(function, items)``: a map, whose results come in the order of the items."""


@contextmanager
def _workers(results: int) -> Iterator[Each]:
    """``with _workers(n) as each``: a map over all cores where there is much to do."""
    if results < MANY_RESULTS:
        yield map
        return
    with ProcessPoolExecutor() as pool:

        def each(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
            everything = list(items)
            return pool.map(function, everything, chunksize=max(1, len(everything) // 100))

        yield each


class _Site:
    """One site in the making.

    Args:
        folder: where it is written.
        title: its heading.
        results: the folders that it is made from.
        broken: told of what cannot be shown.
    """

    def __init__(self, folder: Path, title: str, results: Sequence[Path], broken: Broken) -> None:
        self.folder, self.title, self.broken = folder, title, broken
        self.analyses = find_documents(results, ANALYSIS, broken)
        self.cards = cards_in(results, broken)
        self.reported = find_documents(results, REPORTED, broken)
        self.status = read_status(results)
        self.version = ""
        self.has_pairs = False
        self.front = ""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process makes for itself."""
        return {key: value for key, value in self.__dict__.items() if key not in ("environment", "broken")}

    @cached_property
    def environment(self) -> Any:
        """The templates, and what all of them may use."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader(__package__, "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            title=self.title,
            version=self.version,
            has_pairs=self.has_pairs,
            criteria=CRITERIA.values(),
            composites=[(boards.SCORES[name], note) for name, note in boards.SCORE_NOTES.items()],
            has_reported=bool(self.reported),
            badge_notes=BADGES,
            board_page=self.board_page,
            task_page=pages.task_page,
            model_page=pages.model_page,
            method_page=pages.method_page,
            pair_page=pages.pair_page,
        )
        return environment

    def render(self, runs: Sequence[Run]) -> None:
        """Write all pages."""
        self.version = ", ".join(sorted({run.result["benchmark_version"] for run in runs}))
        methods: dict[str, set[str]] = {}
        for run in runs:
            methods.setdefault(entries.section_key(run.result), set()).add(run.result["editor"]["name"])
        self.has_pairs = any(len(found) > 1 for found in methods.values())
        extremes: dict[str, _Extremes] = {}
        examples: dict[tuple[str, int], dict[str, Any]] = {}
        found = []
        with _workers(len(runs)) as each:
            for shown in each(self.entry_or_flaw, runs):
                if isinstance(shown, KnbenchError):
                    self.broken(shown)
                    continue
                entry, best_and_worst, example = shown
                extremes.setdefault(entry.method, _Extremes()).add(best_and_worst)
                examples.setdefault(entry.task, example)
                found.append(entry)
            if not found:
                raise KnbenchError("no result can be shown")
            sections = entries.sections_of(found)
            self.front = sections[0].key
            list(each(partial(self.boards_by, sections), entries.BOARD_MEASURES))
            self.pair_pages(sections, each)
            self.model_pages(sections, each)
        self.method_pages(sections, extremes)
        for task, example in sorted(examples.items()):
            view = pages.task_view(task, sections, example)
            self.page(pages.task_page(view["task"]), "task.html", view=view)
        if self.reported:
            self.page("reported.html", "reported.html", documents=self.reported)
        changes = (files("knbench.benchmark") / "changes.md").read_text(encoding="utf-8")
        self.page(
            "about.html", "about.html",
            measures=MEASURES.values(), protocols=PROTOCOLS.values(), changes=card_html(changes),
        )  # fmt: skip
        for name in ("style.css", "board.js", "cases.js"):
            self.write(name, (files(__package__) / "templates" / name).read_text(encoding="utf-8"))
        self.write("tables.js", bundle.table_script())
        self.write("tables.css", bundle.table_style())
        self.write(MARKER, "Built by knbench; replaced as a whole by the next build.\n")

    # --- parts -----------------------------------------------------------------------------------------------------

    def entry_or_flaw(self, run: Run) -> tuple[Entry, list[dict[str, Any]], dict[str, Any]] | KnbenchError:
        """Return what :meth:`entry` does, or why the result cannot be shown."""
        try:
            return self.entry(run)
        except KnbenchError as error:
            return error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # it fits the schema and makes no sense
            return KnbenchError(f"{run.where}: cannot be shown ({type(error).__name__}: {error})")

    def entry(self, run: Run) -> tuple[Entry, list[dict[str, Any]], dict[str, Any]]:
        """Read a result's records once and write its page with all cases.

        Returns:
            Its cases' numbers, its best and worst cases, and one of them whole as an example of the task.
        """
        records = in_order(run.final_records())
        table = case_table(records, entries.BOARD_MEASURES)
        entry = Entry(run, entries.values_of(records, table), badges_of(run, self.status))
        cases = [case_view(record) for record in records]
        alone = Section(entries.section_key(entry.result), {entry.task: {entry.method: entry}})
        path = pages.entry_page(alone.key, entry)
        view = pages.entry_view(entry.result, path.removesuffix(".html"))
        self.page(path, "result.html", r=view, cases=cases, notes=entries.notes_of(alone), badges=entry.badges)
        for file, svg in view["files"].items():
            self.write(file, svg)
        brief = ("anchor", "edit", "new", "true", "failure", "marks", "score")
        extremes = _Extremes()
        extremes.add([{**{k: c[k] for k in brief}, "page": path} for c in cases if c["score"] is not None])
        return entry, extremes.kept, cases[0]

    def board_page(self, section: Section, task: Mapping[str, Any] | None = None, measure: str = "") -> str:
        """Return the site's path of a board: a section's overview, or one task of it."""
        first = entries.BOARD_MEASURES[0]
        alone = len(section.entries) == 1  # its only task is its overview
        name = boards.task_slug((task["name"], task["version"])) if task and not alone else ""
        if section.key == self.front and not name:
            return "index.html" if measure in ("", first) else f"{slug(measure.replace('_', '-'))}.html"
        return f"boards/{section.key}/{slug('-'.join(filter(None, [name or 'overview', measure or first])))}.html"

    def boards_by(self, sections: Sequence[Section], name: str) -> None:
        """Write every section's overview and its tasks' boards in one measure."""
        measure = MEASURES[name]
        for section in sections:
            tasks = section.tasks()
            self._board(section, sections, None, measure, boards.boards_of(section, name))
            for task in tasks if len(tasks) > 1 else ():
                board = boards.task_board(section, name, task)
                self._board(section, sections, self._about(section, task), measure, [board] if board.columns else [])

    def _about(self, section: Section, task: tuple[str, int]) -> Mapping[str, Any]:
        about: Mapping[str, Any] = next(iter(section.entries[task].values())).result["task"]
        return about

    def _board(
        self,
        section: Section,
        sections: Sequence[Section],
        task: Mapping[str, Any] | None,
        measure: Any,
        tables: Sequence[boards.Board],
    ) -> None:
        path = self.board_page(section, task, measure.name)
        root = "../" * path.count("/")
        names = [f"data/{section.key}/{slug(f'{board.name}-{measure.name}')}" for board in tables]
        for board, name in zip(tables, names, strict=True):
            self.write(f"{name}.csv", boards.board_csv(board, section, measure.name))
            self.write(f"{name}.json", boards.board_json(board, section, measure.name))
        every = [self._about(section, t) for t in section.tasks()]
        task_tabs = [("All", root + self.board_page(section, None, measure.name), task is None)]
        if len(every) > 1:
            task_tabs += [(t["title"], root + self.board_page(section, t, measure.name), t is task) for t in every]
        self.page(
            path, "board.html",
            section=section, notes=entries.notes_of(section), measure=measure, boards=tables, files=names,
            single=task is not None, task_page_of=pages.task_page(task) if task else "",
            section_tabs=[
                (self._section_title(s, sections), root + self.board_page(s, None, measure.name), s.key == section.key)
                for s in sections
            ],
            measure_tabs=[
                (MEASURES[name].title, root + self.board_page(section, task, name), name == measure.name)
                for name in entries.BOARD_MEASURES
            ],
            task_tabs=task_tabs,
            figures=[] if not tables else [
                *([] if task else self._figures(section, tables, measure)),
                *(self._retention(section, tables[-1], every[0] if len(every) == 1 else task, measure)),
            ],
        )  # fmt: skip

    @staticmethod
    def _section_title(section: Section, sections: Sequence[Section]) -> str:
        """Return a section's name: its model, with how it was taken where several have the model."""
        alike = [s for s in sections if s.model["name"] == section.model["name"]]
        notes = [set(entries.notes_of(s)) for s in alike]
        own = [note for note in entries.notes_of(section) if not all(note in found for found in notes)]
        return " · ".join([section.model["name"], *own])

    def _figures(
        self, section: Section, tables: Sequence[boards.Board], measure: Any
    ) -> Iterator[tuple[str, str, str]]:
        """Write and yield the figures of an overview: of everything together where there is more than one kind."""
        if not measure.share:
            return
        drift = {
            name: value for name in section.methods if (value := pages.perplexity_drift(section.of(name))) is not None
        }
        figures = {"tradeoff": plots.tradeoff_figure(tables[-1], drift), "profile": plots.profile_figure(tables[-1])}
        for name, svg in figures.items():
            if svg:
                path = f"figures/{section.key}-{slug(measure.name)}-{name}.svg"
                self.write(path, svg)
                yield (*FIGURE_NOTES[name], path)

    def _retention(
        self, section: Section, table: boards.Board, task: Mapping[str, Any] | None, measure: Any
    ) -> Iterator[tuple[str, str, str]]:
        """Write and yield what becomes of sequential edits on a task, which stands on the overview of a lone task.

        Methods come in the table's order, as in the other figures, and so have the same colours.
        """
        if not measure.share or task is None:
            return
        members = section.entries[task["name"], task["version"]]
        found = [members[line.method].result for line in table.lines if line.method in members]
        results = [result for result in found if "curve" in result]
        if results:
            name = boards.task_slug((task["name"], task["version"]))
            path = f"figures/{section.key}-{name}-{slug(measure.name)}-retention.svg"
            self.write(path, retention_figure(results[: plots.MOST], measure.name))
            yield (*FIGURE_NOTES["retention"], path)

    def method_pages(self, sections: Sequence[Section], extremes: Mapping[str, _Extremes]) -> None:
        """Write every method's page, also of those that only papers tell of."""
        names = {name for section in sections for name in section.methods}
        names |= {document["method"] for document in self.reported}
        for name in sorted(names):
            cases = extremes[name].kept if name in extremes else []
            told = [document for document in self.reported if document["method"] == name]
            view = pages.method_view(name, sections, cases, self.cards.get(slug(name), ""), told)
            self.page(pages.method_page(name), "method.html", view=view)

    def pair_pages(self, sections: Sequence[Section], each: Each) -> None:
        """Write the pages that compare two methods, and the one that leads to them."""
        overview = []
        for section in sections:
            names = section.methods[: pages.MOST_COMPARED]
            ahead = {(a, b): 0 for a in names for b in names}
            pairs = pages.pairs_of(section)
            for found in each(self.pair, [section.only(pair) for pair in pairs]):
                for winner, loser in found:
                    ahead[winner, loser] += 1
            if len(names) > 1:
                left = len(section.methods) - len(names)
                notes = entries.notes_of(section)
                overview.append({"section": section, "notes": notes, "names": names, "ahead": ahead, "left": left})
        if overview or self.has_pairs:  # to which all pages have a link
            self.page("compare.html", "compare.html", sections=overview)

    def pair(self, section: Section) -> list[tuple[str, str]]:
        """Write the page of a section's only two methods.

        Returns:
            For each sure difference the better method and the other.
        """
        first, second = section.methods
        view = pages.pair_view(section, first, second)
        path = pages.pair_page(section, first, second)
        self.page(path, "pair.html", view=view, section=section, notes=entries.notes_of(section))
        return [(first, second) if row["ahead"] == "a" else (second, first) for row in view["rows"] if row["sure"]]

    def model_pages(self, sections: Sequence[Section], each: Each) -> None:
        """Write every model's page, also of those that were only analysed."""
        models = {pages.model_page(section.model): section.model for section in sections}
        models |= {pages.model_page(document["model"]): document["model"] for document in self.analyses}
        list(each(partial(self.model, sections), models.values()))

    def model(self, sections: Sequence[Section], model: Mapping[str, Any]) -> None:
        """Write a model's page, with the figures of its analyses."""
        path = pages.model_page(model)
        mine = [section for section in sections if pages.model_page(section.model) == path]
        found = [document for document in self.analyses if pages.model_page(document["model"]) == path]
        view = pages.model_view(model, mine, found)
        self.page(path, "model.html", view=view)
        for file, svg in view["files"].items():
            self.write(file, svg)
        for chapter in view["chapters"]:
            self.write(f"{path.removesuffix('.html')}-{chapter['command'].split()[-1]}.json", chapter["json"])

    # --- files -----------------------------------------------------------------------------------------------------

    def page(self, path: str, template: str, **values: Any) -> None:
        """Render a page."""
        self.write(path, self.environment.get_template(template).render(root="../" * path.count("/"), **values))

    def write(self, path: str, text: str) -> None:
        """Write a file of the site."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
