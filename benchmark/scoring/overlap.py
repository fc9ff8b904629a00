"""Overlap of a generated text with a reference text, for answers that are too long to be compared whole."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from ..core.text import UNSPACED
from .answers import normalise

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W{UNSPACED}]+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """Return the words of a text, normalised. In scripts without spaces, each character is a word.

    >>> words("It's Rome."), words("東京 is big")
    (['it', 's', 'rome'], ['東', '京', 'is', 'big'])
    """
    return _WORD.findall(normalise(text))


def token_f1(text: str, reference: str) -> float:
    """Return the F1 of the words that two texts share, as in SQuAD (Rajpurkar et al. 2016).

    Case, ASCII punctuation and English articles are ignored. In scripts without spaces, each character is a word.

    >>> token_f1("the city of Rome", "Rome"), token_f1("Oslo", "Rome")
    (0.5, 0.0)
    """
    found, wanted = (_WORD.findall(_ARTICLES.sub(" ", normalise(t).translate(_PUNCTUATION))) for t in (text, reference))
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def rouge_l(text: str, reference: str) -> float:
    """Return the F-measure of ROUGE-L (Lin 2004), computed by the package ``rouge-score`` on :func:`words`.

    Words are not stemmed. For ASCII text, the words are those of the tokenizer of ``rouge-score``, which drops other
    letters.

    Raises:
        ModuleNotFoundError: rouge-score is not installed.
    """
    return float(_scorer().score(reference, text)["rougeL"].fmeasure)


class _Words:
    """A tokenizer in the interface of ``rouge-score``."""

    def tokenize(self, text: str) -> Sequence[str]:
        return words(text)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
