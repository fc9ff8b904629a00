"""Criteria (the questions that an edit is judged by) and measures (how an answer is judged), as pure functions.

A measure takes a probe and its observations and returns a number. It needs no model, and every value can be recomputed
from a record. A measure that does not apply to a probe returns None, never 0.

Sources: ``success`` and ``magnitude`` are ES/PS/NS and EM/PM/NM of Meng et al. 2022 (ROME, section 3.4).
``token_accuracy`` is the number that Niu et al. 2024 and EasyEdit report. ``generated`` follows Yang et al. 2025
(WILD). ``f1`` and ``rouge_l`` are the measures of answers of several sentences (UnKE, AKEW). Symmetry and synonymous
invariance are defined by Niu et al. 2024, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..core.records import Observation
from ..core.schema import Probe
from .answers import begins_with, normalise, one_begins_other
from .entropy import ngram_entropy, words
from .overlap import rouge_l, token_f1
from .released import entropy_treebank, magnitude_per_token, success_per_token


@dataclass(frozen=True)
class Criterion:
    """One question that an edit is judged by.

    Attributes:
        name: identifier in records and tables.
        title: name in headings.
        question: the question in one or two sentences.
    """

    name: str
    title: str
    question: str


CRITERIA: Mapping[str, Criterion] = {
    c.name: c
    for c in (
        Criterion("reliability", "Reliability", "Does the edited prompt give the new answer?"),
        Criterion("paraphrase", "Paraphrase", "Does the same question in other words give the new answer?"),
        Criterion(
            "symmetry",
            "Symmetry",
            "Does the edit hold in the inverse direction? Facts: the inverse relation, asked of the new object, names "
            "the subject. Phenomena: with the new target fixed, the edited cue is preferred to the old one.",
        ),
        Criterion(
            "release",
            "Release",
            "The second question of symmetry: does the inverse relation, asked of the old object, no longer name the "
            "subject?",
        ),
        Criterion(
            "synonym",
            "Synonymous invariance",
            "Does the edit extend to a word of the same meaning or class?",
        ),
        Criterion(
            "portability",
            "Portability",
            "Do one-step consequences of the new fact become true?",
        ),
        Criterion(
            "extension",
            "Extension",
            "Do other words of the same phenomenon follow the edit of one cue? Reported without a preferred direction.",
        ),
        Criterion("neighbourhood", "Neighbourhood", "Do prompts that the edit is not about keep their answers?"),
        Criterion("unrelated", "Unrelated", "Do other facts about the same subject keep their answers?"),
        Criterion(
            "specificity",
            "Specificity",
            "Phenomena: after cues of other classes, is the right form of the edited word still preferred?",
        ),
        Criterion(
            "distractor",
            "Distractor",
            "Do prompts that the edit is not about keep their answers after a sentence that states the edit?",
        ),
        Criterion(
            "negation",
            "Negation",
            "Is the question whether the new fact is true answered with yes, and that about the old fact with no?",
        ),
        Criterion("integrity", "Integrity", "Is ordinary text, the same for all tasks, predicted as before?"),
        Criterion("fluency", "Fluency", "Is text that the model writes about the subject as varied as before?"),
    )
}


@dataclass(frozen=True)
class Measure:
    """One way to judge an answer.

    Attributes:
        name: identifier in records and tables.
        title: name in headings.
        definition: the definition in words.
        of: function of (probe, observation before the edit, observation after it) that returns the value, or None
            where the measure does not apply.
        share: whether the value lies between 0 and 1.
        higher_is_better: direction of the measure; None if it has none.
        stored: whether results contain it. Others are computed from records on demand.
    """

    name: str
    title: str
    definition: str
    of: Callable[[Probe, Observation, Observation], float | None]
    share: bool = True
    higher_is_better: bool | None = True
    stored: bool = True


def preference_is_defined(probe: Probe, observation: Observation) -> bool:
    """Return whether the probabilities of target and rival can be compared.

    They cannot if there is no rival, or if one answer begins the other: the longer one is then never more probable.
    """
    return bool(probe.rival) and not one_begins_other(probe.target, probe.rival, observation.target, observation.rival)


def success(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return 1 if the wanted answer is more probable than its rival, else 0.

    The value is None for a probe without a rival, and where one answer begins the other ("United States", "United
    States of America"). The wanted answer is the target, except for probes with ``expect="gone"``, where it is the
    rival.
    """
    del before
    if probe.kind == "generation" or not preference_is_defined(probe, after):
        return None
    margin = after.target.logprob - after.rival.logprob
    return float(margin < 0 if probe.expect == "gone" else margin > 0)


