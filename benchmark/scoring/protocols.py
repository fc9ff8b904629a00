"""Protocols: which measure of which criterion stands under which name, as published tables have it.

Each is a view of the same raw records. Numbers of two protocols never stand in one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT = "knbench"


@dataclass(frozen=True)
class Column:
    """One number of a protocol.

    Attributes:
        name: what the protocol calls it.
        criterion: ours, or ``score`` or ``extended_score``.
        measure: how an answer is judged.
        formula: how it is computed, in words.
    """

    name: str
    criterion: str
    measure: str
    formula: str


@dataclass(frozen=True)
class Protocol:
    """A set of columns with their source, and in what it differs from the original."""

    name: str
    title: str
    citation: str
    columns: tuple[Column, ...]
    note: str = ""


_WANTED = (
    "reliability",
    "paraphrase",
    "symmetry",
    "release",
    "synonym",
    "portability",
    "extension",
    "neighbourhood",
    "unrelated",
)


def _own() -> Protocol:
    plain = tuple(
        Column(name, name, "success", "share of probes with P(wanted) > P(rival), cases averaged") for name in _WANTED
    )
    return Protocol(
        DEFAULT,
        "KNBench",
        "this project",
        (
            *plain,
            Column("S", "score", "success", "harmonic mean of reliability, paraphrase and neighbourhood"),
            Column("S ext.", "extended_score", "success", "harmonic mean of those with symmetry and synonym"),
        ),
    )


_TOKENS = "share of target tokens that are most probable, the true previous ones being fed"

PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        _own(),
        Protocol(
            "paper",
            "Niu et al. 2024",
            "Niu, Liu, Zhu, Penn 2024 (ICLR), section 5",
            (
                Column("reliability", "reliability", "token_accuracy", f"{_TOKENS}: o* after the edited prompt"),
                Column("symmetry", "symmetry", "token_accuracy", f"{_TOKENS}: s after the inverse relation of o*"),
                Column("synonym", "synonym", "token_accuracy", f"{_TOKENS}: the counterpart of o* after the synonym"),
            ),
            "Phenomena whose symmetry is asked of whole sentences have no token accuracy there and no number here.",
        ),
        Protocol(
            "easyedit",
            "EasyEdit",
            "Wang et al. 2024 (ACL demos), EasyEdit",
            (
                Column("rewrite_acc", "reliability", "token_accuracy", f"{_TOKENS}: o* after the edited prompt"),
                Column("rephrase_acc", "paraphrase", "token_accuracy", f"{_TOKENS}: o* after a rephrased prompt"),
                Column("portability", "portability", "token_accuracy", f"{_TOKENS}: what follows from o*"),
                Column(
                    "locality",
                    "neighbourhood",
                    "token_accuracy",
                    "share of positions of the true answer whose most probable token is as before the edit",
                ),
            ),
        ),
        Protocol(
            "counterfact",
            "CounterFact",
            "Meng et al. 2022 (NeurIPS), section 3.4",
            (
                Column("ES", "reliability", "success", "share of edits with P(o*) > P(o) after the edited prompt"),
                Column("EM", "reliability", "magnitude", "mean P(o*) - P(o) after the edited prompt"),
                Column("PS", "paraphrase", "success", "share with P(o*) > P(o) after paraphrases, cases averaged"),
                Column("PM", "paraphrase", "magnitude", "mean P(o*) - P(o) after paraphrases"),
                Column("NS", "neighbourhood", "success", "share with P(o) > P(o*) after prompts about neighbours"),
                Column("NM", "neighbourhood", "magnitude", "mean P(o) - P(o*) after prompts about neighbours"),
                Column("S", "score", "success", "harmonic mean of ES, PS and NS"),
                Column("GE", "fluency", "entropy", "2- and 3-gram entropy in bits of text written after the subject"),
            ),
            "GE needs a run with --fluency-tokens 100. Consistency (RS), which needs reference texts, is left out.",
        ),
        Protocol(
            "wild",
            "WILD",
            "Yang et al. 2025 (ACL), evaluation without teacher forcing",
            (
                Column("reliability", "reliability", "generated", "the free greedy continuation begins with o*"),
                Column("generalization", "paraphrase", "generated", "the same after paraphrases"),
                Column("portability", "portability", "generated", "the continuation begins with what follows from o*"),
                Column("locality", "neighbourhood", "generated", "the continuation is the same text as before"),
            ),
            "The paper lets a language model judge longer answers; here the normalised answer or an alias of it must "
            "stand first.",
        ),
    )
}
