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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    )
}


@dataclass(frozen=True)
class Measure:
    """One way to judge an answer.

    Attributes:
        of: the number for (probe, observation before, observation after), or None where it does not apply.
        share: whether it lies between 0 and 1.
        higher_is_better: how to read it.
    """

    name: str
    title: str
    definition: str
    of: Callable[[ProbeJson, Obs, Obs], float | None]
    share: bool = True
    higher_is_better: bool = True


def success(probe: ProbeJson, before: Obs, after: Obs) -> float:
    """1 if the wanted answer is more probable than its rival: P(o*) > P(o), and the other way for the rest.

    >>> success({"expect": "new"}, {}, {"target": {"logprob": -1.0}, "rival": {"logprob": -2.0}})
    1.0
    """
    del before
    margin = after["target"]["logprob"] - after["rival"]["logprob"]
    return float(margin < 0 if probe["expect"] == "gone" else margin > 0)


def magnitude(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """P(wanted) - P(rival); None for sentences, whose probabilities are too small to subtract."""
    del before
    if probe["kind"] == "minimal_pair":
        return None
    difference: float = math.exp(after["target"]["logprob"]) - math.exp(after["rival"]["logprob"])
    return -difference if probe["expect"] == "gone" else difference


def exact(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """1 if every target token is the most probable one; of an unchanged probe, if the next token is as before."""
    if probe["kind"] == "minimal_pair":
        return None
    if probe["expect"] == "unchanged":
        return float(before["top_id"] == after["top_id"])
    said = all(rank == 0 for rank in after["target"]["ranks"])
    return float(said != (probe["expect"] == "gone"))


def token_accuracy(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """Share of target tokens that are most probable, the true previous ones being fed (teacher forcing).

    Of an unchanged probe: share of target positions whose most probable token is as before.
    """
    if probe["kind"] == "minimal_pair":
        return None
    if probe["expect"] == "unchanged":
        pairs = list(zip(before["target"]["argmax"], after["target"]["argmax"], strict=True))
        return float(sum(a == b for a, b in pairs) / len(pairs))
    ranks = after["target"]["ranks"]
    share: float = sum(rank == 0 for rank in ranks) / len(ranks)
    return 1 - share if probe["expect"] == "gone" else share


def generated(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """1 if the greedy continuation begins with the target; of an unchanged probe, if it is the same text."""
    if probe["kind"] == "minimal_pair":
        return None
    if probe["expect"] == "unchanged":
        return float(normalise(before["generated"]) == normalise(after["generated"]))
    said = begins_with(after["generated"], [probe["target"], *probe["aliases"]])
    return float(said != (probe["expect"] == "gone"))


def kl(probe: ProbeJson, before: Obs, after: Obs) -> float | None:
    """KL(before || after) of the next token in nats; unchanged completions only."""
    del before
    if probe["kind"] == "minimal_pair" or probe["expect"] != "unchanged":
        return None
    value: float | None = after.get("kl")
    return value


MEASURES: Mapping[str, Measure] = {
    m.name: m
    for m in (
        Measure(
            "success",
            "success",
            "Share of probes where the wanted answer is more probable than its rival: P(o*) > P(o) where the new "
            "answer is wanted, P(o) > P(o*) where the old one is.",
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
    )
}


def normalise(text: str) -> str:
    """Fold what does not make another answer: case, width, accents' encoding, white space.

    >>> normalise("  St.  Louis ")
    'st. louis'
    """
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


def begins_with(text: str, answers: Sequence[str]) -> bool:
    """Whether a continuation begins with one of the answers as whole words.

    >>> begins_with(" Rome, the", ["Rome"]), begins_with("Romeo", ["Rome"]), begins_with("the Rome", ["Rome"])
    (True, False, False)
    """
    said = normalise(text)
    for answer in map(normalise, answers):
        rest = said[len(answer) :]
        if answer and said.startswith(answer) and not (rest and rest[0].isalnum()):
            return True
    return False
