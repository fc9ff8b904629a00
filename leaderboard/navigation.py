"""The tables of the site, their paths, and the menus that lead from one to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark.core.schema import TaskKind
from ..benchmark.results.layout import slug
from .columns import EDIT_SCORE_VIEW, VIEWS
from .entries import Section, TaskKey, protocol_notes
from .paths import task_slug
from .standings import TABLES, TOGETHER, tasks_of


@dataclass(frozen=True)
class TableName:
    """A table of a section.

    Attributes:
        name: name in paths.
        title: heading.
        kind: kind of its tasks; None for both together.
        task: the task; None for a table over tasks.
    """

    name: str
    title: str
    kind: TaskKind | None
    task: TaskKey | None = None


@dataclass(frozen=True)
class SectionName:
    """A section in menus.

    Attributes:
        group: board and model.
        regime: how its edits are made, and what else differs from the other sections of the group.
        tables: tables over tasks, then those of single tasks.
    """

    key: str
    group: str
    regime: str
    tables: Sequence[TableName]

    @property
    def title(self) -> str:
        """Board, model and regime."""
        return f"{self.group} · {self.regime}"

    @property
    def front(self) -> str:
        """Name of the table that the section is opened with."""
        names = [table.name for table in self.tables]
        return TOGETHER if TOGETHER in names else names[0]

    def table(self, name: str) -> TableName | None:
        """Return a table by its name, or None."""
        return next((table for table in self.tables if table.name == name), None)


@dataclass(frozen=True)
class Menu:
    """A choice between pages.

    Attributes:
        label: what is chosen.
        items: title, path from the root of the site, and whether it is the current page.
    """

    label: str
    items: Sequence[tuple[str, str, bool]]

    @property
    def current(self) -> str:
        """Title of the current page."""
        return next((title for title, _, current in self.items if current), "")


@dataclass(frozen=True)
class Navigation:
    """The sections of the site in their order."""

    sections: Sequence[SectionName]

    def section(self, key: str) -> SectionName:
        """Return a section by its key."""
        return next(section for section in self.sections if section.key == key)

    def section_title(self, key: str) -> str:
        """Return board, model and regime of a section, which no other section has together."""
        return self.section(key).title

    def task_table(self, key: str, task: TaskKey) -> str:
        """Return the name of the table of a task in a section; that of its only table if it has one task."""
        section = self.section(key)
        return next((table.name for table in section.tables if table.task == task), section.front)

    def path(self, key: str, name: str = "", view: str = EDIT_SCORE_VIEW) -> str:
        """Return the path of a table.

        Args:
            key: key of the section.
            name: name of the table; the one that the section is opened with by default.
            view: the view.
        """
        first = self.sections[0]
        name = name or self.section(key).front
        if (key, name) == (first.key, first.front):
            return "index.html" if view == EDIT_SCORE_VIEW else f"{slug(view.replace('_', '-'))}.html"
        return f"boards/{key}/{slug(f'{name}-{view}')}.html"

    def menus(self, key: str, name: str, view: str) -> list[Menu]:
        """Return the menus of a table's page: model, regime, kind, task and measure. A choice of one is left out."""
        here = self.section(key)
        groups = {section.group: section for section in reversed(self.sections)}
        groups[here.group] = here
        model = [
            (group, self._same_table(groups[group], name, view), group == here.group)
            for group in dict.fromkeys(section.group for section in self.sections)
        ]
        regime = [
            (section.regime, self._same_table(section, name, view), section is here)
            for section in self.sections
            if section.group == here.group
        ]
        table = here.table(name)
        kind = table.kind if table else None
        overviews = [one for one in here.tables if one.task is None]
        kinds = [
            ({"facts": "Facts", "phenomena": "Phenomena"}.get(one.name, "Both"), self.path(key, one.name, view),
             one.kind == kind)
            for one in overviews
        ]  # fmt: skip
        tasks = [("All tasks", self.path(key, overview.name, view), table is overview) for overview in overviews
                 if overview.kind == kind]  # fmt: skip
        tasks += [
            (one.title, self.path(key, one.name, view), one is table)
            for one in here.tables
            if one.task is not None and kind in (None, one.kind)
        ]
        views = [(other.title, self.path(key, name, other.name), other.name == view) for other in VIEWS.values()]
        menus = [Menu("Model", model), Menu("Regime", regime), Menu("Kind", kinds), Menu("Task", tasks)]
        return [menu for menu in (*menus, Menu("Measure", views)) if len(menu.items) > 1]

    def _same_table(self, section: SectionName, name: str, view: str) -> str:
        return self.path(section.key, name if section.table(name) else section.front, view)


def navigation_of(sections: Sequence[Section]) -> Navigation:
    """Return the navigation of some sections, in their order."""
    groups = {section.key: _group(section) for section in sections}
    regimes = {section.key: _regime(section, [s for s in sections if groups[s.key] == groups[section.key]])
               for section in sections}  # fmt: skip
    same = Counter((groups[key], regimes[key]) for key in groups)
    return Navigation(
        [
            SectionName(
                section.key,
                groups[section.key],
                regimes[section.key] + _tail(section.key, same[groups[section.key], regimes[section.key]]),
                _tables(section),
            )
            for section in sections
        ]
    )


def _tail(key: str, times: int) -> str:
    """Return the end of a key, if a title is used several times."""
    return f" ({key[-6:]})" if times > 1 else ""


def _group(section: Section) -> str:
    return f"{section.board.label if section.board else 'no board'} · {section.model.name}"


def _regime(section: Section, others: Sequence[Section]) -> str:
    """Return the regime of a section, with the notes on its protocol that not all sections of its group have."""
    if section.table is not None:
        return section.table.words
    notes = protocol_notes(section)
    shared = set.intersection(*(set(protocol_notes(other)) for other in others))
    return " · ".join([notes[0], *(note for note in notes[1:] if note not in shared)])


def _tables(section: Section) -> list[TableName]:
    found = [
        TableName(name, name.capitalize(), kind)
        for kind, name in TABLES.items()
        if set(tasks_of(section, kind)) & {*section.entries}
    ]
    if len(found) > 1:
        found.append(TableName(TOGETHER, "Facts and phenomena", None))
    if section.has_one_task:
        return found
    cards = [(task, section.task_card(task)) for task in section.tasks()]
    return [*found, *(TableName(task_slug(task), card.title, card.kind, task) for task, card in cards)]
