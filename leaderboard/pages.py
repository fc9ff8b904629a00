"""Content of the pages of results, methods and tasks, without markup."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..benchmark.core.documents import EditorCard, Result, TaskCard
from ..benchmark.core.schema import JsonObject
from ..benchmark.results.layout import slug
from ..benchmark.results.trust import Trust
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.formatting import DriftRow, format_drift
from .cases import EXTREMES, CaseLink, CaseView, case_score
from .cells import Cell, Score, cell
from .charts import CurveChart, method_chart
from .columns import COMPOSITES
from .entries import Entry, Section, TaskKey, protocol_notes
from .paths import result_page
from .run_commands import board_command, result_command
from .standings import Standing, Standings, needs_of
from .traits import Traits, traits_of

SHOWN_MEASURE = "success"
"""The measure of pages that show only one."""

Properties = list[tuple[str, str]]
"""Names and values of a description list."""


def flatten(value: Mapping[str, Any], prefix: str = "") -> Properties:
    """Return nested JSON values as names and values. Values that are None are left out."""
    properties: Properties = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            properties += flatten(item, f"{prefix}{key} ")
        elif item is not None:
            properties.append((prefix + key, str(item)))
    return properties


def summary_cell(result: Result, criterion: str, measure: str = SHOWN_MEASURE) -> Cell | None:
    """Return a criterion of a result as a cell; None if the result does not have it."""
    rows = (row for row in result.summary if (row.criterion, row.measure) == (criterion, measure))
    return next((cell(Score.of_task(row), share=MEASURES[measure].share) for row in rows), None)


def score_cells(entry: Entry) -> list[Cell | None]:
    """Return edit score, gain and preservation of a result as cells. A result of version 0.1 states no interval."""
    found = entry.result.edit_score
    if found is not None:
        parts = [(found.value, found.low, found.high), (found.gain, None, None), (found.preservation, None, None)]
    elif (computed := entry.score) is not None:
        numbers = (computed.value, computed.gain, computed.preservation)
        parts = [(float(value), None, None) for value in numbers]
    else:
        return [None, None, None]
    return [cell(Score(*part, "percentile", entry.result.records.cases, tasks=1), share=True) for part in parts]


# --- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResultView:
    """All numbers of a result, its settings and its environment.

    Attributes:
        measures: title and definition of each column of ``rows``.
        rows: title of each criterion, its number of cases and probes in words, and one cell per measure.
        chart: retention of a sequential run, or None.
        drift: one row per drift task.
        command: the command that repeats it.
    """

    result: Result
    hyper_parameters: Properties
    environment: Properties
    measures: list[tuple[str, str]]
    rows: list[tuple[str, str, list[Cell | None]]]
    chart: CurveChart | None
    drift: list[DriftRow]
    command: str


def result_view(result: Result) -> ResultView:
    """Return the content of a result's page."""
    scores = {(row.criterion, row.measure): Score.of_task(row) for row in result.summary}
    titles = {**{c.name: c.title for c in CRITERIA.values()}, **{c.name: c.title for c in COMPOSITES}}
    measures = [m for m in MEASURES.values() if any((c, m.name) in scores for c in titles)]
    return ResultView(
        result=result,
        hyper_parameters=flatten(result.editor.config),
        environment=flatten(result.environment),
        measures=[(m.title, m.definition) for m in measures],
        rows=[
            (title, _size(found), [cell(scores.get((name, m.name)), share=m.share) for m in measures])
            for name, title in titles.items()
            if (found := [scores[name, m.name] for m in measures if (name, m.name) in scores])
        ],
        chart=method_chart(result),
        drift=format_drift(result.drift),
        command=result_command(result, [result.task.name]),
    )


def _size(scores: Sequence[Score]) -> str:
    """Return the number of cases and probes of a criterion, of the measure that has most."""
    return f"{max(score.cases for score in scores)} cases, {max(score.probes or 0 for score in scores)} probes"


