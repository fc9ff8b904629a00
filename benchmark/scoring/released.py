"""Measures of released code that differ from their definition in the paper.

``success_per_token``, ``magnitude_per_token`` and ``entropy_treebank`` follow
``experiments/py/eval_utils_counterfact.py`` of Meng et al. 2022 (ROME), which published tables on CounterFact use.
Results do not store them. They are computed from the records when a protocol or command asks for them.
"""

from __future__ import annotations

import math

from ..core.records import Answer, Observation
from ..core.schema import Probe
from .entropy import ngram_entropy, treebank_words


def success_per_token(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return 1 if the wanted answer has the higher mean log-probability per token, else 0. A tie is 0.

    Completions with a rival only. Unlike :func:`~.criteria.success`, the value exists where one answer begins the
    other: the longer answer can have the higher mean.
    """
    del before
    if probe.kind != "completion" or not probe.rival:
        return None
    margin = _per_token(after.target) - _per_token(after.rival)
    return float(margin < 0 if probe.expect == "gone" else margin > 0)


def magnitude_per_token(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return p(wanted) - p(rival), where p is the geometric mean of the probabilities of an answer's tokens.

    The value exists where :func:`success_per_token` has one.
    """
    del before
    if probe.kind != "completion" or not probe.rival:
        return None
    difference = math.exp(_per_token(after.target)) - math.exp(_per_token(after.rival))
    return -difference if probe.expect == "gone" else difference


def entropy_treebank(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return the n-gram entropy of the sampled text in bits, with the tokens of the Penn Treebank.

    Raises:
        ModuleNotFoundError: nltk is not installed.
    """
    del before
    return ngram_entropy(treebank_words(after.text or "")) if probe.kind == "generation" else None


def _per_token(answer: Answer) -> float:
    """Return the mean log-probability per token, in nats."""
    return sum(answer.token_logprobs) / len(answer.token_logprobs)
