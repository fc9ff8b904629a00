"""Finds the word that a published minimal pair contrasts, for the probes of the criterion ``specificity``.

Specificity needs sentences that a pair does not contain. They exist for the paradigms of BLiMP that contrast two forms
of a noun, a verb, a reflexive or a determiner, or "ever" with another adverb. Pairs of other paradigms have no
specificity probes.
"""

from __future__ import annotations

from ..benchmark.core.schema import EditRequest
from .specificity import Contrast

NUMBER = {"this": "singular", "that": "singular", "these": "plural", "those": "plural"}
REFLEXIVES = frozenset({"herself", "himself", "itself", "themselves"})
SUBJECT_VERB = frozenset(
    {
        "distractor_agreement_relational_noun",
        "distractor_agreement_relative_clause",
        "irregular_plural_subject_verb_agreement_1",
        "regular_plural_subject_verb_agreement_1",
    }
)
_SINGULAR = ("is", "was", "has", "does")
_PLURAL = ("are", "were", "have", "do")


def contrast_of(paradigm: str, request: EditRequest, *, one_word: bool) -> Contrast | None:
    """Return the contrast of a pair, or None if no sentences with its forms can be made.

    Args:
        paradigm: the name of the paradigm in BLiMP.
        request: the edit; its targets are the two forms.
        one_word: whether the forms are the next word or phrase. Otherwise they run to the end of the sentence.
    """
    good, bad = request.target_true, request.target_new
    if not one_word:
        return _determiners(paradigm, request)
    if {good, bad} <= REFLEXIVES:
        return Contrast(good, bad, good, bad, cue_class=(request.subject,))
    if bad == "ever":
        return Contrast(good, bad, "no licensor", "licensor", cue_class=(request.subject,))
    if paradigm.startswith("determiner_noun_agreement"):
        return _nouns(request)
    if paradigm in SUBJECT_VERB:
        return _verbs(request)
    return None


def _determiners(paradigm: str, request: EditRequest) -> Contrast | None:
    """Return the contrast of "this committee" and "these committee"."""
    forms = {request.target_true.split()[0], request.target_new.split()[0]}
    if not paradigm.startswith("determiner_noun_agreement") or not forms <= NUMBER.keys():
        return None
    return Contrast(request.target_true, request.target_new, "object", None, cue_class=(request.subject,))


def _nouns(request: EditRequest) -> Contrast | None:
    """Return the contrast of two forms of a noun; the last demonstrative of the prompt gives the number of the noun."""
    words = request.text.split()
    last = max((i for i, word in enumerate(words) if word in NUMBER), default=None)
    if last is None:
        return None
    number = NUMBER[words[last]]
    other = "plural" if number == "singular" else "singular"
    modifier = "".join(f" {word}" for word in words[last + 1 :])
    return Contrast(
        request.target_true, request.target_new, f"determiners {number}", f"determiners {other}", modifier=modifier
    )


def _verbs(request: EditRequest) -> Contrast | None:
    """Return the contrast of two forms of a verb, or None if their numbers are not known."""
    number = _number(request.target_true, request.target_new)
    if number is None:
        return None
    other = "plural" if number == "singular" else "singular"
    return Contrast(
        request.target_true,
        request.target_new,
        f"subject {number}",
        f"subject {other}",
        cue_class=(request.subject,),
    )


def _number(form: str, other: str) -> str | None:
    """Return the number of a verb in the third person, or None if it is not known.

    >>> _number("hasn't", "haven't"), _number("bake", "bakes"), _number("falls asleep", "fall asleep")
    ('singular', 'plural', 'singular')
    """
    form, other = (text.split()[0].removesuffix("n't") for text in (form, other))
    for first, second, number in ((form, other, "singular"), (other, form, "plural")):
        if (first in _SINGULAR and second in _PLURAL) or first in (f"{second}s", f"{second}es", f"{second[:-1]}ies"):
            return number
    return None
