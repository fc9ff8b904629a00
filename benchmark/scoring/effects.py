"""What an edit does to the distribution over words: relative changes of probability, with paired tests.

Niu et al. 2024 (sections 4.2 and 4.3) compare a word's probability before and after an edit over many prompts. Their
released code takes an unpaired test and no correction for many words. A prompt's two probabilities are not
independent, so the test here is the paired one, corrected by Benjamini and Hochberg (1995); theirs stands beside it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from .criteria import CRITERIA

FEWEST = 5
"""Cases that a word needs for a row of its own; what is rarer counts by its role alone."""


@dataclass(frozen=True)
class Effect:
    """How a word's probability changed over the cases that ask for it.

    Attributes:
        before: mean probability on the unedited model.
        after: mean probability on the edited one.
        relative_change: mean over cases of (after - before) / before.
        p_paired: two-sided p-value of the paired t-test; None where there is no test.
        p_unpaired: of Student's unpaired t-test, as the paper has it.
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
        before: per case, greater than 0.
        after: per case, in the same order.

    Raises:
        ValueError: none, or not as many before as after.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"an effect needs as many probabilities before as after, not {len(before)} and {len(after)}")
    b, a = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    paired = unpaired = None
    if len(b) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that do not vary, for which there is no test
            paired, unpaired = _p(stats.ttest_rel(a, b)), _p(stats.ttest_ind(a, b))
    return Effect(len(b), float(b.mean()), float(a.mean()), float(((a - b) / b).mean()), paired, unpaired)


def _p(test: Any) -> float | None:
    return float(test.pvalue) if np.isfinite(test.pvalue) else None


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for their number by Benjamini and Hochberg; None stays None and does not count.

    >>> adjusted([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    known = [p for p in p_values if p is not None]
    if not known:
        return [None] * len(p_values)
    corrected = iter(stats.false_discovery_control(known).tolist())
    return [None if p is None else next(corrected) for p in p_values]


def word_effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the effects on the words that a task's completions ask for, per criterion.

    There is one row for all targets, one for all rivals, and one for each word that :data:`FEWEST` cases have. A case
    whose probes name a word several times counts once, with the mean.
    """
    found: dict[tuple[str, str, str | None], dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for probe in record["probes"]:
            if probe["kind"] != "completion" or probe.get("before") is None or probe.get("after") is None:
                continue
            for role in ("target", "rival"):
                pair = tuple(math.exp(probe[side][role]["logprob"]) for side in ("before", "after"))
                if pair[0] > 0:
                    for word in (None, probe[role]):
                        cases = found.setdefault((probe["criterion"], role, word), {})
                        cases.setdefault(record["case_id"], []).append((pair[0], pair[1]))
    rows = []
    order = {name: place for place, name in enumerate(CRITERIA)}
    keys = sorted(found, key=lambda k: (order.get(k[0], len(order)), k[2] is not None, k[1] != "target", k[2] or ""))
    for criterion, role, word in keys:
        cases = found[criterion, role, word]
        if word is None or len(cases) >= FEWEST:
            means = [np.mean(pairs, axis=0) for pairs in cases.values()]
            found_effect = effect([float(m[0]) for m in means], [float(m[1]) for m in means])
            rows.append({"criterion": criterion, "role": role, "word": word, **asdict(found_effect)})
    for row, p in zip(rows, adjusted([row["p_paired"] for row in rows]), strict=True):
        row["p_adjusted"] = p
    return rows
