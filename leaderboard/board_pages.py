"""Writes the tables of a section, with their exports, and the data that compares its methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..benchmark.results.layout import slug
from .board_tables import export_csv, export_json, export_records, has_numbers, scores_by_view, table_view
from .charts import CurveChart, cost_scatters, gain_scatter, retention_chart
from .columns import EDIT_SCORE_VIEW, VIEWS
from .comparisons import CaseList, compared_tables, method_data, method_path, script, section_data
from .entries import Section, TaskKey, protocol_notes
from .standings import Standings, overview_standings, task_standings
from .writer import SiteWriter


@dataclass(frozen=True)
class TableJob:
    """Tables to write: those of one task, or those over tasks.

    Attributes:
        section: the section; for one task, reduced to it.
        task: the task; None for the tables over tasks.
        cases: by task, its cases, for the data that compares methods.
    """

    section: Section
    task: TaskKey | None
    cases: Mapping[TaskKey, CaseList]


@dataclass(frozen=True)
class WrittenTables:
    """The tables over tasks of a section, without the values of single cases; none for the table of a task.

    Attributes:
        violations: one sentence for each table whose controls score more than they must.
    """

    section: str
    overviews: Sequence[Standings]
    violations: Sequence[str]


def write_tables(writer: SiteWriter, job: TableJob) -> WrittenTables:
    """Write the tables of a job in all views."""
    section = job.section
    if job.task is not None:
        write_table(writer, section, task_standings(section, job.task))
        return WrittenTables(section.key, (), ())
    overviews = overview_standings(section)
    for found in overviews:
        write_table(writer, section, found)
    tables = compared_tables(section, overviews)
    writer.write(
        f"data/{section.key}/section.js", script(f"{section.key}/section", section_data(section, tables, job.cases))
    )
    for method in section.methods:
        data = method_data(section, method, tables, job.cases)
        writer.write(method_path(section.key, method), script(f"{section.key}/{slug(method)}", data))
    violations = [f"{section.key}, {found.name}: {line}" for found in overviews for line in found.violations]
    return WrittenTables(section.key, [_light(found) for found in overviews], violations)


def _light(found: Standings) -> Standings:
    """Return standings without the values of single cases, which are large."""
    rows = [
        replace(row, entries=[replace(entry, values={}, case_values=None) for entry in row.entries])  # type: ignore[arg-type]
        for row in found.rows
    ]
    return replace(found, rows=rows, draws={})


def write_table(writer: SiteWriter, section: Section, found: Standings) -> None:
    """Write a table in all views, with its exports."""
    scores = scores_by_view(section, found)
    records = export_records(section, found, scores)
    stem = f"data/{section.key}/{slug(found.name)}"
    writer.write(f"{stem}.csv", export_csv(records))
    writer.write(f"{stem}.json", export_json(records))
    navigation = writer.navigation
    tasks = [task for task in found.tasks if task in section.entries]
    card = section.task_card(tasks[0]) if len(tasks) == 1 else None
    for view in VIEWS.values():
        table = table_view(found, view.name, scores)
        is_first = view.name == EDIT_SCORE_VIEW
        gain = gain_scatter(found) if is_first else None
        writer.page(
            navigation.path(section.key, found.name, view.name),
            "board.html",
            section=section,
            here=navigation.section(section.key),
            notes=protocol_notes(section),
            view=view,
            table=table,
            found=found,
            shown=is_first or has_numbers(table),
            files=stem,
            task=card,
            menus=navigation.menus(section.key, found.name, view.name),
            gain=gain,
            costs=cost_scatters(found) if is_first else [],
            retention=_retention(section, found, tasks) if is_first else [],
        )


def _retention(section: Section, found: Standings, tasks: Sequence[TaskKey]) -> list[tuple[str, CurveChart]]:
    """Return the retention of a section's methods, one chart per task, in the order of the table."""
    charts = []
    for task in tasks:
        members = section.entries[task]
        chart = retention_chart([members[row.method].result for row in found.rows if row.method in members])
        if chart is not None:
            charts.append((section.task_card(task).title, chart))
    return charts
