"""HalluEditBench: questions that a model answered wrongly, to be edited to the answer of Wikidata (Huang et al. 2025).

Each file holds the questions that one model answered wrongly, with its answers. Other models may answer them correctly;
``--known-only`` leaves out those that the edited model answers correctly before the edit.
"""

from __future__ import annotations

import re

from .shared.cases import EditFields, SidePrompt
from .shared.fields import keyed_on, required_answers, required_text
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import paired_prompts, plain_prompts
from .shared.skips import SkipReport

CARD = TaskCard(
    name="halluedit",
    kind="fact",
    title="HalluEditBench",
    description="Questions that a language model answered wrongly, edited to the answer of Wikidata, with rephrased, "
    "yes-no, multiple-choice, inverse and multi-hop questions.",
    licence="CC-BY-4.0, as a comment of the repository's README states; it has no licence file",
    citation="Huang, Chen, Xu, Payani, Shu (2025), Can Knowledge Editing Really Correct Hallucinations?, ICLR.",
    source="HalluEditBench, https://github.com/baixianghuang/HalluEditBench",
    relation="various relations of Wikidata",
)
HOPS = range(2, 7)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record, which has no answer before the edit that holds for every model.

    Yes-no and multiple-choice questions are generalisation, as in the paper. The question of locality has no answer in
    the file and is left out.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    value = row.value
    name = required_text(value, "subject")
    subject, question = keyed_on(name, required_text(value, "question"))
    if value.get("locality_question"):
        report.skip_probe(row.location, "locality_question: no answer")
    inverse = plain_prompts(value.get("reversed_relation_question"), "reversed_relation_question", row, report)
    hops = [paired_prompts(value, f"question_{n}hop", f"answer_{n}hop", row, report) for n in HOPS]
    return EditFields(
        subject=subject,
        prompt=question,
        new=required_answers(value, "object"),
        true=(),
        paraphrases=plain_prompts(value.get("paraphrased_question"), "paraphrased_question", row, report),
        answered=tuple(_answered(row, report)),
        symmetry=tuple(SidePrompt(prompt, (name,)) for prompt in inverse),
        portability=tuple(prompt for found in hops for prompt in found),
    )


def _answered(row: Row, report: SkipReport) -> list[SidePrompt]:
    """Return the yes-no and multiple-choice questions with their answers."""
    value = row.value
    found = []
    for field, answer, other in (("yes_question", "Yes", "No"), ("no_question", "No", "Yes")):
        for prompt in plain_prompts(value.get(field), field, row, report):
            found.append(SidePrompt(prompt, (answer,), other))
    options = plain_prompts(value.get("multiple_choice_with_letters"), "multiple_choice_with_letters", row, report)
    letter = str(value.get("multiple_choice_labels", ""))
    for choices in options:
        if re.fullmatch("[A-Z]", letter):
            found.append(SidePrompt(f"{required_text(value, 'question')} {choices} Answer:", (letter,)))
        else:
            report.skip_probe(row.location, "multiple_choice_labels: not a letter")
    return found


READER = edit_reader(CARD, parse)
