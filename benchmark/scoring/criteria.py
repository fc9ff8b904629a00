"""What is asked of an edit (criteria) and how an answer is judged (measures), as pure functions.

Numbers in, number out: no model here, and nothing that could not be recomputed from a record. A measure that
does not apply to a probe is None and never a zero.

Sources: success and magnitude are ES/PS/NS and EM/PM/NM of Meng et al. 2022 (ROME, section 3.4); token accuracy
is what Niu et al. 2024 and EasyEdit report; generated follows the argument of Yang et al. 2025 (WILD); symmetry
and synonymous invariance are Niu et al. 2024, section 5.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

Obs = Mapping[str, Any]
ProbeJson = Mapping[str, Any]


@dataclass(frozen=True)
class Criterion:
    """One thing an edit is judged by."""

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
            "Does the edit hold in the other direction? Facts: asked of the new object, the inverse relation "
            "names the subject. Phenomena: with the new target fixed, the edited cue is preferred to the old one.",
        ),
        Criterion(
            "release",
            "Release",
            "Symmetry's second question: asked of the old object, does the inverse relation no longer name "
            "the subject?",
        ),
        Criterion(
            "synonym",
            "Synonymous invariance",
            "Does a word of the same meaning or class take part in the edit?",
        ),
        Criterion(
            "portability",
            "Portability",
            "Does what follows from the new fact by one step of reasoning become true with it?",
        ),
        Criterion(
            "extension",
            "Extension",
            "Do other words of the same phenomenon follow the edit of one cue? Reported, and neither wanted nor not.",
        ),
        Criterion("neighbourhood", "Neighbourhood", "Is what the edit is not about as it was?"),
        Criterion("unrelated", "Unrelated", "Are other facts about the same subject as they were?"),
        Criterion("fluency", "Fluency", "Is text that the model writes after the subject as varied as before?"),
    )
}


@dataclass(frozen=True)
class Measure:
    """One way to judge an answer.

    Attributes:
        of: the number for (probe, observation before, observation after), or None where it does not apply.
        share: whether it lies between 0 and 1.
        higher_is_better: how to read it; None where neither is wanted.
    """

    name: str
    title: str
    definition: str
    of: Callable[[ProbeJson, Obs, Obs], float | None]
    share: bool = True
    higher_is_better: bool | None = True


def success(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """1 if the wanted answer is more probable than its rival: P(o*) > P(o), and the other way for the rest.

    >>> success({"kind": "completion", "expect": "new"}, {}, {"target": {"logprob": -1.0}, "rival": {"logprob": -2.0}})
    1.0
    """
    del before
    if probe["kind"] == "generation":
        return None
    margin = after["target"]["logprob"] - after["rival"]["logprob"]
    return float(margin < 0 if probe["expect"] == "gone" else margin > 0)


def flipped(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """1 if the edit changed which of target and rival is the more probable: the categorical prediction."""
    if probe["kind"] == "generation":
        return None
    first, then = (o["target"]["logprob"] > o["rival"]["logprob"] for o in (before, after))
    return float(first != then)


def magnitude(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """P(wanted) - P(rival); None for sentences, whose probabilities are too small to subtract."""
    del before
    if probe["kind"] != "completion":
        return None
    difference: float = math.exp(after["target"]["logprob"]) - math.exp(after["rival"]["logprob"])
    return -difference if probe["expect"] == "gone" else difference


def exact(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """1 if every target token is the most probable one; of an unchanged probe, if the next token is as before."""
    if probe["kind"] != "completion":
        return None
    if probe["expect"] == "unchanged":
        return float(before["top_id"] == after["top_id"])
    said = all(rank == 0 for rank in after["target"]["ranks"])
    return float(said != (probe["expect"] == "gone"))


def token_accuracy(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """Share of target tokens that are most probable, the true previous ones being fed (teacher forcing).

    Of an unchanged probe: share of target positions whose most probable token is as before.
    """
    if probe["kind"] != "completion":
        return None
    if probe["expect"] == "unchanged":
        pairs = list(zip(before["target"]["argmax"], after["target"]["argmax"], strict=True))
        return float(sum(a == b for a, b in pairs) / len(pairs))
    ranks = after["target"]["ranks"]
    share: float = sum(rank == 0 for rank in ranks) / len(ranks)
    return 1 - share if probe["expect"] == "gone" else share


def generated(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """1 if the greedy continuation begins with the target; of an unchanged probe, if it is the same text."""
    if probe["kind"] != "completion":
        return None
    if probe["expect"] == "unchanged":
        return float(normalise(before["generated"]) == normalise(after["generated"]))
    said = begins_with(after["generated"], [probe["target"], *probe["aliases"]])
    return float(said != (probe["expect"] == "gone"))


def kl(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """KL(before || after) of the next token in nats; unchanged completions only."""
    del before
    if probe["kind"] != "completion" or probe["expect"] != "unchanged":
        return None
    value: float | None = after.get("kl")
    return value


def entropy(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """N-gram entropy of the text written freely, in bits (Meng et al. 2022, section 3.4, GE; Zhang et al. 2018).

    The entropies of its 2- and 3-grams, weighted 2/3 and 4/3 and halved; a text that repeats itself has little.
    """
    del before
    return ngram_entropy(after["text"]) if probe["kind"] == "generation" else None


def ngram_entropy(text: str) -> float | None:
    """Return the weighted entropy of a text's word 2- and 3-grams in bits, None for fewer than three words.

    >>> ngram_entropy("so so so so so"), ngram_entropy("one two")
    (0.0, None)
    """
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    if len(words) < 3:
        return None
    total = 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        size = grams.total()
        total += weight * sum(-count / size * math.log2(count / size) for count in grams.values())
    return total / 2 or 0.0


MEASURES: Mapping[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "success",
            "success",
            "Share of probes where the wanted answer is more probable than its rival: P(o*) > P(o) where the new "
            "answer is wanted, P(o) > P(o*) where the old one is. A model in ruins is right half of the time: read it "
            "beside neighbourhood and the stricter measures.",
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
            "Share of probes where every token of the wanted answer is the most probable one. For probes that shall "
            "not change: the most probable next token is the same as before the edit.",
            exact,
        ),
        Measure(
            "token_accuracy",
            "token accuracy",
            "Teacher forcing: share of target tokens that are most probable when the true previous ones are fed. For "
            "probes that shall not change: share of positions with the same most probable token as before.",
            token_accuracy,
        ),
        Measure(
            "generated",
            "generated",
            "Share of probes whose greedy continuation, fed the prompt alone, begins with the wanted answer. For "
            "probes that shall not change: the continuation is the same text as before.",
            generated,
        ),
        Measure(
            "kl",
            "KL",
            "KL(before || after) of the next-token distribution in nats, for probes that shall not change.",
            kl,
            share=False,
            higher_is_better=False,
        ),
        Measure(
            "flipped",
            "flipped",
            "Share of probes whose categorical prediction, which of target and rival is the more probable, is not what "
            "it was before the edit.",
            flipped,
            higher_is_better=None,
        ),
        Measure(
            "entropy",
            "n-gram entropy",
            "Entropy of the 2- and 3-grams of text written freely after the subject, weighted 2/3 and 4/3 and halved, "
            "in bits.",
            entropy,
            share=False,
        ),
    )
}


def normalise(text: str) -> str:
    """Fold what does not make another text: case, width, accents' encoding, white space.

    >>> normalise("  St.  Louis ")
    'st. louis'
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def begins_with(text: str, answers: Sequence[str]) -> bool:
    """Whether a continuation begins with one of the answers as whole words.

    A quotation mark or "the" may stand before it. Marks inside an answer may be left out, so that the point of "St."
    is no end; marks that it does not have are not passed over.

    >>> begins_with(" Rome, the", ["Rome"]), begins_with("Romeo", ["Rome"]), begins_with("not Rome", ["Rome"])
    (True, False, False)
    >>> begins_with("St Louis", ["St. Louis"]), begins_with("Mexico. City", ["Mexico City"])
    (True, False)
    """
    said = normalise(text)
    return any(_opening(answer).match(said) for answer in answers if answer.strip())


@cache
def _opening(answer: str) -> re.Pattern[str]:
    parts = []
    for char in normalise(answer).removeprefix("the "):
        if char in " -":
            parts.append("[ -]")
        else:
            parts.append(re.escape(char) + ("" if char.isalnum() else "?"))
    return re.compile(r"[\W_]*(?:the )?" + "".join(parts) + r"(?!\w)")
