"""RippleEdits: the consequences of an edit, each tested only if the model knows what it rests on (Cohen et al. 2024).

A record names neither subject nor target; both are read from the wording of the edit, which depends on the relation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...benchmark.core.schema import SLOT
from .shared.cases import Answers, EditFields, SidePrompt
from .shared.fields import required_text, strings_in
from .shared.published_task import TaskCard, edit_reader
from .shared.rows import Row
from .shared.skips import SkipRecord, SkipReport

CARD = TaskCard(
    name="rippleedits",
    kind="fact",
    title="RippleEdits",
    description="Facts of Wikidata, new or replaced, with six kinds of tests of what must follow from them and what "
    "must stay.",
    licence="MIT",
    citation="Cohen, Biran, Yoran, Globerson, Geva (2024), Evaluating the Ripple Effects of Knowledge Editing in "
    "Language Models, TACL 12.",
    source="RippleEdits, https://github.com/edenbiran/RippleEdits",
    relation="various relations of Wikidata",
)
CONSEQUENCES = ("Logical_Generalization", "Compositionality_I", "Compositionality_II")
KEPT = ("Relation_Specificity", "Relation_Specifity", "Forgetfulness")
OWN_WORDS = {"sex or gender": "gender", "native language": "mother tongue", "capital": "capital city"}
ASSOCIATED = "is associated with|is a member of|plays in|is part of|is the capital of"


def parse(row: Row, report: SkipReport) -> EditFields:
    """Return the fields of a record.

    Raises:
        SkipRecord: a field is missing or has another type, or the wording of the edit is unknown.
    """
    edit = row.value.get("edit")
    if not isinstance(edit, Mapping):
        raise SkipRecord("field 'edit' is missing")
    relation = required_text(edit, "relation")
    prompt, subject, new = _split(required_text(edit, "prompt"), relation)
    if not new:
        raise SkipRecord("the new target has no name")
    before = edit.get("original_fact")
    old = required_text(before, "prompt") if isinstance(before, Mapping) else ""
    true = _split(old, relation)[2] if old else ""
    aliased = tuple(_side_prompts(row, ("Subject_Aliasing",), report))
    return EditFields(
        subject=subject,
        prompt=prompt,
        new=next((side.answers for side in aliased if side.answers[0] == new), (new,)),
        true=(true,) if true else (),
        portability=tuple(_side_prompts(row, CONSEQUENCES, report)),
        synonym=aliased,
        unrelated=tuple(_side_prompts(row, KEPT, report)),
    )


def _split(fact: str, relation: str) -> tuple[str, str, str]:
    """Return the prompt with ``{}`` for the subject, the subject and the target of a fact in words.

    >>> _split("The gender of Ann is female.", "SEX_OR_GENDER")
    ('The gender of {} is', 'Ann', 'female')
    >>> _split("The name of the country which Oslo is the capital of is Norway.", "CAPITAL_OF")
    ('The name of the country which {} is the capital of is', 'Oslo', 'Norway')

    Raises:
        SkipRecord: the wording is unknown, or the subject is empty.
    """
    words = relation.replace("_", " ").lower()
    words = OWN_WORDS.get(words, words)
    wordings = (
        rf"(?P<before>The .*? which )(?P<subject>.*?)(?P<after> (?:{ASSOCIATED}) is) ",
        r"(?P<before>The (?:number of children|name of the award) )(?P<subject>.*?)(?P<after> (?:has|won) is) ",
        rf"(?P<before>The (?:names? of the )?{re.escape(words)}s? (?:of|by|in) )"
        r"(?P<subject>.*?)(?P<after> (?:is|are)) ",
        r"(?P<before>)(?P<subject>.*?)(?P<after> (?:follows|is followed by)) ",
    )
    for wording in wordings:
        match = re.match(wording, fact)
        if match is None:
            continue
        subject = match["subject"].strip()
        if not subject:
            raise SkipRecord("the subject has no name")
        target = fact[match.end() :].strip().removesuffix(".").strip()
        return f"{match['before']}{SLOT}{match['after']}", subject, target
    raise SkipRecord("the wording of the edit is unknown")


def _side_prompts(row: Row, kinds: tuple[str, ...], report: SkipReport) -> Iterator[SidePrompt]:
    """Yield the test queries of some kinds, with the conditions of their tests.

    A condition that repeats a consequence asks for the new answer before the edit and is left out.
    """
    for kind in kinds:
        tests = row.value.get(kind)
        for test in tests if isinstance(tests, list) else ():
            if not isinstance(test, Mapping):
                report.skip_probe(row.location, f"{kind}: not an object")
                continue
            conditions = tuple(filter(None, map(_query, _list(test, "condition_queries"))))
            for query in map(_query, _list(test, "test_queries")):
                if query is None:
                    report.skip_probe(row.location, f"{kind}: no prompt with a named subject and an answer")
                    continue
                needed = conditions if kind in KEPT else tuple(c for c in conditions if c[0] != query[0])
                yield SidePrompt(query[0], query[1], conditions=needed)


def _list(test: Mapping[str, Any], key: str) -> list[Any]:
    value = test.get(key)
    return value if isinstance(value, list) else []


def _query(query: Any) -> tuple[str, Answers] | None:
    """Return prompt and accepted answers of a query; None without an answer, or if its subject has no name."""
    prompt = query.get("prompt") if isinstance(query, Mapping) else None
    if not isinstance(prompt, str) or "  " in prompt or not isinstance(query.get("answers"), list):
        return None
    answers = [a for answer in query["answers"] if isinstance(answer, Mapping) for a in _spellings(answer)]
    return (prompt.strip(), tuple(dict.fromkeys(answers))) if prompt.strip() and answers else None


def _spellings(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return strings_in([answer.get("value"), answer.get("aliases")])


READER = edit_reader(CARD, parse)
