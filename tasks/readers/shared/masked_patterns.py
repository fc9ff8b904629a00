"""Infers the wordings of a relation from its prompts, which contain a mask in place of the object."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ....benchmark.core.schema import SLOT
from .skips import SkipRecord

MASK = "[MASK]"
MASK_AT_END = re.compile(r"\[MASK\][\s.,;:!?]*$")


class Pattern(NamedTuple):
    """A wording of a relation: the text before and after the subject, one of which contains the mask.

    Attributes:
        before: the text before the subject.
        after: the text after the subject.
        between: the text between two mentions of the subject; None if the wording mentions the subject once.
    """

    before: str
    after: str
    between: str | None = None

    @property
    def template(self) -> str | None:
        """The wording up to the mask, with ``{}`` for each mention of the subject.

        The value is None if the mask does not end the sentence.
        """
        mask = MASK_AT_END.search(self.after)
        subject = SLOT if self.between is None else f"{SLOT}{self.between}{SLOT}"
        return f"{self.before}{subject}{self.after[: mask.start()]}".rstrip() if mask else None

    def subject(self, prompt: str) -> str:
        """Return the subject of a prompt: the text between ``before`` and ``after``, or each half of it.

        Raises:
            SkipRecord: the prompt does not match the pattern.
        """
        text = self.open_text(prompt)
        if text is not None and self.between is not None:
            subject = text[: (len(text) - len(self.between)) // 2]
            text = subject if text == f"{subject}{self.between}{subject}" else None
        if text is None:
            raise SkipRecord("a prompt does not match its pattern")
        return text.strip()

    def open_text(self, prompt: str) -> str | None:
        """Return the text of the prompt between ``before`` and ``after``; None if it does not match."""
        end = len(prompt) - len(self.after)
        matches = prompt.startswith(self.before) and prompt.endswith(self.after) and end > len(self.before)
        return prompt[len(self.before) : end] if matches else None


def infer_patterns(bags: Sequence[Sequence[str]]) -> list[Pattern | None]:
    """Return the pattern at each position of a bag; None where it cannot be inferred.

    Each two consecutive bags give one vote: the longest common prefix and suffix of their prompts, cut back to whole
    words. The majority decides, because single votes are wrong where subjects share a word ("Cook County", "Cayuga
    County") or a bag is malformed.
    """
    patterns: list[Pattern | None] = []
    for position in range(max(map(len, bags), default=0)):
        prompts = [bag[position] for bag in bags if position < len(bag)]
        votes = (_common_pattern(first, second) for first, second in pairwise(prompts) if first != second)
        winner = Counter(pattern for pattern in votes if MASK in pattern.before + pattern.after).most_common(1)
        patterns.append(_with_second_mention(winner[0][0], prompts) if winner else None)
    return patterns


def _with_second_mention(pattern: Pattern, prompts: Sequence[str]) -> Pattern:
    """Return the pattern with the text between two mentions of the subject, if most prompts mention it twice."""
    texts = [text for text in map(pattern.open_text, prompts) if text is not None]
    votes = Counter(between for text in texts for between in _texts_between(text))
    # The text between whole mentions is the longest one that most prompts have.
    between = max((text for text, count in votes.items() if 2 * count > len(texts)), key=len, default=None)
    return pattern if between is None else pattern._replace(between=between)


def _texts_between(text: str) -> Iterator[str]:
    """Yield the middle of a text for each way in which it begins and ends with the same words.

    >>> list(_texts_between("Peru , the country of Peru"))
    [' , the country of ']
    """
    for match in re.finditer(r"(?<=\w)(?!\w)", text):
        end = match.start()
        if 2 * end < len(text) and text.endswith(text[:end]) and not text[-end - 1].isalnum():
            yield text[end:-end]


def _common_pattern(first: str, second: str) -> Pattern:
    before, after = _common_prefix(first, second), _common_prefix(first[::-1], second[::-1])[::-1]
    return Pattern(re.sub(r"\w+$", "", before), re.sub(r"^\w+", "", after))


def _common_prefix(first: str, second: str) -> str:
    letters = enumerate(zip(first, second, strict=False))
    return first[: next((n for n, (a, b) in letters if a != b), min(len(first), len(second)))]