# --- rows of methods and tasks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EntryRow:
    """One result in a table of results.

    Attributes:
        page: path of the result's page.
        cells: edit score, gain and preservation.
        seconds: median seconds per edit; None if no time was measured.
        cases: number of cases.
        failed: number of failed edits.
    """

    method: str
    task: TaskCard
    page: str
    trust: Trust
    cells: Sequence[Cell | None]
    seconds: float | None
    cases: int
    failed: int


@dataclass(frozen=True)
class SectionRows:
    """Results of one section in a table.

    Attributes:
        notes: notes on the protocol.
        command: the command that repeats the results; empty where the rows are of several methods.
        standing: the method in the main table of the section; None where the rows are of several methods.
        neighbours: methods beside it in that table, to compare it with.
        traits: what the method is among the best and the worst at.
        charts: its retention, one chart per task.
    """

    section: Section
    notes: list[str]
    rows: list[EntryRow]
    command: str = ""
    standing: Standing | None = None
    neighbours: Sequence[str] = ()
    traits: Traits = Traits((), ())  # noqa: RUF009 (it is immutable)
    charts: Sequence[tuple[str, CurveChart]] = ()


def _entry_row(entry: Entry) -> EntryRow:
    result = entry.result
    return EntryRow(
        method=entry.method,
        task=result.task,
        page=result_page(result),
        trust=entry.trust,
        cells=score_cells(entry),
        seconds=result.cost.edit_seconds,
        cases=result.records.cases,
        failed=result.records.failed,
    )


# --- methods -----------------------------------------------------------------------------------------------------


@dataclass
class ConfigView:
    """Hyper-parameters of a method, with the models and machines that they were used on."""

    parameters: Properties
    source: str
    version: str
    models: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MethodView:
    """A method with all of its results.

    Attributes:
        card: description as sanitised HTML, or nothing.
        needs: what the method needs; None if it is unknown.
        best: cases with the highest scores.
        worst: cases with the lowest scores.
        reported: numbers from papers, as in ``reported.json``.
        bibtex: entry for a bibliography; empty without a paper.
    """

    name: str
    card: str
    editor: EditorCard
    needs: tuple[str, ...] | None
    configs: list[ConfigView]
    sections: list[SectionRows]
    best: list[CaseLink]
    worst: list[CaseLink]
    reported: Sequence[JsonObject]
    bibtex: str


def method_view(
    name: str,
    sections: Sequence[Section],
    fronts: Mapping[str, Standings],
    cases: Sequence[CaseLink],
    card: str,
    reported: Sequence[JsonObject],
) -> MethodView:
    """Return the content of a method's page.

    Args:
        name: the method.
        sections: all sections.
        fronts: main table of each section, by its key.
        cases: candidates for the method's best and worst cases; each has a score.
        card: description as sanitised HTML, or nothing.
        reported: numbers from papers.
    """
    entries = [entry for section in sections for entry in section.of(name)]
    ordered = sorted(cases, key=lambda link: (case_score(link), link.page, link.case.name))
    unknown = EditorCard(name=name, summary="", paper="", config={}, config_source="", prepared={})
    editor = entries[0].result.editor if entries else unknown
    return MethodView(
        name=name,
        card=card,
        editor=editor,
        needs=needs_of(editor),
        configs=_configs(entries),
        sections=[_method_rows(name, s, fronts.get(s.key)) for s in sections if name in s.methods],
        best=ordered[::-1][:EXTREMES],
        worst=ordered[:EXTREMES],
        reported=reported,
        bibtex=bibtex(name, editor.paper),
    )


