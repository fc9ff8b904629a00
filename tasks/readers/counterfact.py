"""CounterFact: facts to be replaced, with paraphrases and neighbourhood prompts (Meng et al. 2022).

Three forms exist: the nested records of ROME, also of ``multi_counterfact.json`` of MEMIT; the flat records of
EasyEdit; and the questions of ENCORE, which have no true answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import knowedit
from .shared.cases import Answers, EditFields
from .shared.fields import required_answers, required_text, with_slot
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import plain_prompts, prompts_of_fact, side_prompts
from .shared.skips import SkipRecord, SkipReport

DEFAULT_SOURCE = "azhx/counterfact"
CARD = TaskCard(
    name="counterfact",
    kind="fact",
    title="CounterFact",
    description="Facts of Wikidata, each to be replaced by a false one, with paraphrases and neighbours of the same "
    "answer.",
    licence="MIT",
    citation="Meng, Bau, Andonian, Belinkov (2022), Locating and Editing Factual Associations in GPT, NeurIPS.",
    source="CounterFact, https://rome.baulab.info/",
    relation="34 relations of Wikidata",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record. Attribute and generation prompts are ignored, since no criterion scores them.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    if "requested_rewrite" not in row.value and "prompt" in row.value:
        return knowedit.parse(row, report)
    if "qna_question" in row.value:
        return _question(row, report)
    rewrite = row.value.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        raise SkipRecord("field 'requested_rewrite' is missing")
    subject = required_text(rewrite, "subject")
    true = target(rewrite, "target_true")
    return EditFields(
        subject=subject,
        prompt=with_slot(required_text(rewrite, "prompt"), subject),
        new=target(rewrite, "target_new"),
        true=true,
        paraphrases=plain_prompts(row.value.get("paraphrase_prompts"), "paraphrase_prompts", row, report),
        locality=prompts_of_fact(row.value.get("neighborhood_prompts"), true, "neighborhood_prompts", row, report),
        portability=side_prompts(row.value.get("portability"), "portability", row, report),
    )


def _question(row: Row, report: SkipReport) -> EditFields:
    subject = required_text(row.value, "subject")
    return EditFields(
        subject=subject,
        prompt=with_slot(required_text(row.value, "question"), subject),
        new=required_answers(row.value, "answer"),
        true=(),
        paraphrases=plain_prompts(row.value.get("qna_question"), "qna_question", row, report),
    )


def target(rewrite: Mapping[str, Any], key: str) -> Answers:
    """Return an answer with its other spellings, from an object with the field "str" or from the spellings alone.

    Raises:
        SkipRecord: the field is missing or has another type.
    """
    value = rewrite.get(key)
    if isinstance(value, Mapping):
        return required_answers(value, "str", parent=key)
    return required_answers(rewrite, key)


READER = edit_reader(CARD, parse, DEFAULT_SOURCE)
