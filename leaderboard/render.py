"""Renders a site from its results: reads them once, groups them, and writes every page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

from ..benchmark.core.errors import KnbenchError
from ..benchmark.results.boards import Board
from ..benchmark.results.controls import LIMITS
from ..benchmark.results.documents import OnBroken, find_documents
from ..benchmark.results.io import ANALYSIS
from ..benchmark.results.layout import find_stores, slug
from ..benchmark.results.runs import Run
from ..benchmark.results.store import read_status
from ..benchmark.scoring.protocols import PROTOCOLS
from . import entries, explanations, feed, matrices, pages, paths
from .board_pages import TableJob, WrittenTables, write_tables
from .cards import card_html, cards_in, reported_in
from .cases import CaseView, ExtremeCases
from .comparisons import CaseList, script
from .entries import Entry, Section, TaskKey
from .fact_pages import FactGroup, FactList, write_facts
from .models import KNOWN_COLUMNS, Model, model_view
from .navigation import Navigation, navigation_of
from .parallel import parallel_map
from .reading import ReadResult, ResultReader, StoredCases
from .standings import Standings
from .writer import SiteWriter

MIN_RESULTS_FOR_PROCESSES = 24
"""Number of results from which on several processes build the site faster than one."""
STATIC_FILES = ("style.css", "site.js", "board.js", "charts.js", "compare.js", "facts.js", "logo.svg")


class SiteRenderer:
    """Writes the pages of one site.

    Args:
        folder: folder that the site is written to.
        title: title of the site.
        results: folders that the site is built from.
        boards: definitions of boards by their keys.
        on_broken: called with the error of each file that cannot be shown.
        url: address that the site will have, for its feed and sitemap; empty if it is unknown.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        results: Sequence[Path],
        boards: Mapping[str, Board],
        on_broken: OnBroken,
        url: str = "",
    ) -> None:
        self.boards = boards
        self.folder, self.title, self.on_broken = folder, title, on_broken
        self.url = f"{url.rstrip('/')}/" if url else ""
        folders = [root for root in results if all(store.root != root for store in find_stores(root))]
        self.analyses = find_documents(folders, ANALYSIS, on_broken)  # a store has none
        self.cards = cards_in(results, on_broken)
        self.reported = reported_in(results, on_broken)
        self.status = read_status(results)

    def render(self, runs: Sequence[Run], scratch: Path) -> Sequence[str]:
        """Write all pages.

        Args:
            runs: the results.
            scratch: an empty folder for intermediate files.

        Returns:
            One sentence for each table whose controls score more than they must.
        """
        processes = len(runs) >= MIN_RESULTS_FOR_PROCESSES
        read = self._read(runs, scratch, processes=processes)
        sections = entries.sections_of([found.entry for found in read], self.boards, self.on_broken)
        if not sections:
            raise KnbenchError("none of the results can be shown")
        navigation = navigation_of(sections)
        version = ", ".join(sorted({run.result.benchmark_version for run in runs}))
        writer = SiteWriter(self.folder, self.title, version, self.url, navigation, has_reported=bool(self.reported))
        lists = parallel_map(partial(write_facts, writer), _fact_groups(sections, read), processes=processes)
        done = parallel_map(partial(write_tables, writer), _table_jobs(sections, lists), processes=processes)
        written = [tables for tables in done if tables.overviews]
        self._write_lists(writer, sections, lists)
        self._write_matrices(writer, sections, navigation)
        self._write_methods(writer, sections, read, written)
        self._write_tasks(writer, sections, read)
        self._write_models(writer, sections)
        self._write_about(writer, sections, read)
        self._write_static_files(writer)
        self._write_feed(writer, sections, written)
        return [line for done in written for line in done.violations]

    def _read(self, runs: Sequence[Run], scratch: Path, *, processes: bool) -> list[ReadResult]:
        """Read the results that can be shown."""
        found = []
        reader = ResultReader(self.status, scratch)
        for run, values in zip(runs, parallel_map(reader.read, runs, processes=processes), strict=True):
            if isinstance(values, KnbenchError):
                self.on_broken(values)
            else:
                found.append(values.of(run))
        if not found:
            raise KnbenchError("none of the results can be shown")
        return found

    # --- cases and comparisons ---------------------------------------------------------------------------------------

    def _write_lists(self, writer: SiteWriter, sections: Sequence[Section], lists: Sequence[FactList]) -> None:
        """Write the pages that find facts and compare methods, with the data that they load on demand."""
        writer.page("facts.html", "facts.html", lists=lists, navigation=writer.navigation)
        by_list = {
            found.path.removesuffix(".html"): {
                "task": found.task.title,
                "where": writer.navigation.section(found.section).title,
                "cases": [[path.rsplit("/", 1)[1].removesuffix(".html"), words] for _, path, words in found.cases],
            }
            for found in lists
        }
        writer.write("data/facts.js", script("facts", by_list))
        compared = [
            {
                "key": s.key,
                "title": writer.navigation.section(s.key).title,
                "methods": [[m, slug(m)] for m in s.methods],
            }
            for s in sections
            if len(s.methods) > 1
        ]
        writer.write("data/compare.js", script("compare", compared))
        writer.page("compare.html", "compare.html")

    def _write_matrices(self, writer: SiteWriter, sections: Sequence[Section], navigation: Navigation) -> None:
        """Write the page of methods across models and numbers of edits."""
        by_model = matrices.model_matrices(sections, navigation)
        by_edits = matrices.edit_matrices(sections, navigation)
        writer.page("matrix.html", "matrix.html", by_model=by_model, by_edits=by_edits)

    # --- methods, tasks and models -----------------------------------------------------------------------------------

    def _write_methods(
        self,
        writer: SiteWriter,
        sections: Sequence[Section],
        read: Sequence[ReadResult],
        written: Sequence[WrittenTables],
    ) -> None:
        """Write the page of every method, including methods with reported numbers only."""
        fronts: dict[str, Standings] = {done.section: done.overviews[-1] for done in written}
        extremes: dict[str, ExtremeCases] = {}
        for found in read:
            if _is_shown(found.entry, sections):
                extremes.setdefault(found.entry.method, ExtremeCases()).add(found.extremes)
        names = {name for section in sections for name in section.methods}
        names |= {document["method"] for document in self.reported}
        for name in sorted(names):
            links = extremes[name].links if name in extremes else []
            reported = [document for document in self.reported if document["method"] == name]
            view = pages.method_view(name, sections, fronts, links, self.cards.get(slug(name), ""), reported)
            writer.page(paths.method_page(name), "method.html", view=view)
        if self.reported:
            writer.page("reported.html", "reported.html", documents=self.reported)

    def _write_tasks(self, writer: SiteWriter, sections: Sequence[Section], read: Sequence[ReadResult]) -> None:
        """Write the page of every task that has a table."""
        examples: dict[TaskKey, CaseView] = {}
        for found in read:
            examples.setdefault(found.entry.task, found.example)
        for task in sorted({task for section in sections for task in section.entries}):
            view = pages.task_view(task, sections, examples[task])
            writer.page(paths.task_page(view.task), "task.html", view=view, task=task)

    def _write_models(self, writer: SiteWriter, sections: Sequence[Section]) -> None:
        """Write the page of every model with the figures of its analyses, including models with analyses only."""
        models = [Model.of_card(section.model) for section in sections]
        models += [Model.of_json(document["model"]) for document in self.analyses]
        for model in {model.page: model for model in models}.values():
            own = [section for section in sections if Model.of_card(section.model).page == model.page]
            analyses = [document for document in self.analyses if Model.of_json(document["model"]).page == model.page]
            view = model_view(model, own, analyses)
            writer.page(model.page, "model.html", view=view, known_columns=KNOWN_COLUMNS)
            for chapter in view.chapters:
                writer.write(chapter.path, chapter.json)
                for figure in chapter.figures:
                    writer.write(figure.path, figure.svg)

    # --- other pages and files ---------------------------------------------------------------------------------------

    def _write_about(self, writer: SiteWriter, sections: Sequence[Section], read: Sequence[ReadResult]) -> None:
        """Write the definitions of all numbers, with examples from the front table."""
        shown = [found for found in read if _is_shown(found.entry, sections[:1])]
        found = explanations.explanations(shown)
        writer.write("data/definitions.js", script("definitions", explanations.as_json(found)))
        changes = (files("knbench.benchmark") / "changes.md").read_text(encoding="utf-8")
        writer.page(
            "about.html", "about.html",
            explanations=found, measures=explanations.MEASURES.values(), protocols=PROTOCOLS.values(),
            changes=card_html(changes),
        )  # fmt: skip

    def _write_static_files(self, writer: SiteWriter) -> None:
        """Write style sheets, scripts and pictures."""
        static = files(__package__) / "static"
        for name in STATIC_FILES:
            writer.write(name, (static / name).read_text(encoding="utf-8"))

    def _write_feed(self, writer: SiteWriter, sections: Sequence[Section], written: Sequence[WrittenTables]) -> None:
        """Write the feed, the preview, and the sitemap if the address of the site is known."""
        shown = {id(e): e for s in sections for members in s.entries.values() for e in members.values()}
        unique: dict[str, Entry] = {paths.result_page(entry.result): entry for entry in shown.values()}
        writer.write("feed.xml", feed.atom_feed(self.title, unique.values(), self.url))
        front = next(done.overviews[-1] for done in written if done.section == sections[0].key)
        words = writer.navigation.sections[0].title
        writer.write("preview.png", feed.preview(self.title, words, front))
        if self.url:
            found = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.html")]
            writer.write("sitemap.xml", feed.sitemap(found, self.url))


