"""AKEW: facts to be edited as text passages, as structured facts or as triplets (Wu et al. 2024).

The passages are read by default, and the structured facts with the selection ``structured``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...benchmark.core.errors import unknown_name
from ...benchmark.core.schema import Task
from . import counterfact, mquake
from .shared.cases import EditFields, SidePrompt
from .shared.fields import keyed_on, required_text, strings_in
from .shared.published_task import PublishedReader, TaskCard, build_edit_task
from .shared.rows import Row, load_rows, resolve_file
from .shared.skips import SkipRecord, SkipReport

SELECTIONS = ("passages", "structured")


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load one file of AKEW: MQuAKE-CF, CounterFact or WikiUpdate.

    Raises:
        KnbenchError: the selection or the source does not exist, or no record can be read.
    """
    if selection not in (None, *SELECTIONS):
        raise unknown_name("selection of akew", str(selection), SELECTIONS)
    report = SkipReport()
    source = resolve_file(source, "akew")
    part = selection or "passages"
    card = TaskCard(
        name=f"akew-{part}",
        kind="fact",
        title=f"AKEW ({part})",
        description="Facts that are edited as a passage of text, and asked for as short answers.",
        licence="none stated",
        citation="Wu, Pan, Wang, Luu (2024), AKEW: Assessing Knowledge Editing in the Wild, EMNLP.",
        source="AKEW, https://github.com/bobxwu/AKEW",
        relation="various relations of Wikidata",
    )
    parse = parse_passages if part == "passages" else parse_structured
    return build_edit_task(load_rows(source, report), parse, report, source, card)


def parse_structured(row: Row, report: SkipReport) -> EditFields:
    """Return the structured edits of a record.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    if isinstance(row.value.get("requested_rewrite"), list):
        return mquake.parse(row, report)
    return counterfact.parse(row, report)


def parse_passages(row: Row, report: SkipReport) -> EditFields:
    """Return the edits of a record as passages: the question is to be answered by the passage.

    The structured prompt and the multi-hop questions are portability. Triplets that a model extracted from the passages
    are a third form of the same edits and are left out.

    Raises:
        SkipRecord: a field is missing or has another type.
    """
    fields = parse_structured(row, report)
    value = row.value["requested_rewrite"]
    edits = (replace(fields, further=()), *fields.further)
    rewrites = value if isinstance(value, list) else [value]
    first, *others = [_passage(rewrite) for rewrite in rewrites]
    for rewrite in rewrites:
        if rewrite.get("unsfact_triplets_GPT"):
            report.skip_probe(row.location, "unsfact_triplets_GPT: another form of the same edit")
    asked = tuple(SidePrompt(edit.request.text, edit.new, edit.true[0]) for edit in edits)
    return replace(first, further=tuple(others), portability=(*asked, *fields.portability), unedited=fields.unedited)


def _passage(rewrite: Mapping[str, Any]) -> EditFields:
    passage = strings_in(rewrite.get("fact_new_uns"))
    if not passage:
        raise SkipRecord("field 'fact_new_uns' is missing")
    subject, question = keyed_on(required_text(rewrite, "subject"), required_text(rewrite, "question"))
    return EditFields(subject=subject, prompt=question, new=passage[:1], true=())


READER = PublishedReader("akew", load)
