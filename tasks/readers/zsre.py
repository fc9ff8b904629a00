"""zsRE: question answering, in the format of MEND and ROME and in that of EasyEdit."""

from __future__ import annotations

from ...benchmark.core.schema import Task
from . import knowedit
from .shared.cases import EditFields
from .shared.fields import required_answers, required_text, strings_in, with_slot
from .shared.published_task import PublishedReader, TaskCard, build_edit_task, reject_selection
from .shared.rows import Row, load_rows, resolve_file
from .shared.side_prompts import paired_prompts, plain_prompts, side_prompts
from .shared.skips import SkipReport

# The copy in KnowEdit: it has new answers, which zsRE itself lacks.
DEFAULT_SOURCE = f"{knowedit.DEFAULT_SOURCE}:benchmark/{knowedit.SELECTIONS['zsre']}"


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load zsRE from a file, a folder with one data file, or the Hub. The answer follows the question after a space.

    Raises:
        KnbenchError: a selection is given, the source cannot be loaded, or no record can be read.
    """
    reject_selection("zsre", selection)
    source = resolve_file(source, "zsre")
    report = SkipReport()
    card = TaskCard(
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
    return build_edit_task(load_rows(source, report), parse, report, source, card)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record in either format.

    Raises:
        SkipRecord: a field is missing or has another type, or the subject does not occur in the question.
    """
    value = row.value
    if "src" not in value and "prompt" in value:
        return knowedit.parse(row, report)
    subject, question = required_text(value, "subject"), required_text(value, "src")
    return EditFields(
        subject=subject,
        prompt=with_slot(question, subject),
        new=required_answers(value, "alt"),
        true=strings_in(value.get("answers")),
        paraphrases=plain_prompts(value.get("rephrase"), "rephrase", row, report),
        locality=paired_prompts(value, "loc", "loc_ans", row, report),
        portability=side_prompts(value.get("portability"), "portability", row, report),
    )


READER = PublishedReader("zsre", load, DEFAULT_SOURCE)
