"""The columns of tables: the edit score and its parts, criteria, scores of the literature, and costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..benchmark.core.documents import Result
from ..benchmark.results.edit_scores import ScoredMethod
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from ..benchmark.scoring.edit_score import FAMILIES, PRESERVATION
from ..benchmark.scoring.edit_score_estimates import mean_over_checkpoints
from .cells import Score
from .entries import BOARD_MEASURES

EDIT_SCORE_VIEW = "edit_score"
"""Name of the view that shows the edit score and its parts."""
EDIT_SCORE_DEFINITION = (
    "Gain times preservation: 0 for no edit and for a destroyed model, 100 for an ideal edit. Gain is the progress on "
    "what the edit must change, relative to the unedited model. Preservation is the closeness to the unedited model on "
    "everything else."
)


@dataclass(frozen=True)
class Column:
    """A score, family, criterion or cost of a table.

    Attributes:
        name: identifier in exports and saved table states.
        title: heading.
        note: definition in one or two sentences.
        style: ``score``, ``number``, ``heat`` (a number on a coloured ground) or ``cost``.
        shown: whether it is visible at first.
        narrow: whether it is visible at first on a narrow screen.
        short: heading on a narrow screen.
    """

    name: str
    title: str
    note: str
    style: str = "number"
    shown: bool = True
    narrow: bool = False
    short: str = ""


@dataclass(frozen=True)
class View:
    """A choice of columns. All views of a board have the same rows in the same order.

    Attributes:
        name: identifier in paths: ``edit_score`` or the name of a measure.
        title: heading.
        definition: the definition in words.
        share: whether the values lie between 0 and 1.
    """

    name: str
    title: str
    definition: str
    share: bool


VIEWS: Mapping[str, View] = {
    EDIT_SCORE_VIEW: View(EDIT_SCORE_VIEW, "Edit score", EDIT_SCORE_DEFINITION, share=True),
    **{name: View(name, m.title, m.definition, m.share) for name, m in MEASURES.items() if name in BOARD_MEASURES},
}
"""Views of a board. The first one is the front page. The others show criteria and the scores of the literature."""


def _titles(criteria: Collection[str]) -> str:
    return ", ".join(CRITERIA[name].title.casefold() for name in criteria)


_SHORT = {"direct": "Dir.", "wording": "Wor.", "inverse": "Inv.", "consequence": "Con."}
SCORE = Column("edit_score", "Edit score", EDIT_SCORE_DEFINITION, "score", narrow=True, short="Score")
COMPOSITES = (
    Column("score", "S", "Harmonic mean of reliability, paraphrase and neighbourhood (S of ROME)."),
    Column(
        "extended_score",
        "S extended",
        "Harmonic mean of the criteria of S, and of symmetry and synonymous invariance where defined.",
    ),
)
"""Scores of the literature. None of them orders a table."""
SECONDS = Column(
    "seconds",
    "s / edit",
    "Median seconds to compute one edit, on the machine that is named on the page of the result.",
    "cost",
)
COSTS = (
    SECONDS,
    Column("changed", "Changed", "Bytes of the parameters that an edit replaces, median.", "cost", shown=False),
    Column("memory", "Memory", "Bytes that an edit keeps beside the weights, median.", "cost", shown=False),
    Column("facts_kept", "Entries", "Facts kept beside the weights, median over edits.", "cost", shown=False),
    Column(
        "bytes_per_fact",
        "Bytes / fact",
        "Bytes kept beside the weights per fact, after the last edit.",
        "cost",
        shown=False,
    ),
    Column(
        "seconds_per_query",
        "s / query",
        "Median seconds that a question takes longer than on the unedited model; methods beside the weights only.",
        "cost",
        shown=False,
    ),
    Column("training", "Training s", "Seconds that the training of the method took.", "cost", shown=False),
    Column("peak_memory", "Peak MB", "Peak memory while an edit is computed, in MiB, median.", "cost", shown=False),
    Column("failed", "Failed", "Number of failed edits. A failed edit counts as no edit.", "cost", shown=False),
)
_PARTS = (
    SCORE,
    Column("gain", "Gain", "Mean over the families of criteria, relative to what the unedited model leaves to gain."),
    Column(
        "preservation",
        "Preservation",
        "Geometric mean of the criteria that must stay as before: keeping one does not pay for destroying another.",
        short="Kept",
    ),
    *(
        Column(
            name,
            name.capitalize(),
            f"Gain on {_titles(criteria)}. {CRITERIA[criteria[0]].question}",
            "heat",
            narrow=True,
            short=_SHORT.get(name, name),
        )
        for name, criteria in FAMILIES.items()
    ),
    Column("immediate", "Immediate", "Edit score of each case right after its own edit of the sequence.", shown=False),
    Column("checkpoints", "Checkpoints", "Mean of the edit scores at the checkpoints of the sequence.", shown=False),
)
_KEPT = tuple(
    Column(
        f"kept_{name}",
        f"{CRITERIA[name].title} kept",
        f"{CRITERIA[name].question} Mean closeness to the unedited model: exp(-KL), or 0 if the preference changed.",
        "heat",
        shown=False,
    )
    for name in PRESERVATION
)


def edit_score_columns(present: Collection[str], *, one_task: bool = False) -> list[Column]:
    """Return the score, its parts and the scores of the literature that some method has, and the costs.

    Args:
        present: names of the columns that have numbers.
        one_task: whether the table is of one task, which shows the criteria of preservation, too.
    """
    wanted = {"edit_score", "gain", "preservation", *present}
    kept = [replace(column, shown=one_task) for column in _KEPT]
    literature = [replace(column, shown=False) for column in COMPOSITES]
    return [column for column in (*_PARTS, *kept, *literature, *COSTS) if column.name in wanted]


def measure_columns(present: Collection[str], *, share: bool) -> list[Column]:
    """Return the edit score, the criteria and the scores of the literature that some method has, and the seconds.

    The other costs do not depend on the measure: the first view has them.
    """
    style = "heat" if share else "number"
    criteria = [
        Column(c.name, c.title, c.question, style, narrow=True, short=f"{c.title[:4]}.") for c in CRITERIA.values()
    ]
    return [SCORE, *(c for c in (*criteria, *COMPOSITES, SECONDS) if c.name in present)]


def all_columns() -> list[Column]:
    """Return every column of every view, for the page that defines them."""
    criteria = [Column(c.name, c.title, c.question) for c in CRITERIA.values()]
    return [*_PARTS, *criteria, *_KEPT, *COMPOSITES, *COSTS]


def sequential_cells(results: Sequence[Result]) -> Mapping[str, Score]:
    """Return the other two forms of the edit score of sequential runs, averaged over tasks; empty for other runs."""
    immediate = [result.immediate_edit_score for result in results]
    checkpoints = [mean_over_checkpoints(result) for result in results]
    cases = sum(result.records.cases for result in results)
    found = {
        "immediate": [None if score is None else score.value for score in immediate],
        "checkpoints": checkpoints,
    }
    return {
        name: Score(sum(kept) / len(kept), None, None, "none", cases, tasks=len(kept))
        for name, values in found.items()
        if len(kept := [value for value in values if value is not None]) == len(results)
    }


def edit_score_cells(row: ScoredMethod) -> Mapping[str, Score]:
    """Return the numbers of a method by the name of their column."""

    def score(value: float, low: float | None = None, high: float | None = None) -> Score:
        return Score(value, low, high, "percentile", row.cases, tasks=row.tasks)

    return {
        "edit_score": score(row.value, row.low, row.high),
        "gain": score(row.gain, row.gain_low, row.gain_high),
        "preservation": score(row.preservation, row.preservation_low, row.preservation_high),
        **{name: score(value) for name, value in row.families.items()},
        **{f"kept_{name}": score(value) for name, value in row.kept.items()},
    }
