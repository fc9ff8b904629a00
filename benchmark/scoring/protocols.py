"""Protocols: the columns of published tables, as measures of criteria.

Every protocol is a view of the same raw records. A table shows the numbers of one protocol only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .criteria import MEASURES

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
    "specificity",
    "distractor",
    "negation",
)


def _own() -> Protocol:
    plain = tuple(
        Column(name, name, "success", "share of probes with P(wanted) > P(rival), cases averaged") for name in _WANTED
    )
    return Protocol(
        DEFAULT,
        "KNBench",
        "this project",
        plain,
        "The edit score and its parts come first; see docs/edit-score.md. These are the criteria of --all-columns.",
    )


_TOKENS = "share of target tokens that are most probable, with the true previous tokens fed"


def _counterfact(p: str, mean: str, success: str, magnitude: str, entropy: str) -> tuple[Column, ...]:
    """Return the columns of CounterFact.

    Args:
        p: symbol of the probability of an answer.
        mean: how p combines the probabilities of an answer's tokens.
        success: measure of ES, PS, NS and S.
        magnitude: measure of EM, PM and NM.
        entropy: measure of GE.
    """
    new, old, where = f"{p}(o*)", f"{p}(o)", f"{p}: {mean} over tokens"
    return (
        Column("ES", "reliability", success, f"share of edits with {new} > {old} after the edited prompt; {where}"),
        Column("EM", "reliability", magnitude, f"mean {new} - {old} after the edited prompt; {where}"),
        Column("PS", "paraphrase", success, f"share with {new} > {old} after paraphrases, cases averaged; {where}"),
        Column("PM", "paraphrase", magnitude, f"mean {new} - {old} after paraphrases; {where}"),
        Column("NS", "neighbourhood", success, f"share with {old} > {new} after prompts about neighbours; {where}"),
        Column("NM", "neighbourhood", magnitude, f"mean {old} - {new} after prompts about neighbours; {where}"),
        Column("S", "score", success, "harmonic mean of ES, PS and NS over the cases that have all three"),
        Column("GE", "fluency", entropy, "2- and 3-gram entropy in bits of text sampled after the subject"),
    )


PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        _own(),
        Protocol(
            "literature",
            "scores of the literature",
            "Meng et al. 2022 (NeurIPS), section 3.4; Niu et al. 2024 (ICLR), section 5",
            (
                Column("S", "score", "success", "harmonic mean of reliability, paraphrase and neighbourhood"),
                Column("S ext.", "extended_score", "success", "harmonic mean of those with symmetry and synonym"),
                Column("reliability", "reliability", "success", "share of probes with P(wanted) > P(rival)"),
                Column("paraphrase", "paraphrase", "success", "the same after paraphrases"),
                Column("neighbourhood", "neighbourhood", "success", "the same after prompts about neighbours"),
                Column("symmetry", "symmetry", "success", "the same in the inverse direction"),
                Column("synonym", "synonym", "success", "the same after a word of the same meaning or class"),
            ),
            "A destroyed model answers half of the probes in the right order. None of these decides the order of "
            "methods here.",
        ),
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
            _counterfact("P", "product", "success", "magnitude", "entropy"),
            "P is the probability of the whole answer, the product over its tokens, as in the text of the paper. "
            "Published tables contain the other form, counterfact-code. Answers of which one begins the other are "
            "left out. GE needs a run with --fluency-tokens 100. Consistency (RS) needs reference texts and is not "
            "computed.",
        ),
        Protocol(
            "counterfact-code",
            "CounterFact, released code",
            "Meng et al. 2022 (NeurIPS), released code (experiments/py/eval_utils_counterfact.py)",
            _counterfact("p", "geometric mean", "success_per_token", "magnitude_per_token", "entropy_treebank"),
            "p is exp(-mean NLL), the geometric mean of the probabilities of an answer's tokens, as in the released "
            "code and in published tables. No probe is left out. GE has the tokens of nltk.word_tokenize and needs a "
            "run with --fluency-tokens 100. Consistency (RS) is not computed.",
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
        Protocol(
            "long-answers",
            "long answers",
            "Deng et al. 2025 (ICLR), UnKE; Wu et al. 2024, AKEW",
            tuple(
                Column(f"{criterion} {title}", criterion, measure, f"{formula}, {where}")
                for criterion, where in (
                    ("reliability", "after the edited question"),
                    ("paraphrase", "after the paraphrased question"),
                    ("portability", "after questions about parts of the answer"),
                )
                for title, measure, formula in (
                    ("F1", "f1", "F1 of the words of the greedy continuation and the wanted answer"),
                    ("ROUGE-L", "rouge_l", "F-measure of their longest common subsequence of words"),
                )
            ),
            "The greedy continuation is as long as the wanted answer and one token more. The papers sample up to a "
            "fixed length, and also report BERTScore or the judgement of a language model, which are not computed.",
        ),
    )
}


def unstored_measures(protocol: str) -> tuple[str, ...]:
    """Return the measures of a protocol's columns that results do not store, in the order of the columns."""
    names = dict.fromkeys(column.measure for column in PROTOCOLS[protocol].columns)
    return tuple(name for name in names if not MEASURES[name].stored)
