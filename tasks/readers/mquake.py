"""MQuAKE: several edits per case and the multi-hop questions that follow from them (Zhong et al. 2023).

The files MQuAKE-CF, MQuAKE-CF-3k, MQuAKE-T, MQuAKE-hard and MQuAKE-Remastered have the same form, except that the edits
of Remastered are flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .counterfact import target
from .shared.cases import EditFields, SidePrompt
from .shared.fields import required_answers, required_text, strings_in, with_slot
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.side_prompts import plain_prompts
from .shared.skips import SkipRecord, SkipReport

CARD = TaskCard(
    name="mquake",
    kind="fact",
    title="MQuAKE",
    description="Edits of the facts of a chain, made together, with the questions whose answer follows from the chain.",
    licence="MIT",
    citation="Zhong, Wu, Manning, Potts, Chen (2023), MQuAKE: Assessing Knowledge Editing in Language Models via "
    "Multi-Hop Questions, EMNLP.",
    source="MQuAKE, https://github.com/princeton-nlp/MQuAKE",
    relation="various relations of Wikidata",
)


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record.

    The multi-hop questions are portability, with the answer before the edits as rival. Hops of the new chain that no
    edit changes must keep their answer.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    rewrites = row.value.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites or not all(isinstance(r, Mapping) for r in rewrites):
        raise SkipRecord("field 'requested_rewrite' is not a list of edits")
    first, *others = [edit_of(rewrite) for rewrite in rewrites]
    questions = plain_prompts(row.value.get("questions"), "questions", row, report)
    new = _answers(row.value, "new_answer")
    old = strings_in(row.value.get("answer"))
    return replace(
        first,
        further=tuple(others),
        portability=tuple(SidePrompt(question, new, next(iter(old), "")) for question in questions),
        unedited=_unedited_hops(row, (first, *others), report),
    )


def edit_of(rewrite: Mapping[str, Any]) -> EditFields:
    """Return one edit, with its question as a paraphrase.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    flat = "target_new_str" in rewrite
    subject = required_text(rewrite, "subject")
    return EditFields(
        subject=subject,
        prompt=with_slot(required_text(rewrite, "prompt"), subject),
        new=required_answers(rewrite, "target_new_str") if flat else target(rewrite, "target_new"),
        true=required_answers(rewrite, "target_true_str") if flat else target(rewrite, "target_true"),
        paraphrases=strings_in(rewrite.get("question")),
    )


def _answers(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return an answer with its aliases."""
    return tuple(dict.fromkeys((*required_answers(value, key), *strings_in(value.get(f"{key}_alias")))))


def _unedited_hops(row: Row, edits: tuple[EditFields, ...], report: SkipReport) -> tuple[SidePrompt, ...]:
    """Return the hops of the new chain that are not edits."""
    edited = {edit.request.text for edit in edits} | {question for edit in edits for question in edit.paraphrases}
    hops = row.value.get("new_single_hops")
    found = []
    for hop in hops if isinstance(hops, list) else ():
        try:
            if not isinstance(hop, Mapping):
                raise SkipRecord("not an object")
            cloze = required_text(hop, "cloze")
            if cloze not in edited and hop.get("question") not in edited:
                found.append(SidePrompt(cloze, _answers(hop, "answer")))
        except SkipRecord as error:
            report.skip_probe(row.location, f"new_single_hops: {error}")
    return tuple(found)


READER = edit_reader(CARD, parse)