def _is_shown(entry: Entry, sections: Sequence[Section]) -> bool:
    """Return whether one of the sections contains the result of an entry."""
    return any(
        (found := section.entries.get(entry.task, {}).get(entry.method)) is not None and found.run is entry.run
        for section in sections
    )


def _fact_groups(sections: Sequence[Section], read: Sequence[ReadResult]) -> list[FactGroup]:
    """Group the results that are shown by task, model and protocol."""
    cases = {id(found.entry.run): found.cases for found in read}
    groups: dict[tuple[str, TaskKey], tuple[str, dict[str, tuple[Entry, StoredCases, str]]]] = {}
    for section in sections:
        for task, members in section.entries.items():
            for method, entry in members.items():
                key = (entries.section_key(entry.result), task)
                kind = entry.result.editor.kind or ("control" if method in LIMITS else "")
                _, group = groups.setdefault(key, (section.key, {}))
                group.setdefault(method, (entry, cases[id(entry.run)], kind))
    return [FactGroup(list(group.values()), section) for section, group in groups.values()]


def _table_jobs(sections: Sequence[Section], lists: Sequence[FactList]) -> list[TableJob]:
    """Return the tables of all sections, the largest first."""
    by_key = {(found.key, (found.task.name, found.task.version)): found.cases for found in lists}
    jobs = []
    for section in sections:
        cases: dict[TaskKey, CaseList] = {}
        for task, members in section.entries.items():
            first = next(iter(members.values()))
            cases[task] = by_key[entries.section_key(first.result), task]
        jobs.append(TableJob(section, None, cases))
        if not section.has_one_task:
            jobs += [TableJob(section.only([task]), task, {}) for task in section.tasks()]
    return jobs
