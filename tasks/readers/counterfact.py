"""CounterFact: facts to be replaced, with paraphrases and neighbourhood prompts (Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...benchmark.core.schema import Task
from .shared.cases import Answers, EditFields
from .shared.fields import required_answers, required_text, with_slot
from .shared.published_task import PublishedReader, TaskCard, build_edit_task, reject_selection
from .shared.rows import Row, load_rows, resolve_file
from .shared.side_prompts import plain_prompts, prompts_of_fact, side_prompts
from .shared.skips import SkipRecord, SkipReport

DEFAULT_SOURCE = "azhx/counterfact"


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load CounterFact from a file, a folder with one data file, or the Hub.

    Raises:
        KnbenchError: a selection is given, the source cannot be loaded, or no record can be read.
    """
    reject_selection("counterfact", selection)
    source = resolve_file(source, "counterfact")
    report = SkipReport()
    card = TaskCard(
        name="counterfact",
        kind="fact",
        title="CounterFact",
        description="Facts of Wikidata, each to be replaced by a false one, with paraphrases and neighbours of the "
        "same answer.",
        licence="MIT",
        citation="Meng, Bau, Andonian, Belinkov (2022), Locating and Editing Factual Associations in GPT, NeurIPS.",
        source="CounterFact, https://rome.baulab.info/",
        relation="34 relations of Wikidata",
    )
    return build_edit_task(load_rows(source, report), parse, report, source, card)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record. Attribute and generation prompts are ignored, since no criterion scores them.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    rewrite = row.value.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        raise SkipRecord("field 'requested_rewrite' is missing")
    subject = required_text(rewrite, "subject")
    true = _target(rewrite, "target_true")
    return EditFields(
        subject=subject,
        prompt=with_slot(required_text(rewrite, "prompt"), subject),
        new=_target(rewrite, "target_new"),
        true=true,
        paraphrases=plain_prompts(row.value.get("paraphrase_prompts"), "paraphrase_prompts", row, report),
        locality=prompts_of_fact(row.value.get("neighborhood_prompts"), true, "neighborhood_prompts", row, report),
        portability=side_prompts(row.value.get("portability"), "portability", row, report),
    )


def _target(rewrite: Mapping[str, Any], key: str) -> Answers:
    """Return an answer with its other spellings, from an object with the field "str" or from the spellings alone."""
    target = rewrite.get(key)
    if isinstance(target, Mapping):
        return required_answers(target, "str", parent=key)
    return required_answers(rewrite, key)


READER = PublishedReader("counterfact", load, DEFAULT_SOURCE)
