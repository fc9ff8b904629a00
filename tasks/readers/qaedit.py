"""QAEdit: questions of three question-answering data sets, to be answered correctly (Yang et al. 2025)."""

from __future__ import annotations

from .shared.cases import EditFields
from .shared.fields import keyed_on, required_answers, required_text
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import plain_prompts, side_prompts
from .shared.skips import SkipReport

CARD = TaskCard(
    name="qaedit",
    kind="fact",
    title="QAEdit",
    description="Questions of Natural Questions, TriviaQA and SimpleQA, edited to their correct answers, with a "
    "rephrased question and unrelated ones.",
    licence="Apache-2.0",
    citation="Yang, Sun, Tan, Cao, Wu, Wang, Shen, Zhang (2025), The Mirage of Model Editing: Revisiting Evaluation in "
    "the Wild, ACL.",
    source="QAEdit, https://github.com/WanliYoung/Revisit-Editing-Evaluation",
    relation="open questions",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record, which has no answer before the edit.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    value = row.value
    subject, prompt = keyed_on(required_text(value, "subject"), required_text(value, "prompt"))
    return EditFields(
        subject=subject,
        prompt=prompt,
        new=required_answers(value, "target"),
        true=(),
        paraphrases=plain_prompts(value.get("rephrase"), "rephrase", row, report),
        locality=side_prompts(value.get("locality"), "locality", row, report),
    )


READER = edit_reader(CARD, parse)
