"""Content of the pages of results, methods and tasks, without markup."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..benchmark.core.documents import EditorCard, Result, TaskCard
from ..benchmark.core.schema import JsonObject
from ..benchmark.results.figures import retention_figure
from ..benchmark.results.layout import slug
from ..benchmark.results.trust import Trust
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.formatting import DriftRow, format_drift
from .board_tables import COMPOSITE_TITLES
from .cases import EXTREMES, CaseLink, CaseView, case_score
from .cells import Cell, Score, cell
from .entries import Entry, Section, TaskKey, protocol_notes
from .paths import result_page
from .plots import Figure

SHOWN_MEASURE = "success"
"""The measure of pages that show only one."""
MAX_COMPARED = 24
"""Maximum number of methods of a section that are compared pairwise. The first ones by name are compared."""

RETENTION_NOTE = (
    "Retention of edits",
    "Solid, with 95% bands: all edits up to this number, measured after the last of them. Dashed: each edit measured "
    "right after it was made.",
)
"""Title and caption of retention figures."""

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


def score_cells(result: Result) -> list[Cell | None]:
    """Return edit score, gain and preservation of a result as cells."""
    found = result.edit_score
    if found is None:
        return [None, None, None]
    parts = [(found.value, found.low, found.high), (found.gain, None, None), (found.preservation, None, None)]
    return [cell(Score(*part, "percentile", found.cases, tasks=1), share=True) for part in parts]


# --- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResultView:
    """All numbers of a result, its settings and its environment.

    Attributes:
        measures: title and definition of each column of ``rows``.
        rows: title of each criterion, with one cell per measure.
        figure: retention curves of a sequential run, or None.
        drift: one row per drift task.
    """

    result: Result
    hyper_parameters: Properties
    environment: Properties
    measures: list[tuple[str, str]]
    rows: list[tuple[str, list[Cell | None]]]
    figure: Figure | None
    drift: list[DriftRow]


def result_view(result: Result, stem: str) -> ResultView:
    """Return the content of a result's page.

    Args:
        result: the result.
        stem: path of its page without the suffix, which names its figure.
    """
    figure = None
    if result.curve is not None:
        figure = Figure(f"figures/{slug(stem)}.svg", retention_figure([result]), *RETENTION_NOTE)
    scores = {(row.criterion, row.measure): Score.of_task(row) for row in result.summary}
    titles = {**{c.name: c.title for c in CRITERIA.values()}, **COMPOSITE_TITLES}
    measures = [m for m in MEASURES.values() if any((c, m.name) in scores for c in titles)]
    return ResultView(
        result=result,
        hyper_parameters=flatten(result.editor.config),
        environment=flatten(result.environment),
        measures=[(m.title, m.definition) for m in measures],
        rows=[
            (title, [cell(scores.get((name, m.name)), share=m.share) for m in measures])
            for name, title in titles.items()
            if any((name, m.name) in scores for m in measures)
        ],
        figure=figure,
        drift=format_drift(result.drift),
    )


def perplexity_drift(entries: Sequence[Entry]) -> float | None:
    """Return the mean change of perplexity over results, in nats per token; None if it was not measured."""
    differences = [
        task.points[-1].difference
        for entry in entries
        if entry.result.drift
        for task in entry.result.drift.tasks
        if task.metric == "nll" and task.points
    ]
    return sum(differences) / len(differences) if differences else None


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
        others: methods that the page's method is compared with.
    """

    section: Section
    notes: list[str]
    rows: list[EntryRow]
    others: list[str] = field(default_factory=list)


def _entry_row(entry: Entry) -> EntryRow:
    result = entry.result
    return EntryRow(
        method=entry.method,
        task=result.task,
        page=result_page(result),
        trust=entry.trust,
        cells=score_cells(result),
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
        best: cases with the highest scores.
        worst: cases with the lowest scores.
        reported: numbers from papers, as in ``reported.json``.
    """

    name: str
    card: str
    editor: EditorCard
    configs: list[ConfigView]
    sections: list[SectionRows]
    best: list[CaseLink]
    worst: list[CaseLink]
    reported: Sequence[JsonObject]


def method_view(
    name: str, sections: Sequence[Section], cases: Sequence[CaseLink], card: str, reported: Sequence[JsonObject]
) -> MethodView:
    """Return the content of a method's page.

    Args:
        name: the method.
        sections: all sections.
        cases: candidates for the method's best and worst cases; each has a score.
        card: description as sanitised HTML, or nothing.
        reported: numbers from papers.
    """
    entries = [entry for section in sections for entry in section.of(name)]
    ordered = sorted(cases, key=lambda link: (case_score(link), link.page, link.case.anchor))
    unknown = EditorCard(name=name, summary="", paper="", config={}, config_source="", prepared={})
    return MethodView(
        name=name,
        card=card,
        editor=entries[0].result.editor if entries else unknown,
        configs=_configs(entries),
        sections=[_method_rows(name, section) for section in sections if name in section.methods],
        best=ordered[::-1][:EXTREMES],
        worst=ordered[:EXTREMES],
        reported=reported,
    )


def _method_rows(name: str, section: Section) -> SectionRows:
    compared = section.methods[:MAX_COMPARED]
    return SectionRows(
        section=section,
        notes=protocol_notes(section),
        rows=[_entry_row(entry) for entry in section.of(name)],
        others=[method for method in compared if method != name] if name in compared else [],
    )


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
