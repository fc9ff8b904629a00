"""Reads and normalises the fields of a record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ....benchmark.core.schema import SLOT
from .skips import SkipRecord

NQ_TAG = "nq question: "


def required_text(record: Mapping[str, Any], key: str) -> str:
    """Return a text field without surrounding white space.

    Raises:
        SkipRecord: the field is missing, empty, not a string, or not valid Unicode.
    """
    if record.get(key) is None:
        raise SkipRecord(f"field '{key}' is missing")
    found = strings_in(record[key]) if isinstance(record[key], str) else ()
    if not found:
        raise SkipRecord(f"field '{key}' is not a non-empty string")
    return found[0]


def strings_in(value: Any) -> tuple[str, ...]:
    """Return the non-empty strings in a string or in arbitrarily nested lists of strings, stripped.

    >>> strings_in([["Damascus", "Sham city"], ["Aleppo "]])
    ('Damascus', 'Sham city', 'Aleppo')

    Raises:
        SkipRecord: a string is not valid Unicode. JSON can encode half a surrogate pair, which UTF-8 cannot.
    """
    if isinstance(value, list | tuple):
        return tuple(found for item in value for found in strings_in(item))
    if not isinstance(value, str):
        return ()
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SkipRecord("text is not valid Unicode") from None
    return (value.strip(),) if value.strip() else ()


def with_slot(prompt: str, subject: str) -> str:
    """Replace the first mention of the subject by ``{}``. A prompt that has exactly one ``{}`` is returned unchanged.

    >>> with_slot("In which city is Annapolis Mall, near Annapolis?", "Annapolis")
    'In which city is {} Mall, near Annapolis?'

    Raises:
        SkipRecord: the subject does not occur in the prompt as a whole word.
    """
    if prompt.count(SLOT) == 1:
        return prompt
    match = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)
    if match is None:
        raise SkipRecord("the subject does not occur in the prompt")
    return prompt[: match.start()] + SLOT + prompt[match.end() :]


def without_nq_tag(question: str) -> str:
    """Remove the tag of a Natural Questions question and add its question mark; zsRE has the tag and lacks the mark.

    >>> without_nq_tag("nq question: who played desmond doss father")
    'who played desmond doss father?'
    """
    if not question.startswith(NQ_TAG):
        return question
    return question.removeprefix(NQ_TAG).rstrip(" ?") + "?"


def equal_ignoring_case(first: str, second: str) -> bool:
    """Return whether two answers are equal up to case."""
    return first.casefold() == second.casefold()


def task_name_from(name: str) -> str:
    """Convert a name of a data set's part to the form of task names and case ids.

    >>> task_name_from("principle_A_case_1")
    'principle-a-case-1'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
