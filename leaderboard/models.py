"""Content of a model's page: its provenance, its accuracy before any edit, and its analyses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark.core.documents import ModelCard, TaskCard
from ..benchmark.core.records import to_json
from ..benchmark.core.schema import JsonObject, TaskKind
from ..benchmark.results.analysis_figures import analysis_figures
from ..benchmark.results.layout import slug
from ..benchmark.scoring.formatting import format_value
from .cells import Cell, bar_length
from .entries import Section, TaskKey, protocol_notes
from .pages import Properties, flatten, summary_cell
from .paths import method_page, model_page, task_page

ANALYSIS_TITLES = {
    "known": "Knowledge before any edit",
    "localise": "Localisation of facts and grammar",
    "suppress": "Effect of suppressed neurons",
    "trace": "Causal tracing",
}
FIGURE_NOTES = {
    "measures.svg": "Number of knowledge neurons, share of prompts that had to agree (τ), and similarity of the "
    "attributions of the prompts (R₁²). Means over groups of prompts with 95% intervals.",
    "layers.svg": "Number of knowledge neurons in each layer.",
    "overlap.svg": "Neurons that the groups of two tasks share, in percent of the neurons of either.",
    "traces.svg": "Probability of the answer that is recovered when a corrupted state is restored, by layer and token "
    "role.",
}
UNEDITED_CRITERIA = ("reliability", "paraphrase", "symmetry", "synonym")


@dataclass(frozen=True)
class Figure:
    """A figure of an analysis.

    Attributes:
        path: path of the SVG file, relative to the site.
        svg: content of the file.
        title: heading.
        note: caption.
    """

    path: str
    svg: str
    title: str
    note: str


@dataclass(frozen=True)
class KnownColumn:
    """A column of the table of known answers; ``name`` is its key in ``analysis.json``."""

    name: str
    title: str
    note: str


KNOWN_COLUMNS = (
    KnownColumn("success", "Preferred", "The true answer is more probable than the new one"),
    KnownColumn("exact", "Exact", "Every token of the true answer is the most probable one"),
    KnownColumn("generated", "Generated", "The greedy continuation begins with the true answer"),
    KnownColumn("ranked_first", "Ranked first", "The true answer is the most probable of all answers of the task"),
    KnownColumn("sentences", "Sentences", "The grammatical sentence of a minimal pair is more probable, as in BLiMP"),
)


@dataclass(frozen=True)
class KnownRow:
    """Share of the cases of a task that the unedited model knows.

    Attributes:
        page: path of the task's page; empty if the task has no results.
        values: by :data:`KNOWN_COLUMNS`, the value as text and the length of its bar; None where it is undefined.
    """

    kind: TaskKind
    title: str
    page: str
    cases: int
    values: list[tuple[str, float | None] | None]


@dataclass(frozen=True)
class Chapter:
    """An analysis on a model's page.

    Attributes:
        command: the command that made the analysis.
        path: path of its JSON file.
        json: content of the file.
        known: rows of the analysis ``known``; empty for others.
    """

    title: str
    command: str
    path: str
    json: str
    figures: list[Figure]
    known: list[KnownRow]


@dataclass(frozen=True)
class UneditedRow:
    """Scores of the unedited model on a task, from the results of the editor ``none``.

    Attributes:
        run: number of cases that were run.
        cells: by :data:`UNEDITED_CRITERIA`; None without a result of ``none``.
    """

    task: TaskCard
    run: int
    cells: list[Cell | None]


@dataclass(frozen=True)
class Model:
    """A model that has a page, from a result or from an analysis.

    Attributes:
        properties: all other fields of its description.
    """

    name: str
    weight_hash: str
    properties: Properties

    @property
    def page(self) -> str:
        """Path of the model's page."""
        return model_page(self.name, self.weight_hash)

    @classmethod
    def of_card(cls, card: ModelCard) -> Model:
        """Return the model of a result."""
        return cls.of_json(to_json(card))

    @classmethod
    def of_json(cls, model: JsonObject) -> Model:
        """Return the model of an analysis."""
        properties = flatten({k: v for k, v in model.items() if k not in ("name", "weight_hash")})
        return cls(model["name"], model["weight_hash"], properties)


@dataclass(frozen=True)
class ModelView:
    """A model with its boards and analyses.

    Attributes:
        sections: each section of the model with its protocol notes.
        methods: names of the methods that were run on the model, with their pages.
        unedited: one row per task.
    """

    model: Model
    sections: list[tuple[Section, list[str]]]
    methods: list[tuple[str, str]]
    unedited: list[UneditedRow]
    chapters: list[Chapter]


def model_view(model: Model, sections: Sequence[Section], analyses: Sequence[JsonObject]) -> ModelView:
    """Return the content of a model's page.

    Args:
        model: the model.
        sections: its sections.
        analyses: contents of its ``analysis.json`` files.
    """
    return ModelView(
        model=model,
        sections=[(section, protocol_notes(section)) for section in sections],
        methods=[(name, method_page(name)) for name in sorted({m for s in sections for m in s.methods})],
        unedited=_unedited_rows(sections),
        chapters=[_chapter(model, sections, document) for document in analyses],
    )


def _chapter(model: Model, sections: Sequence[Section], document: JsonObject) -> Chapter:
    kind = document["analysis"]
    stem = slug(model.page.removesuffix(".html"))
    groups = [group["key"] for group in document["result"].get("groups", ())]
    notes = FIGURE_NOTES | {
        f"words-{n}.svg": f"Change of the probability of each word: {key}." for n, key in enumerate(groups, start=1)
    }
    return Chapter(
        title=ANALYSIS_TITLES[kind],
        command=f"knbench {kind}",
        path=f"{model.page.removesuffix('.html')}-{kind}.json",
        json=json.dumps(document, indent=1),
        figures=[
            Figure(f"figures/{stem}-{kind}-{file}", svg, ANALYSIS_TITLES[kind], notes[file])
            for file, svg in analysis_figures(document).items()
        ],
        known=_known_rows(document, sections) if kind == "known" else [],
    )


def _known_rows(document: JsonObject, sections: Sequence[Section]) -> list[KnownRow]:
    """Return one row per task of the analysis ``known``."""
    pages = {task: task_page(section.task_card(task)) for section in sections for task in section.tasks()}
    return [
        KnownRow(
            kind=row["kind"],
            title=row["title"],
            page=pages.get((row["task"], row["version"]), ""),
            cases=row["cases"],
            values=[_known_value(row[column.name]) for column in KNOWN_COLUMNS],
        )
        for row in sorted(document["result"]["tasks"], key=lambda row: (row["kind"], row["task"]))
    ]


def _known_value(value: float | None) -> tuple[str, float | None] | None:
    return None if value is None else (format_value(value, share=True), bar_length(value, share=True))


def _unedited_rows(sections: Sequence[Section]) -> list[UneditedRow]:
    """Return one row per task, from the section with the most cases: the regime does not change the unedited model."""
    rows: dict[TaskKey, UneditedRow] = {}
    for section in sections:
        for task in section.tasks():
            row = _unedited_row(section, task)
            if task not in rows or row.run > rows[task].run:
                rows[task] = row
    return list(rows.values())


def _unedited_row(section: Section, task: TaskKey) -> UneditedRow:
    members = section.entries[task]
    control = members.get("none")
    return UneditedRow(
        task=section.task_card(task),
        run=next(iter(members.values())).result.records.cases,
        cells=[summary_cell(control.result, criterion) if control else None for criterion in UNEDITED_CRITERIA],
    )
