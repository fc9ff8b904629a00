"""Protocols: the columns of published tables, as measures of criteria.

Every protocol is a view of the same raw records. A table shows the numbers of one protocol only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT = "knbench"


@dataclass(frozen=True)
class Column:
    """One number of a protocol.

    Attributes:
        name: name of the column in the protocol.
        criterion: name of a criterion, ``score`` or ``extended_score``.
        measure: name of a measure.
        formula: the formula in words.
    """

    name: str
    criterion: str
    measure: str
    formula: str


@dataclass(frozen=True)
class Protocol:
    """A set of columns with their source and the differences from the original.

    Attributes:
        name: identifier on the command line.
        title: name in headings.
        citation: the source.
        columns: the columns in their order.
        note: differences from the original.
    """

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


_TOKENS = "share of target tokens that are most probable, with the true previous tokens fed"

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
            "Phenomena whose symmetry is measured on whole sentences have no token accuracy and no number here.",
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
                    "share of positions of the true answer with the same most probable token as before the edit",
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
                Column("GE", "fluency", "entropy", "2- and 3-gram entropy in bits of text sampled after the subject"),
            ),
            "GE needs a run with --fluency-tokens 100. Consistency (RS) needs reference texts and is not computed.",
        ),
        Protocol(
            "wild",
            "WILD",
            "Yang et al. 2025 (ACL), evaluation without teacher forcing",
            (
                Column("reliability", "reliability", "generated", "the greedy continuation begins with o*"),
                Column("generalization", "paraphrase", "generated", "the same after paraphrases"),
                Column("portability", "portability", "generated", "the continuation begins with what follows from o*"),
                Column(
                    "locality", "neighbourhood", "generated", "the continuation is the same text as before the edit"
                ),
            ),
            "The paper lets a language model judge longer answers. Here the continuation must begin with the "
            "normalised answer or an alias of it.",
        ),
    )
}
