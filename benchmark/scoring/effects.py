"""Effect of edits on the distribution over words: relative changes of probability, with paired tests.

Niu et al. 2024 (sections 4.2 and 4.3) compare the probability of a word before and after an edit over many prompts.
Their released code uses an unpaired test and no correction for multiple words. The two probabilities of a prompt are
not independent. This module therefore uses the paired test with the correction of Benjamini and Hochberg (1995), and
reports the unpaired test beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy  # scipy.stats, which takes half a second, is imported on first use

from ..core.documents import EffectRow
from ..core.records import Answer, Record
from .criteria import CRITERIA

Role = Literal["target", "rival"]

MIN_PROBABILITY = 1e-300
"""Smallest probability whose relative change is computed. That of a smaller one may exceed the largest number."""
MIN_CASES_PER_WORD = 5
"""Minimum number of cases for a row of one word. Rarer words count in the row of their role only."""


@dataclass(frozen=True)
class Effect:
    """Change of a probability over the cases that have it.

    Attributes:
        cases: number of cases.
        before: mean probability on the unedited model.
        after: mean probability on the edited model.
        relative_change: mean over cases of (after - before) / before.
        p_paired: two-sided p-value of the paired t-test; None where the test is undefined.
        p_unpaired: two-sided p-value of Student's unpaired t-test, as in the paper.
    """

    cases: int
    before: float
    after: float
    relative_change: float
    p_paired: float | None
    p_unpaired: float | None


def effect(before: Sequence[float], after: Sequence[float]) -> Effect:
    """Compare paired probabilities.

    Args:
        before: one probability per case, each at least :data:`MIN_PROBABILITY`.
        after: one probability per case, in the same order.

    Raises:
        ValueError: the sequences are empty or differ in length.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"an effect needs paired probabilities, not {len(before)} before and {len(after)} after")
    b, a = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    paired = unpaired = None
    if len(b) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant values, for which the test is undefined
            paired, unpaired = _p(scipy.stats.ttest_rel(a, b)), _p(scipy.stats.ttest_ind(a, b))
    return Effect(len(b), float(b.mean()), float(a.mean()), float(((a - b) / b).mean()), paired, unpaired)


def _p(test: Any) -> float | None:
    return float(test.pvalue) if np.isfinite(test.pvalue) else None


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected by Benjamini and Hochberg. None stays None and does not count as a test.

    >>> adjusted([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    known = [p for p in p_values if p is not None]
    if not known:
        return [None] * len(p_values)
    corrected = iter(scipy.stats.false_discovery_control(known).tolist())
    return [None if p is None else next(corrected) for p in p_values]


def word_effects(records: Sequence[Record]) -> list[EffectRow]:
    """Return the effects on the words that a task's completions ask for, per criterion.

    There is one row for all targets, one for all rivals, and one for each word with at least
    :data:`MIN_CASES_PER_WORD` cases. A case whose probes name a word several times counts once, with the mean. A
    probability below :data:`MIN_PROBABILITY` has no relative change and is left out.
    """
    pairs: dict[tuple[str, Role, str | None], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for probe in record.probes:
            if probe.kind != "completion" or probe.before is None or probe.after is None:
                continue
            answers: list[tuple[Role, str, Answer, Answer]] = [
                ("target", probe.target, probe.before.target, probe.after.target)
            ]
            if probe.rival:
                answers.append(("rival", probe.rival, probe.before.rival, probe.after.rival))
            for role, text, before, after in answers:
                pair = math.exp(before.logprob), math.exp(after.logprob)
                if pair[0] >= MIN_PROBABILITY:
                    for word in (None, text):
                        cases = pairs.setdefault((probe.criterion, role, word), {})
                        cases.setdefault(record.case_id, []).append(pair)
    order = {name: position for position, name in enumerate(CRITERIA)}
    keys = sorted(pairs, key=lambda k: (order.get(k[0], len(order)), k[2] is not None, k[1] != "target", k[2] or ""))
    found = []
    for key in keys:
        cases = pairs[key]
        if key[2] is None or len(cases) >= MIN_CASES_PER_WORD:
            means = [np.mean(values, axis=0) for values in cases.values()]
            found.append((key, effect([float(m[0]) for m in means], [float(m[1]) for m in means])))
    corrected = adjusted([change.p_paired for _, change in found])
    return [
        EffectRow(criterion=criterion, role=role, word=word, **asdict(change), p_adjusted=p)
        for ((criterion, role, word), change), p in zip(found, corrected, strict=True)
    ]
