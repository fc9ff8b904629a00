"""The n-gram entropy of generated text (Zhang et al. 2018; GE in Meng et al. 2022, section 3.4)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_ABBREVIATIONS = (
    "mr mrs ms dr prof st jr sr rev hon gen col lt capt sgt gov sen rep u.s u.k u.n d.c e.g i.e vs etc inc co corp ltd "
    "no jan feb aug sept oct nov dec"
)
"""English abbreviations whose full stop does not end a sentence, in lower case and without that full stop."""


def words(text: str) -> list[str]:
    """Split a text into words and marks, without regard to case.

    >>> words("It isn't 'So'.")
    ['it', 'isn', "'", 't', "'", 'so', "'", '.']
    """
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def treebank_words(text: str) -> list[str]:
    """Split a text into the tokens of the Penn Treebank, with nltk, which released code uses. Case is kept.

    ``nltk.word_tokenize`` splits the text into sentences with a trained model, which must be downloaded. Here the same
    algorithm (Punkt) runs with a fixed list of abbreviations, which gives the same tokens on every machine. The tokens
    differ from released ones only at the full stop of an abbreviation that is in one list alone.

    >>> treebank_words("It isn't Mr. Smith. So!")
    ['It', 'is', "n't", 'Mr.', 'Smith', '.', 'So', '!']

    Raises:
        ModuleNotFoundError: nltk is not installed.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    tokenizer = NLTKWordTokenizer()
    sentences = PunktSentenceTokenizer(parameters).tokenize(text)
    return [token for sentence in sentences for token in tokenizer.tokenize(sentence)]


def ngram_entropy(tokens: Sequence[str]) -> float | None:
    """Return the weighted entropy of the 2-grams and 3-grams of tokens, in bits; None for fewer than three tokens.

    The two entropies are weighted 2/3 and 4/3 and halved. Repetitive text has a low value.

    >>> ngram_entropy(["so"] * 5), ngram_entropy(["one", "two"])
    (0.0, None)
    """
    if len(tokens) < 3:
        return None
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        size = grams.total()
        total += weight * sum(-count / size * math.log2(count / size) for count in grams.values())
    return total / 2 or 0.0
