"""Reads the prompts that accompany an edit (paraphrases, locality, portability) in the forms of several data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .cases import SidePrompt
from .fields import strings_in, without_nq_tag
from .rows import Row
from .skips import SkipReport

# The names of the same field in KnowEdit, zsRE with portability (EasyEdit, EVOKE), CKnowEdit and QAEdit.
PROMPT_FIELDS = ("prompt", "New Question", "question", "loc")
ANSWER_FIELDS = ("ground_truth", "New Answer", "answer", "answers", "loc_ans", "target")
OLD_ANSWER_FIELD = "Original Answer"


def side_prompts(value: Any, name: str, row: Row, report: SkipReport) -> tuple[SidePrompt, ...]:
    """Return the prompts of a field with their answers.

    The field holds one entry, a list of entries, or groups of entries by name ("Relation_Specificity", "Reasoning").
    An entry has a prompt and its answers, or two lists of the same length. The answers of one prompt are one string, a
    list of spellings, or a list of such lists. All of them are accepted spellings.

    Args:
        value: the value of the field; None if the record has no such field.
        name: the name of the field as the report names it.
        row: the record.
        report: receives each entry without exactly one prompt and an answer.
    """
    found: list[SidePrompt] = []
    for entry in _entries(value):
        prompts = list(_prompts(entry)) if isinstance(entry, Mapping) else []
        if not prompts:
            report.skip_probe(row.location, f"{name}: not exactly one prompt with an answer")
        found += prompts
    return tuple(found)


def paired_prompts(
    record: Mapping[str, Any], prompt: str, answer: str, row: Row, report: SkipReport
) -> tuple[SidePrompt, ...]:
    """Return the prompts and answers that a record keeps in two flat fields; nothing if both fields are empty."""
    if not record.get(prompt) and not record.get(answer):
        return ()
    entry = {PROMPT_FIELDS[0]: record.get(prompt), ANSWER_FIELDS[0]: record.get(answer)}
    return side_prompts(entry, prompt, row, report)


def plain_prompts(value: Any, name: str, row: Row, report: SkipReport) -> tuple[str, ...]:
    """Return the prompts of a string, or of a list of strings and of objects with a prompt.

    Other items are reported.
    """
    found: list[str] = []
    for item in _items(value):
        prompts = strings_in(_first(item, PROMPT_FIELDS) if isinstance(item, Mapping) else item)
        if len(prompts) != 1:
            report.skip_probe(row.location, f"{name}: not a prompt")
        found += prompts[:1] if len(prompts) == 1 else []
    return tuple(found)


def prompts_of_fact(
    value: Any, answers: tuple[str, ...], name: str, row: Row, report: SkipReport
) -> tuple[SidePrompt, ...]:
    """Return prompts with the answers of a fact; an object with a prompt may give its own answers instead."""
    found: list[SidePrompt] = []
    for item in _items(value):
        if isinstance(item, Mapping) and _first(item, ANSWER_FIELDS) is not None:
            found += side_prompts(item, name, row, report)
        else:
            found += [SidePrompt(prompt, answers) for prompt in plain_prompts([item], name, row, report)]
    return tuple(found)


def _items(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _entries(value: Any) -> Iterator[Any]:
    """Yield the entries of a field: of a list, of groups, or the field itself."""
    if isinstance(value, Mapping) and _first(value, PROMPT_FIELDS) is None:
        for group in value.values():
            yield from _entries(group)
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item) if isinstance(item, Mapping | list) else [item]
    elif value is not None and value != "":
        yield value


def _prompts(entry: Mapping[str, Any]) -> Iterator[SidePrompt]:
    prompt, answer = _first(entry, PROMPT_FIELDS), _first(entry, ANSWER_FIELDS)
    if isinstance(answer, Mapping):
        answer = [answer.get("value"), answer.get("aliases")]
    if isinstance(prompt, list) and isinstance(answer, list) and len(prompt) == len(answer) != 1:
        pairs = list(zip(prompt, answer, strict=True))
    else:
        pairs = [(prompt, answer)]
    # Either all prompts of an entry are readable or none is: a part of it would not be reported.
    read = [(strings_in(prompt), strings_in(answer)) for prompt, answer in pairs]
    if all(len(prompts) == 1 and answers for prompts, answers in read):
        rivals = strings_in(entry.get(OLD_ANSWER_FIELD)) if len(read) == 1 else ()
        for prompts, answers in read:
            yield SidePrompt(without_nq_tag(prompts[0]), answers, rivals[0] if rivals else "")


def _first(entry: Mapping[str, Any], fields: tuple[str, ...]) -> Any:
    return next((entry[field] for field in fields if entry.get(field) is not None), None)
