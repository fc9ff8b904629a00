"""Probes that a run adds to the cases of any task on request (``--probes``). They are reported and enter no score.

``distractor`` follows CounterFact+ (Hoelscher-Obermaier et al. 2023): the edited sentence precedes the prompt of a
neighbour, whose answer must stay. ``negation`` asks in English whether the new statement, and whether the old one, is
true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from .schema import Case, Probe
from .text import join_answer

ExtraProbes = Literal["distractor", "negation"]
EXTRA_PROBES: tuple[ExtraProbes, ...] = get_args(ExtraProbes)


def extra_probes(case: Case, names: Sequence[ExtraProbes]) -> tuple[Probe, ...]:
    """Return the requested probes of a case, in a fixed order.

    Args:
        case: the case, with the probes of its task.
        names: the requested kinds.
    """
    found: list[Probe] = []
    if "distractor" in names:
        found += _distractors(case)
    if "negation" in names:
        found += _negations(case)
    return tuple(found)


def _distractors(case: Case) -> Iterator[Probe]:
    """Yield each neighbourhood completion after a sentence that states the edit."""
    edited = join_answer(case.request.text, case.request.target_new)
    for probe in case.probes:
        if probe.criterion == "neighbourhood" and probe.kind == "completion":
            yield Probe(
                "distractor",
                "completion",
                f"{edited}. {probe.prompt}",
                probe.target,
                probe.rival,
                "unchanged",
                probe.aliases,
                probe.suffix,
            )


def _negations(case: Case) -> Iterator[Probe]:
    """Yield the question about the new statement, to be answered with yes, and the one about the old statement."""
    request = case.request
    for target, answer, other in ((request.target_new, "yes", "no"), (request.target_true, "no", "yes")):
        if target:
            prompt = f"Question: Is it true that {join_answer(request.text, target)}? Answer:"
            yield Probe("negation", "completion", prompt, answer, other, "new")
