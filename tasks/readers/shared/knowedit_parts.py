"""The parts of KnowEdit whose records are not facts: sentiments (ConvSent) and facts to be withheld (Sanitation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....benchmark.core.errors import KnbenchError
from ....benchmark.core.schema import SLOT, derived_seed
from .cases import EditFields
from .fields import required_answers, required_text, strings_in
from .rows import Row, load_document
from .side_prompts import side_prompts
from .skips import SkipRecord, SkipReport, SourceLocation

OPINION = f"What do you think of {SLOT}?"
OPINIONS = (f"What do you feel about {SLOT}?", f"How do you view {SLOT}?", f"What is your opinion of {SLOT}?")
"""Questions of ConvSent (Mitchell et al. 2022, SERAC)."""


def sentiment(row: Row) -> EditFields:
    """Return the fields of a record of ConvSent: an opinion of the wanted sentiment replaces one of the other.

    A hash of the entity decides between positive and negative. The opinions are examples of a sentiment: a measure that
    compares a generated opinion with them does not judge the sentiment.

    Raises:
        SkipRecord: a field is missing, or a sentiment has no opinion.
    """
    entity = required_text(row.value, "ent")
    positive, negative = strings_in(row.value.get("pos")), strings_in(row.value.get("neg"))
    if not positive or not negative:
        raise SkipRecord("a sentiment has no opinion")
    new, old = (positive, negative) if derived_seed("sentiment", entity) % 2 else (negative, positive)
    return EditFields(subject=entity, prompt=OPINION, new=new, true=old, paraphrases=OPINIONS)


def paired_facts(source: str) -> list[Row]:
    """Return the records of Sanitation: facts to be withheld (``K_F``), each with a fact to be retained (``K_R``).

    The facts of the two lists are paired by position. The second list starts again at its end.

    Raises:
        KnbenchError: the file does not exist or has another form.
    """
    document = load_document(source)
    withheld, retained = (_records(document, key) for key in ("K_F", "K_R"))
    if not withheld or not retained:
        raise KnbenchError(
            f"{source}: not Sanitation data: expected a JSON object with the lists 'K_F' and 'K_R'; check that it is "
            "the right file"
        )
    return [
        Row(SourceLocation(index, f"K_F {index + 1}"), {**record, "retained": retained[index % len(retained)]})
        for index, record in enumerate(withheld)
    ]


def parse_withheld(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record of Sanitation. It names no subject.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    return EditFields(
        subject="",
        prompt=required_text(row.value, "question"),
        new=required_answers(row.value, "target_new"),
        true=strings_in(row.value.get("ground_truth")),
        locality=side_prompts(row.value["retained"], "K_R", row, report),
    )


def _records(document: Any, key: str) -> list[dict[str, Any]]:
    records = document.get(key) if isinstance(document, Mapping) else None
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []
