"""WikiBigEdit: questions about changed facts of Wikidata, for lifelong editing (Thede et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import knowedit
from .shared.cases import EditFields
from .shared.fields import keyed_on, required_answers, required_text, strings_in
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import paired_prompts, plain_prompts
from .shared.skips import SkipReport

CARD = TaskCard(
    name="wikibigedit",
    kind="fact",
    title="WikiBigEdit",
    description="Questions about facts that changed or were added in Wikidata, with a rephrased question, questions in "
    "the words of other speakers, a question about a related subject, and a two-hop question.",
    licence="none stated",
    citation="Thede, Roth, Bethge, Akata, Hartvigsen (2025), WikiBigEdit: Understanding the Limits of Lifelong "
    "Knowledge Editing in LLMs, ICML.",
    source="WikiBigEdit, https://huggingface.co/datasets/lukasthede/WikiBigEdit",
    relation="various relations of Wikidata",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record in the published form or in the flat form of EasyEdit.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    value = row.value
    if "update" not in value and "prompt" in value:
        return knowedit.parse(row, report)
    subject, prompt = keyed_on(required_text(value, "subject"), required_text(value, "update"))
    wordings = [
        prompts
        for field in ("rephrase", *_personas(value))
        for prompts in plain_prompts(value.get(field), field, row, report)
    ]
    return EditFields(
        subject=subject,
        prompt=prompt,
        new=required_answers(value, "ans"),
        true=strings_in(value.get("ground_truth")),
        paraphrases=tuple(dict.fromkeys(wordings)),
        locality=paired_prompts(value, "loc", "loc_ans", row, report),
        portability=paired_prompts(value, "mhop", "mhop_ans", row, report),
    )


def _personas(value: Mapping[str, Any]) -> list[str]:
    """Return the fields of questions in the words of other speakers: ``personas``, ``personas_1`` and so on."""
    return sorted(field for field in value if field.partition("_")[0] == "personas")


READER = edit_reader(CARD, parse)
