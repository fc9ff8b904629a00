"""UnKE and EditEverything of AnyEdit: questions with answers of several sentences (Deng et al. 2025)."""

from __future__ import annotations

from .shared.cases import EditFields, SidePrompt
from .shared.fields import required_answers, required_text, strings_in
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import plain_prompts
from .shared.skips import SkipReport

CARD = TaskCard(
    name="unke",
    kind="fact",
    title="UnKE",
    description="Questions to be answered by several sentences, with a paraphrase and with questions about parts "
    "of the answer. The protocol long-answers has its measures.",
    licence="none stated",
    citation="Deng, Wei, Pang, Ding, Shen, Cheng (2025), Everything is Editable: Extend Knowledge Editing to "
    "Unstructured Data in Large Language Models, ICLR; Jiang et al. (2025), AnyEdit: Edit Any Knowledge Encoded in "
    "Language Models, ICML.",
    source="UnKE, https://github.com/TrustedLLM/UnKE",
    relation="open questions",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record. It names no subject, and has no answer before the edit.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    questions, answers = strings_in(row.value.get("sub_question")), strings_in(row.value.get("sub_answer"))
    if len(questions) != len(answers):
        report.skip_probe(row.location, "sub_question and sub_answer have different lengths")
        questions = answers = ()
    pairs = zip(questions, answers, strict=True)
    return EditFields(
        subject="",
        prompt=required_text(row.value, "question"),
        new=required_answers(row.value, "answer"),
        true=(),
        paraphrases=plain_prompts(row.value.get("para_question"), "para_question", row, report),
        portability=tuple(SidePrompt(question, (answer,)) for question, answer in pairs),
    )


READER = edit_reader(CARD, parse)
