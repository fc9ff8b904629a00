"""Renders the pages of a site from its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ..benchmark.core.documents import TaskCard
from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.board_places import asked
from ..benchmark.results.boards import Board
from ..benchmark.results.documents import OnBroken, find_documents
from ..benchmark.results.figures import retention_figure
from ..benchmark.results.io import ANALYSIS
from ..benchmark.results.layout import find_stores, slug
from ..benchmark.results.runs import Run
from ..benchmark.results.store import read_status
from ..benchmark.results.trust import LEVELS, trust_of
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.edit_score import case_values
from ..benchmark.scoring.protocols import PROTOCOLS
from ..benchmark.scoring.summary import case_table, in_order
from . import board_tables, entries, pages, pairs, paths, plots
from .cards import card_html, cards_in, reported_in
from .cases import CaseLink, CaseView, ExtremeCases, case_view
from .columns import EDIT_SCORE_VIEW, VIEWS, View
from .entries import BOARD_MEASURES, Entry, Section, TaskKey
from .models import KNOWN_COLUMNS, Model, model_view
from .plots import Figure

MIN_RESULTS_FOR_PROCESSES = 24
"""Number of results from which on several processes build the site faster than one."""
STATIC_FILES = ("style.css", "board.js", "cases.js")
VENDORED_FILES = {
    "tables.js": ("dataTables.min.js", "dataTables.buttons.min.js", "dataTables.searchBuilder.min.js"),
    "tables.css": ("dataTables.dataTables.min.css", "buttons.dataTables.min.css", "searchBuilder.dataTables.min.css"),
}
"""Files of the site that are concatenated from files of DataTables."""
FIGURE_NOTES = {
    "gain": (
        "Gain and preservation",
        "Up and to the right is better. A grey line joins points of equal edit score, which is written at its end. "
        "Bars are 95% intervals. Controls, with open markers, show what is reached without editing knowledge.",
    ),
    "tradeoff": (
        "The edit score and its costs",
        "Up and to the right is better. The line is the Pareto front: no other method is at least as good in both "
        "quantities and better in one.",
    ),
    "profile": ("All columns", "Means over the tasks that have the column, in percent."),
}
"""Title and caption of each figure of a board."""


Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``map(function, items)``, with the results in the order of the items."""


