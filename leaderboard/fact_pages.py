"""Writes the pages of a task's results and of its cases, of all methods that were measured with one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark.core.documents import TaskCard
from . import paths
from .comparisons import CaseList
from .entries import Entry, Section, protocol_notes, section_key
from .facts import FactsView, MeasuredCases, counts_of, criteria_of, facts_view
from .pages import result_view
from .reading import StoredCases
from .writer import SiteWriter


@dataclass(frozen=True)
class FactGroup:
    """Results of several methods on one task with one protocol.

    Attributes:
        members: the results, each with its cases and the kind of its method.
        section: key of the section that the pages lead back to.
    """

    members: Sequence[tuple[Entry, StoredCases, str]]
    section: str


@dataclass(frozen=True)
class FactList:
    """What other pages know of a task's cases.

    Attributes:
        key: name of model and protocol.
        section: key of the section that shows the results.
        path: path of the list.
        cases: id, page and words of each case.
    """

    key: str
    section: str
    task: TaskCard
    path: str
    cases: CaseList


def write_facts(writer: SiteWriter, group: FactGroup) -> FactList:
    """Write the pages of a group of results, and return the list of its cases."""
    members = [
        MeasuredCases(
            entry.method,
            kind,
            entry.result,
            float(entry.score.value) if entry.score else None,
            stored.load(),
        )
        for entry, stored, kind in group.members
    ]
    view = facts_view(members)
    section = writer.navigation.section(group.section)
    for (entry, _, _), member in zip(group.members, members, strict=True):
        alone = Section(section_key(entry.result), {entry.task: {entry.method: entry}})
        folder = paths.facts_page(entry.result).removesuffix(".html")
        summaries = [case.summary for case in member.cases]
        criteria = criteria_of(summaries)
        writer.page(
            paths.result_page(entry.result),
            "result.html",
            view=result_view(entry.result),
            entry=entry,
            section=section,
            notes=protocol_notes(alone),
            criteria=criteria,
            cases=[(f"{folder}/{case.name}.html", case, counts_of(case, criteria)) for case in summaries],
        )
    for fact in view.facts:
        writer.page(fact.path, "fact.html", fact=fact, facts=view, section=section)
    writer.page(view.path, "facts_of_task.html", view=view, section=section)
    return _list_of(view, group.section)


def _list_of(view: FactsView, section: str) -> FactList:
    cases = [
        (fact.summary.case_id, fact.path, f"{fact.summary.prompt} {fact.summary.target_new}") for fact in view.facts
    ]
    return FactList(section_key(view.result), section, view.result.task, view.path, cases)
