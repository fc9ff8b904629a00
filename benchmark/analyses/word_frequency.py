"""Frequency of words before singular and plural nouns in a corpus, and its correlation with the effect of suppression.

The corpus is a text file, or the docstrings of Python's standard library, which are available everywhere.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
import sysconfig
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import KnbenchError

STANDARD_LIBRARY = "stdlib"
"""Name of the corpus of docstrings."""
MIN_WORDS = 4
"""Minimum number of words for a rank correlation."""


def read_corpus(source: str) -> list[str]:
    """Return the words of a text file, or of the corpus ``stdlib``, in lower case.

    Raises:
        KnbenchError: the file cannot be read.
    """
    if source == STANDARD_LIBRARY:
        text = "\n".join(_standard_library_docstrings())
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KnbenchError(f"--corpus '{source}' cannot be read: {error}") from None
    return re.findall(r"[a-z]+", text.casefold())


@cache
def _standard_library_docstrings() -> tuple[str, ...]:
    docstrings = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
            continue
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        docstrings += [doc for node in ast.walk(tree) if isinstance(node, kinds) and (doc := ast.get_docstring(node))]
    return tuple(docstrings)


def count_following_nouns(text: Sequence[str], words: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Count for each word how often a singular and how often a plural noun follows it directly.

    A word of the text counts as a noun if at least 5% of its occurrences (and at least two) follow "the", and if its
    other number, formed by adding or removing a final s, occurs in the text more than once.

    Args:
        text: words of the corpus in order.
        words: words to count for.

    Returns:
        For each word the number of singular and of plural nouns.
    """
    total, after_the = Counter(text), Counter(b for a, b in itertools.pairwise(text) if a == "the")

    @cache
    def plural(word: str) -> bool | None:
        """Return whether a noun is plural, or None for other words."""
        if len(word) < 3 or after_the[word] < max(2, total[word] / 20):
            return None
        if word.endswith("s") and not word.endswith("ss") and total[word[:-1]] > 1:
            return True
        return False if total[word + "s"] > 1 else None

    counts = {word: [0, 0] for word in words}
    for first, second in itertools.pairwise(text):
        if first in counts and (is_plural := plural(second)) is not None:
            counts[first][is_plural] += 1
    return {word: (singular, plural_) for word, (singular, plural_) in counts.items()}


def correlate_with_frequency(
    rows: Sequence[Mapping[str, Any]], counts: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """Return, for each group of frames, Spearman's rank correlation of the words' changes and their plural preference.

    The plural preference of a word is log((plural + 1) / (singular + 1)). Words that precede no noun are excluded. A
    group with fewer than :data:`MIN_WORDS` words has no correlation.

    Args:
        rows: the rows ``words`` of :func:`.suppression.compare_distributions`.
        counts: the result of :func:`count_following_nouns`.
    """
    result: dict[str, Any] = {"counts": {word: list(pair) for word, pair in counts.items()}, "correlation": {}}
    for frame_group in dict.fromkeys(row["frames"] for row in rows):
        counted = [row for row in rows if row["frames"] == frame_group and sum(counts.get(row["word"], (0, 0)))]
        if len(counted) >= MIN_WORDS:
            preference = [math.log((counts[row["word"]][1] + 1) / (counts[row["word"]][0] + 1)) for row in counted]
            test = stats.spearmanr(preference, [row["relative_change"] for row in counted])
            finite = bool(np.isfinite(test.statistic))
            result["correlation"][frame_group] = {
                "rho": float(test.statistic) if finite else None,
                "p": float(test.pvalue) if finite else None,
                "words": len(counted),
            }
    return result