@contextmanager
def _parallel_map(results: int) -> Iterator[Map]:
    """Yield a map that uses all cores if there are many results."""
    if results < MIN_RESULTS_FOR_PROCESSES:
        yield map
        return
    with ProcessPoolExecutor() as pool:

        def pool_map(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
            listed = list(items)
            return pool.map(function, listed, chunksize=max(1, len(listed) // 100))

        yield pool_map


@dataclass(frozen=True)
class ShownResult:
    """A result whose page was written.

    Attributes:
        extremes: its best and worst cases.
        example: a case that illustrates the task.
    """

    entry: Entry
    extremes: list[CaseLink]
    example: CaseView


class SiteRenderer:
    """Writes the pages of one site.

    Args:
        folder: folder that the site is written to.
        title: title of the site.
        results: folders that the site is built from.
        boards: definitions of boards by their keys.
        on_broken: called with the error of each file that cannot be shown.
    """

    def __init__(
        self, folder: Path, title: str, results: Sequence[Path], boards: Mapping[str, Board], on_broken: OnBroken
    ) -> None:
        self.boards = boards
        self.folder, self.title, self.on_broken = folder, title, on_broken
        folders = [root for root in results if all(store.root != root for store in find_stores(root))]
        self.analyses = find_documents(folders, ANALYSIS, on_broken)  # a store has none
        self.cards = cards_in(results, on_broken)
        self.reported = reported_in(results, on_broken)
        self.status = read_status(results)
        self.version = ""
        self.has_pairs = False
        self.front_key = ""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what cannot be pickled; other processes create their own environment."""
        return {key: value for key, value in self.__dict__.items() if key not in ("environment", "on_broken")}

    @cached_property
    def environment(self) -> jinja2.Environment:
        """The templates with the values that all of them use."""
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
            composites=[
                (title, board_tables.COMPOSITE_NOTES[name]) for name, title in board_tables.COMPOSITE_TITLES.items()
            ],
            has_reported=bool(self.reported),
            level_notes=LEVELS,
            board_page=self.board_page,
            task_page=paths.task_page,
            model_page=paths.model_page,
            method_page=paths.method_page,
            pair_page=paths.pair_page,
        )
        return environment

    def render(self, runs: Sequence[Run]) -> Sequence[str]:
        """Write all pages.

        Returns:
            One sentence for each board whose controls score more than they must.
        """
        self.version = ", ".join(sorted({run.result.benchmark_version for run in runs}))
        methods: dict[str, set[str]] = {}
        for run in runs:
            methods.setdefault(entries.section_key(run.result), set()).add(run.result.editor.name)
        self.has_pairs = any(len(names) > 1 for names in methods.values())
        extremes: dict[str, ExtremeCases] = {}
        examples: dict[TaskKey, CaseView] = {}
        members = []
        with _parallel_map(len(runs)) as parallel_map:
            for shown in parallel_map(self.show_or_error, runs):
                if isinstance(shown, KnbenchError):
                    self.on_broken(shown)
                    continue
                extremes.setdefault(shown.entry.method, ExtremeCases()).add(shown.extremes)
                examples.setdefault(shown.entry.task, shown.example)
                members.append(shown.entry)
            if not members:
                raise KnbenchError("none of the results can be shown")
            sections = entries.sections_of(members, self.boards, self.on_broken)
            self.front_key = sections[0].key
            by_view: list[Sequence[str]] = list(parallel_map(partial(self.write_boards, sections), VIEWS))
            self.write_pairs(sections, parallel_map)
            self.write_models(sections, parallel_map)
        self.write_methods(sections, extremes)
        for task in sorted({task for section in sections for task in section.entries}):  # not those of left-out results
            view = pages.task_view(task, sections, examples[task])
            self.page(paths.task_page(view.task), "task.html", view=view)
        if self.reported:
            self.page("reported.html", "reported.html", documents=self.reported)
        changes = (files("knbench.benchmark") / "changes.md").read_text(encoding="utf-8")
        self.page(
            "about.html", "about.html",
            measures=MEASURES.values(), protocols=PROTOCOLS.values(), changes=card_html(changes),
        )  # fmt: skip
        self.write_static_files()
        return by_view[0]  # they are equal in all views

    def write_static_files(self) -> None:
        """Write style sheets and scripts."""
        static = files(__package__) / "static"
        for name in STATIC_FILES:
            self.write(name, (static / name).read_text(encoding="utf-8"))
        for name, parts in VENDORED_FILES.items():
            texts = [(static / "datatables" / part).read_text(encoding="utf-8") for part in parts]
            self.write(name, "\n".join(texts))

    # --- results -----------------------------------------------------------------------------------------------------

    def show_or_error(self, run: Run) -> ShownResult | KnbenchError:
        """Return the result of :meth:`show`, or the error if the run cannot be shown."""
        try:
            return self.show(run)
        except KnbenchError as error:
            return error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # valid by its schema, but inconsistent
            return KnbenchError(f"{run.result_path}: cannot be shown ({type(error).__name__}: {error})")

    def show(self, run: Run) -> ShownResult:
        """Read the records of a result once, and write its page with all cases."""
        records = in_order(run.final_records())
        table = case_table(records, BOARD_MEASURES)
        values = case_values(records, run.result.task.kind)
        trust = trust_of(run, self.status)
        entry = Entry(run, entries.values_of(records, table), values, trust, asked(records))
        cases = [case_view(record) for record in records]
        alone = Section(entries.section_key(entry.result), {entry.task: {entry.method: entry}})
        path = paths.result_page(entry.result)
        view = pages.result_view(entry.result, path.removesuffix(".html"))
        notes = entries.protocol_notes(alone)
        self.page(path, "result.html", view=view, cases=cases, notes=notes, trust=entry.trust)
        if view.figure:
            self.write(view.figure.path, view.figure.svg)
        extremes = ExtremeCases()
        extremes.add(CaseLink(path, case.summary) for case in cases)
        return ShownResult(entry, extremes.links, cases[0])

    # --- boards ------------------------------------------------------------------------------------------------------

    def board_page(self, section: Section, task: TaskCard | None = None, view: str = EDIT_SCORE_VIEW) -> str:
        """Return the path of a section's overview, or of the board of one of its tasks, in a view."""
        is_overview = task is None or section.has_one_task
        name = "overview" if task is None or is_overview else paths.task_slug((task.name, task.version))
        if section.key == self.front_key and is_overview:
            return "index.html" if view == EDIT_SCORE_VIEW else f"{slug(view.replace('_', '-'))}.html"
        return f"boards/{section.key}/{slug(f'{name}-{view}')}.html"

    def write_boards(self, sections: Sequence[Section], name: str) -> list[str]:
        """Write the overviews and the task boards of all sections in one view.

        Returns:
            One sentence for each overview whose controls score more than they must.
        """
        violations = []
        view = VIEWS[name]
        for section in sections:
            tasks = section.tasks()
            overviews = board_tables.overview_boards(section, name)
            self.write_board(section, sections, None, view, overviews)
            violations += [f"{section.key}, {board.name}: {found}" for board in overviews for found in board.violations]
            for task in () if section.has_one_task else tasks:
                board = board_tables.task_board(section, name, task)
                self.write_board(section, sections, section.task_card(task), view, [board] if board.columns else [])
        return violations

    def write_board(
        self,
        section: Section,
        sections: Sequence[Section],
        task: TaskCard | None,
        view: View,
        tables: Sequence[board_tables.Board],
    ) -> None:
        """Write the page of a section's boards, with their exports and figures.

        Args:
            section: the section.
            sections: all sections, for the tabs.
            task: the task of the page; None for the overview.
            view: the view of the boards.
            tables: the boards.
        """
        path = self.board_page(section, task, view.name)
        root = "../" * path.count("/")
        names = [f"data/{section.key}/{slug(f'{board.name}-{view.name}')}" for board in tables]
        for board, name in zip(tables, names, strict=True):
            self.write(f"{name}.csv", board_tables.board_csv(board, section, view.name))
            self.write(f"{name}.json", board_tables.board_json(board, section, view.name))
        cards = [section.task_card(key) for key in section.tasks()]
        task_tabs = [("All", root + self.board_page(section, None, view.name), task is None)]
        if not section.has_one_task:
            task_tabs += [(t.title, root + self.board_page(section, t, view.name), t is task) for t in cards]
        figures: list[Figure] = []
        if tables and view.share:
            figures += self._figures(section, tables[-1], view)
            shown_task = cards[0] if len(cards) == 1 else task
            figures += self._retention_figures(section, tables[-1], shown_task, view) if shown_task else []
        for figure in figures:
            self.write(figure.path, figure.svg)
        self.page(
            path, "board.html",
            section=section, notes=entries.protocol_notes(section), view=view, boards=tables, files=names,
            task=task, figures=figures,
            section_tabs=[
                (self._section_title(s, sections), root + self.board_page(s, None, view.name), s.key == section.key)
                for s in sections
            ],
            view_tabs=[
                (other.title, root + self.board_page(section, task, other.name), other is view)
                for other in VIEWS.values()
            ],
            task_tabs=task_tabs,
        )  # fmt: skip

    @staticmethod
    def _section_title(section: Section, sections: Sequence[Section]) -> str:
        """Return the name of a section: its board and regime, or its model and how it differs from other sections."""
        if section.board is not None and section.table is not None:
            same = [s for s in sections if s.board is section.board and s.table is section.table]
            words = [section.board.label, section.table.words]
            return " · ".join(words if len(same) == 1 else [*words, section.model.name])
        alike = [s for s in sections if s.model.name == section.model.name and s.board is None]
        notes = [set(entries.protocol_notes(s)) for s in alike]
        own = [note for note in entries.protocol_notes(section) if not all(note in other for other in notes)]
        return " · ".join(["no board", section.model.name, *own])

    @staticmethod
    def _figures(section: Section, board: board_tables.Board, view: View) -> list[Figure]:
        """Return the figures of a board in a view."""
        drift = {
            name: value for name in section.methods if (value := pages.perplexity_drift(section.of(name))) is not None
        }
        svgs = {"profile": plots.profile_figure(board)}
        if view.name == EDIT_SCORE_VIEW:
            svgs = {"gain": plots.gain_figure(board), "tradeoff": plots.tradeoff_figure(board, drift), **svgs}
        return [
            Figure(f"figures/{section.key}-{slug(f'{board.name}-{view.name}')}-{name}.svg", svg, *FIGURE_NOTES[name])
            for name, svg in svgs.items()
            if svg
        ]

    @staticmethod
    def _retention_figures(section: Section, board: board_tables.Board, task: TaskCard, view: View) -> list[Figure]:
        """Return the retention figure of a task, if its runs are sequential.

        Methods have the order of the board, and therefore the colours of the other figures.
        """
        members = section.entries[task.name, task.version]
        results = [members[row.method].result for row in board.rows if row.method in members]
        sequential = [result for result in results if result.curve is not None][: plots.MAX_SERIES]
        if not sequential:
            return []
        name = paths.task_slug((task.name, task.version))
        path = f"figures/{section.key}-{name}-{slug(view.name)}-retention.svg"
        measure = "success" if view.name == EDIT_SCORE_VIEW else view.name
        return [Figure(path, retention_figure(sequential, measure), *pages.RETENTION_NOTE)]

    # --- methods, pairs and models -----------------------------------------------------------------------------------

    def write_methods(self, sections: Sequence[Section], extremes: Mapping[str, ExtremeCases]) -> None:
        """Write the page of every method, including methods with reported numbers only."""
        names = {name for section in sections for name in section.methods}
        names |= {document["method"] for document in self.reported}
        for name in sorted(names):
            links = extremes[name].links if name in extremes else []
            reported = [document for document in self.reported if document["method"] == name]
            view = pages.method_view(name, sections, links, self.cards.get(slug(name), ""), reported)
            self.page(paths.method_page(name), "method.html", view=view)

    def write_pairs(self, sections: Sequence[Section], parallel_map: Map) -> None:
        """Write the pages that compare two methods, and their overview."""
        matrices = []
        for section in sections:
            names = section.methods[: pages.MAX_COMPARED]
            ahead = {(a, b): 0 for a in names for b in names}
            pair_names = pairs.pairs_of(section)
            winners = parallel_map(self.write_pair, [section.only(pair) for pair in pair_names])
            for (first, second), better in zip(pair_names, winners, strict=True):
                ahead[first, second] += better.count(first)
                ahead[second, first] += better.count(second)
            if len(names) > 1:
                remaining = len(section.methods) - len(names)
                matrices.append(pairs.PairMatrix(section, entries.protocol_notes(section), names, ahead, remaining))
        if matrices or self.has_pairs:  # every page links to the overview
            self.page("compare.html", "compare.html", matrices=matrices)

    def write_pair(self, section: Section) -> list[str]:
        """Write the page that compares the two methods of a section.

        Returns:
            The better method of each significant difference.
        """
        first, second = section.methods
        view = pairs.pair_view(section, first, second)
        path = paths.pair_page(section, first, second)
        self.page(path, "pair.html", view=view, section=section, notes=entries.protocol_notes(section))
        return view.significant_winners

    def write_models(self, sections: Sequence[Section], parallel_map: Map) -> None:
        """Write the page of every model, including models with analyses only."""
        models = [Model.of_card(section.model) for section in sections]
        models += [Model.of_json(document["model"]) for document in self.analyses]
        list(parallel_map(partial(self.write_model, sections), {model.page: model for model in models}.values()))

    def write_model(self, sections: Sequence[Section], model: Model) -> None:
        """Write the page of a model with the figures of its analyses."""
        own_sections = [section for section in sections if Model.of_card(section.model).page == model.page]
        analyses = [document for document in self.analyses if Model.of_json(document["model"]).page == model.page]
        view = model_view(model, own_sections, analyses)
        self.page(model.page, "model.html", view=view, known_columns=KNOWN_COLUMNS)
        for chapter in view.chapters:
            self.write(chapter.path, chapter.json)
            for figure in chapter.figures:
                self.write(figure.path, figure.svg)

    # --- files -------------------------------------------------------------------------------------------------------

    def page(self, path: str, template: str, **values: Any) -> None:
        """Render a template as a page."""
        self.write(path, self.environment.get_template(template).render(root="../" * path.count("/"), **values))

    def write(self, path: str, text: str) -> None:
        """Write a file of the site."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
