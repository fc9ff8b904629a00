"""Reads and normalises the fields of a record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ....benchmark.core.schema import SLOT
from ....benchmark.core.text import is_mark
from ....benchmark.scoring.answers import normalise
from .skips import SkipRecord

NQ_TAG = "nq question: "
# Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters and Hangul.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)


def required_text(record: Mapping[str, Any], key: str) -> str:
    """Return a text field without surrounding white space. An integer is returned as text.

    Raises:
        SkipRecord: the field is missing, empty, neither a string nor an integer, or not valid Unicode.
    """
    if isinstance(record.get(key), list | tuple):
        raise SkipRecord(f"field '{key}' is a list, one string was expected")
    return required_answers(record, key)[0]


def required_answers(record: Mapping[str, Any], key: str, parent: str = "") -> tuple[str, ...]:
    """Return an answer followed by its other spellings, from a field with a string, an integer or a list of these.

    Args:
        record: the object that has the field.
        key: the name of the field.
        parent: the name of the field that holds ``record``, for the error message.

    Raises:
        SkipRecord: the field is missing, empty, of another type, or not valid Unicode.
    """
    name = f"{parent}.{key}" if parent else key
    value = record.get(key)
    if value is None:
        raise SkipRecord(f"field '{name}' is missing")
    found = strings_in(value)
    if not found:
        is_empty = isinstance(value, str | list | tuple)
        raise SkipRecord(f"field '{name}' is empty" if is_empty else f"field '{name}' is not a string")
    return tuple(dict.fromkeys(found))


def strings_in(value: Any) -> tuple[str, ...]:
    """Return the non-empty strings in a string or in arbitrarily nested lists of strings, stripped.

    Integers, such as years, are returned as text.

    >>> strings_in([["Damascus", "Sham city"], ["Aleppo "], 1999])
    ('Damascus', 'Sham city', 'Aleppo', '1999')

    Raises:
        SkipRecord: a string is not valid Unicode. JSON can encode half a surrogate pair, which UTF-8 cannot.
    """
    if isinstance(value, list | tuple):
        return tuple(found for item in value for found in strings_in(item))
    if isinstance(value, int) and not isinstance(value, bool):
        return (str(value),)
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
        SkipRecord: the prompt has several ``{}``, or the subject does not occur in it as a whole word. Next to
            characters of scripts that write no space between words, or that attach particles to nouns, every position
            is a word boundary, except before a vowel sign.
    """
    if prompt.count(SLOT) == 1:
        return prompt
    if prompt.count(SLOT) > 1:
        raise SkipRecord("the prompt does not contain exactly one slot for the subject")
    mentions = [match.span() for match in re.finditer(re.escape(subject), prompt)]
    for start, end in (*_whole_words(prompt, mentions), *_whole_words(prompt, mentions, unspaced=True)):
        return prompt[:start] + SLOT + prompt[end:]
    raise SkipRecord("the subject does not occur in the prompt")


def keyed_on(subject: str, prompt: str) -> tuple[str, str]:
    """Return the subject, and the prompt with ``{}`` for it; an empty subject if it does not occur in the prompt.

    >>> keyed_on("Norway", "Where is Norway?"), keyed_on("Norway", "Where is it?")
    (('Norway', 'Where is {}?'), ('', 'Where is it?'))
    """
    try:
        return subject, with_slot(prompt, subject)
    except SkipRecord:
        return "", prompt


def _whole_words(text: str, spans: Iterable[tuple[int, int]], *, unspaced: bool = False) -> Iterator[tuple[int, int]]:
    """Yield the spans of a text that begin and end at a word boundary.

    Args:
        text: the text.
        spans: start and end of each span, which is not empty.
        unspaced: whether every position next to a character of ``UNSPACED`` is a boundary.
    """

    def is_inside(outer: str, inner: str) -> bool:
        """Return whether the character beside a span continues the word at the edge of the span."""
        if unspaced and (UNSPACED.match(outer) or UNSPACED.match(inner)):
            return False
        return outer.isalnum() or outer == "_" or is_mark(outer)

    for start, end in spans:
        before, after = text[max(start - 1, 0) : start], text[end : end + 1]
        if not is_inside(before, text[start]) and not is_inside(after, text[end - 1]) and not is_mark(after):
            yield start, end


def without_nq_tag(question: str) -> str:
    """Remove the tag of a Natural Questions question and add its question mark; zsRE has the tag and lacks the mark.

    >>> without_nq_tag("nq question: who played desmond doss father")
    'who played desmond doss father?'
    """
    if not question.startswith(NQ_TAG):
        return question
    return question.removeprefix(NQ_TAG).rstrip(" ?") + "?"


def equal_ignoring_case(first: str, second: str) -> bool:
    """Return whether two answers are equal up to case, character width, accent encoding and white space."""
    return normalise(first) == normalise(second)


def task_name_from(name: str) -> str:
    """Convert a name of a data set's part to the form of task names and case ids.

    >>> task_name_from("principle_A_case_1")
    'principle-a-case-1'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