def flipped(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return 1 if the edit changed the categorical prediction: which of target and rival is more probable.

    The value is None where :func:`success` has none.
    """
    if probe.kind == "generation" or not preference_is_defined(probe, after):
        return None
    return float(before.prefers_target != after.prefers_target)


def magnitude(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return P(wanted) - P(rival).

    The value is None where :func:`success` has none, and for sentence pairs, whose probabilities are too small to
    subtract.
    """
    del before
    if probe.kind != "completion" or not preference_is_defined(probe, after):
        return None
    difference = math.exp(after.target.logprob) - math.exp(after.rival.logprob)
    return -difference if probe.expect == "gone" else difference


def exact(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return 1 if every target token is the argmax; for unchanged probes, if the next-token argmax is the same.

    Raises:
        ValueError: an observation of an unchanged completion holds no next token.
    """
    if probe.kind != "completion":
        return None
    if probe.expect == "unchanged":
        if before.top_id is None or after.top_id is None:
            raise ValueError("the observation has no next token")
        return float(before.top_id == after.top_id)
    predicted = all(rank == 0 for rank in after.target.ranks)
    return float(predicted != (probe.expect == "gone"))


def token_accuracy(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return the share of target tokens that are the argmax, with the true previous tokens fed (teacher forcing).

    For unchanged probes: the share of target positions whose argmax is the same as before the edit.
    """
    if probe.kind != "completion":
        return None
    if probe.expect == "unchanged":
        pairs = list(zip(before.target.argmax, after.target.argmax, strict=True))
        return sum(a == b for a, b in pairs) / len(pairs)
    ranks = after.target.ranks
    share = sum(rank == 0 for rank in ranks) / len(ranks)
    return 1 - share if probe.expect == "gone" else share


def generated(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return 1 if the greedy continuation begins with the target; for unchanged probes, if its text is the same.

    A continuation that gives a rival which begins with the target does not give the target.

    Raises:
        ValueError: an observation of a completion holds no continuation.
    """
    if probe.kind != "completion":
        return None
    if after.generated is None or before.generated is None:
        raise ValueError("the observation has no continuation")
    if probe.expect == "unchanged":
        return float(normalise(before.generated) == normalise(after.generated))
    predicted = begins_with(after.generated, [probe.target, *probe.aliases], probe.rival)
    return float(predicted != (probe.expect == "gone"))


def _overlap(
    compare: Callable[[str, str], float], probe: Probe, before: Observation, after: Observation
) -> float | None:
    """Return the overlap of the greedy continuation with the target or the closest of its aliases.

    For unchanged probes: with the continuation before the edit. Probes with ``expect="gone"`` have no value.

    Raises:
        ValueError: an observation of a completion holds no continuation.
    """
    if probe.kind != "completion" or probe.expect == "gone":
        return None
    if after.generated is None or before.generated is None:
        raise ValueError("the observation has no continuation")
    references = [before.generated] if probe.expect == "unchanged" else [probe.target, *probe.aliases]
    return max(compare(after.generated, reference) for reference in references)


def f1(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return the F1 of the words that the greedy continuation shares with the target; see :func:`_overlap`."""
    return _overlap(token_f1, probe, before, after)


def longest_common_words(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return ROUGE-L of the greedy continuation and the target; see :func:`_overlap`.

    Raises:
        ModuleNotFoundError: rouge-score is not installed.
    """
    return _overlap(rouge_l, probe, before, after)


def kl(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return KL(before || after) of the next-token distribution in nats; unchanged completions and passages only.

    For passages, it is the mean over their tokens.
    """
    del before
    return after.kl if probe.kind in ("completion", "passages") and probe.expect == "unchanged" else None


def entropy(probe: Probe, before: Observation, after: Observation) -> float | None:
    """Return the n-gram entropy of the sampled text in bits (Meng et al. 2022, section 3.4, GE; Zhang et al. 2018)."""
    del before
    return ngram_entropy(words(after.text or "")) if probe.kind == "generation" else None


MEASURES: Mapping[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "success",
            "success",
            "Share of probes where the wanted answer is more probable than its rival: P(o*) > P(o) where the new "
            "answer is wanted, P(o) > P(o*) where the old one is. A collapsed model scores about 0.5 by chance. Read "
            "success together with neighbourhood and the stricter measures.",
            success,
        ),
        Measure(
            "magnitude",
            "magnitude",
            "Mean of P(wanted) - P(rival). Not defined for sentence pairs.",
            magnitude,
            share=False,
        ),
        Measure(
            "exact",
            "exact",
            "Share of probes where every token of the wanted answer is the most probable one. For unchanged probes: "
            "the most probable next token is the same as before the edit.",
            exact,
        ),
        Measure(
            "token_accuracy",
            "token accuracy",
            "Teacher forcing: share of target tokens that are most probable when the true previous tokens are fed. For "
            "unchanged probes: share of positions with the same most probable token as before the edit.",
            token_accuracy,
        ),
        Measure(
            "generated",
            "generated",
            "Share of probes whose greedy continuation of the prompt begins with the wanted answer. For unchanged "
            "probes: the continuation is the same text as before the edit.",
            generated,
        ),
        Measure(
            "kl",
            "KL",
            "KL(before || after) of the next-token distribution in nats, for unchanged probes.",
            kl,
            share=False,
            higher_is_better=False,
        ),
        Measure(
            "flipped",
            "flipped",
            "Share of probes whose categorical prediction (which of target and rival is more probable) differs from "
            "the one before the edit.",
            flipped,
            higher_is_better=None,
        ),
        Measure(
            "entropy",
            "n-gram entropy",
            "Entropy of the 2-grams and 3-grams of sampled text about the subject, weighted 2/3 and 4/3 and halved, in "
            "bits.",
            entropy,
            share=False,
        ),
        Measure(
            "success_per_token",
            "success per token",
            "Share of probes where the wanted answer has a higher mean log-probability per token than its rival, as "
            "in the released code of Meng et al. 2022. Answers of different length can be ordered differently by "
            "success.",
            success_per_token,
            stored=False,
        ),
        Measure(
            "magnitude_per_token",
            "magnitude per token",
            "Mean of p(wanted) - p(rival), where p is the geometric mean of the probabilities of an answer's tokens.",
            magnitude_per_token,
            share=False,
            stored=False,
        ),
        Measure(
            "entropy_treebank",
            "n-gram entropy, Treebank tokens",
            "As n-gram entropy, with the tokens of nltk.word_tokenize: case is kept and contractions are split as in "
            "the Penn Treebank.",
            entropy_treebank,
            share=False,
            stored=False,
        ),
        Measure(
            "f1",
            "F1",
            "F1 of the words that the greedy continuation and the wanted answer share. For unchanged probes: with the "
            "continuation before the edit.",
            f1,
            stored=False,
        ),
        Measure(
            "rouge_l",
            "ROUGE-L",
            "F-measure of the longest common subsequence of words of the greedy continuation and the wanted answer. "
            "For unchanged probes: with the continuation before the edit.",
            longest_common_words,
            stored=False,
        ),
    )
}
STORED_MEASURES = tuple(name for name, measure in MEASURES.items() if measure.stored)
