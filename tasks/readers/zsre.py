"""zsRE: question answering, in the format of MEND and ROME and in that of EasyEdit."""

from __future__ import annotations

from . import knowedit
from .shared.cases import EditFields
from .shared.fields import required_answers, required_text, strings_in, with_slot
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import paired_prompts, plain_prompts, side_prompts
from .shared.skips import SkipReport

CONFLICT_FIELDS = ("counter_answer", "golden_answer")
"""The new and the true answer of the records of SA-MCQ, which also have passages of evidence for several answers."""
# The copy in KnowEdit: it has new answers, which zsRE itself lacks.
DEFAULT_SOURCE = f"{knowedit.DEFAULT_SOURCE}:benchmark/{knowedit.SELECTIONS['zsre']}"
CARD = TaskCard(
    name="zsre",
    kind="fact",
    title="zsRE",
    description="Questions about an entity, each to be answered otherwise, with a rephrased question and an "
    "unrelated one.",
    licence="MIT, the licence of the MEND and KnowEdit repositories",
    citation="Levy, Seo, Choi, Zettlemoyer (2017), Zero-Shot Relation Extraction via Reading Comprehension, CoNLL; "
    "Mitchell, Lin, Bosselut, Finn, Manning (2022), Fast Model Editing at Scale, ICLR.",
    source="zsRE as prepared for model editing, https://github.com/eric-mitchell/mend",
    relation="various relations of Wikidata, as questions",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record in either format.

    Raises:
        SkipRecord: a field is missing or has another type, or the subject does not occur in the question.
    """
    value = row.value
    if "src" not in value and "prompt" in value:
        return knowedit.parse(row, report)
    subject, question = required_text(value, "subject"), required_text(value, "src")
    new, true = CONFLICT_FIELDS
    return EditFields(
        subject=subject,
        prompt=with_slot(question, subject),
        new=required_answers(value, "alt" if "alt" in value or new not in value else new),
        true=strings_in(value.get("answers", value.get(true))),
        paraphrases=plain_prompts(value.get("rephrase"), "rephrase", row, report),
        locality=paired_prompts(value, "loc", "loc_ans", row, report),
        portability=side_prompts(value.get("portability"), "portability", row, report),
    )


READER = edit_reader(CARD, parse, DEFAULT_SOURCE)
