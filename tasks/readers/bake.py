"""BAKE: CounterFact records with questions of the inverse direction (Ma et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from . import counterfact
from .shared.cases import EditFields, SidePrompt
from .shared.fields import required_text
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.skips import SkipRecord, SkipReport

REVERSE_FIELDS = ("reverse_qa", "reverse_judge")
CARD = TaskCard(
    name="bake",
    kind="fact",
    title="BAKE",
    description="Facts to be replaced, with the inverse relation asked as a question and as a judgement.",
    licence="none stated",
    citation="Ma, Gu, Ling, Liu, Liu (2023), Untying the Reversal Curse via Bidirectional Language Model Editing, "
    "arXiv:2310.10322.",
    source="BAKE, https://huggingface.co/datasets/jym7/BAKE",
    relation="various relations of Wikidata",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record. Either question of the inverse direction may be missing.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    fields = counterfact.parse(row, report)
    symmetry = []
    for name in REVERSE_FIELDS:
        question = row.value.get(name)
        if isinstance(question, Mapping):
            try:
                new = counterfact.target(question, "target_new")
                old = counterfact.target(question, "target_true")[0]
                symmetry.append(SidePrompt(required_text(question, "prompt"), new, old))
            except SkipRecord as error:
                report.skip_probe(row.location, f"{name}: {error}")
    return replace(fields, symmetry=tuple(symmetry))


READER = edit_reader(CARD, parse)
