"""FEVER for model editing, in the form of MALMEN and RLEdit: claims whose verdict is to be reversed."""

from __future__ import annotations

from .shared.cases import EditFields
from .shared.fields import required_answers, required_text, strings_in
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import paired_prompts, plain_prompts
from .shared.skips import SkipReport

CARD = TaskCard(
    name="fever",
    kind="fact",
    title="FEVER",
    description="Claims, each followed by its verdict (SUPPORTS or REFUTES), which is to be reversed.",
    licence="CC-BY-SA-3.0 and GPL-3.0, the licences of FEVER",
    citation="Thorne, Vlachos, Christodoulopoulos, Mittal (2018), FEVER: a Large-scale Dataset for Fact Extraction and "
    "VERification, NAACL; De Cao, Aziz, Titov (2021), Editing Factual Knowledge in Language Models, EMNLP.",
    source="FEVER (https://fever.ai/) as prepared for model editing, as RLEdit and MALMEN read it",
    relation="verdict of a claim",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record. It names no subject.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    return EditFields(
        subject="",
        prompt=required_text(row.value, "prompt"),
        new=required_answers(row.value, "alt"),
        true=strings_in(row.value.get("ans")),
        paraphrases=plain_prompts(row.value.get("equiv_prompt"), "equiv_prompt", row, report),
        locality=paired_prompts(row.value, "unrel_prompt", "unrel_ans", row, report),
    )


READER = edit_reader(CARD, parse)