def _method_rows(name: str, section: Section, front: Standings | None) -> SectionRows:
    entries = section.of(name)
    names = [row.method for row in front.rows] if front else []
    place = names.index(name) if name in names else 0
    tasks = [entry.result.task.name for entry in entries]
    if section.board is not None and section.table is not None:
        command = board_command(section.board, section.table, section.model.name, [name])
    else:
        command = result_command(entries[0].result, tasks)
    charts = [(entry.result.task.title, chart) for entry in entries if (chart := method_chart(entry.result))]
    return SectionRows(
        section=section,
        notes=protocol_notes(section),
        rows=[_entry_row(entry) for entry in entries],
        command=command,
        standing=front.rows[place] if front and name in names else None,
        neighbours=[other for other in names[max(0, place - 3) : place + 4] if other != name],
        traits=traits_of(name, front) if front else Traits((), ()),
        charts=charts,
    )


_PAPER = re.compile(
    r"(?:after )?(?P<author>[^,(]+? et al\.) (?P<year>\d{4})(?:, (?P<title>[^(]+?))?(?: \((?P<venue>[^)]+)\))?$"
)


def bibtex(name: str, paper: str) -> str:
    """Return the paper of a method as an entry of a bibliography; empty without a paper.

    >>> print(bibtex("r-rome", "Gupta et al. 2024, Rebuilding ROME (EMNLP)"))
    @misc{r-rome,
      author = {Gupta and others},
      year = {2024},
      title = {Rebuilding ROME},
      howpublished = {EMNLP}
    }
    >>> print(bibtex("x", "CrispEdit, arXiv 2602.15823"))
    @misc{x,
      note = {CrispEdit, arXiv 2602.15823}
    }
    """
    if not paper:
        return ""
    plain = re.sub(r"[{}\\]", "", paper)
    found = _PAPER.match(plain)
    fields = {"note": plain}
    if found:
        fields = {
            "author": found["author"].replace(" et al.", " and others"),
            "year": found["year"],
            "title": found["title"] or name.upper(),
            "howpublished": found["venue"] or "",
        }
    lines = [f"  {key} = {{{value}}}" for key, value in fields.items() if value]
    return "@misc{" + slug(name) + ",\n" + ",\n".join(lines) + "\n}"


def _configs(entries: Sequence[Entry]) -> list[ConfigView]:
    """Return the different hyper-parameters of a method's results."""
    configs: dict[str, ConfigView] = {}
    for entry in entries:
        editor, model = entry.result.editor, entry.result.model.name
        key = json.dumps([editor.config, editor.config_source], sort_keys=True)
        new = ConfigView(flatten(editor.config), editor.config_source, entry.result.benchmark_version)
        config = configs.setdefault(key, new)
        machine = machine_of(entry.result.environment)
        if machine and machine not in config.machines:
            config.machines.append(machine)
        if model not in config.models:
            config.models.append(model)
    return list(configs.values())


def machine_of(environment: JsonObject) -> str:
    """Describe the machine of a result in a few words.

    >>> machine_of({"processor": "EPYC", "threads": 2, "device": "cpu", "packages": {"torch": "2.13"}})
    'EPYC, 2 threads, torch 2.13'
    """
    device = environment.get("device", "cpu")
    threads = environment.get("threads")
    words = [environment.get("processor") if device == "cpu" else device]
    words += [f"{threads} thread{'s' if threads != 1 else ''}"] if threads and device == "cpu" else []
    torch = environment.get("packages", {}).get("torch")
    return ", ".join(filter(None, [*words, f"torch {torch}" if torch else ""]))


# --- tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskView:
    """A task with an example case and all of its results."""

    task: TaskCard
    example: CaseView
    sections: list[SectionRows]


def task_view(task: TaskKey, sections: Sequence[Section], example: CaseView) -> TaskView:
    """Return the content of a task's page. At least one section has the task."""
    having = [section for section in sections if task in section.entries]
    return TaskView(
        task=having[0].task_card(task),
        example=example,
        sections=[
            SectionRows(
                section=section,
                notes=protocol_notes(section),
                rows=[_entry_row(entry) for _, entry in sorted(section.entries[task].items())],
            )
            for section in having
        ],
    )
