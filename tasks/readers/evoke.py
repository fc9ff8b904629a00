"""EVOKE: records in the form of CounterFact that show overfitting to the edit (Zhang et al. 2025)."""

from __future__ import annotations

from dataclasses import replace

from . import counterfact
from .shared.cases import EditFields
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import prompts_of_fact, side_prompts
from .shared.skips import SkipReport

CARD = TaskCard(
    name="evoke",
    kind="fact",
    title="EVOKE",
    description="Facts to be replaced, with prompts that an edited model answers by the new target where it should "
    "not: consequences, other facts of the subject, and neighbours after the repeated edit.",
    licence="MIT",
    citation="Zhang, Ye, Liu, Wu, Ren, Chen (2025), Uncovering Overfitting in Large Language Model Editing, ICLR.",
    source="EVOKE, https://github.com/Acruxos/EVOKE",
    relation="various relations of Wikidata",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record of the main file or of the subject-specificity file.

    The prompts for data augmentation are training data of the authors' method and are ignored.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    fields, value = counterfact.parse(row, report), row.value
    return replace(
        fields,
        unrelated=side_prompts(value.get("relation_specificity"), "relation_specificity", row, report),
        distractor=prompts_of_fact(value.get("prefix_distraction"), fields.true, "prefix_distraction", row, report),
    )


READER = edit_reader(CARD, parse)
