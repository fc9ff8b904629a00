"""Generates minimal pairs of linguistic phenomena from a lexicon and a small grammar.

A generator combines the words of the lexicon to items. An item has a *cue* ("this", "Susan admired", "The sisters"), a
target in its grammatical and ungrammatical form ("sketch", "sketches"), related cues, and frames to embed them in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from ..benchmark.core.errors import KnbenchError, unknown_name
from ..benchmark.core.schema import SLOT, Probe, Support
from .sampling import HashSampler
from .specificity import Contrast, specificity_probes

Lexicon = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One minimal pair with its variations.

    Attributes:
        id: identifier, unique within the phenomenon.
        frame_set: key of the lexicon's list of frames that fit the cue.
        intervening: text between cue and target.
        cue: the word or words on which the edit is keyed.
        good: the form of the target that is grammatical after the cue.
        bad: the other form.
        contrast_cue: a cue after which ``bad`` is grammatical.
        synonym_cue: another cue after which ``good`` is grammatical.
        good_context: name of the context of the specificity probes after which ``good`` is grammatical.
        bad_context: name of the context of the specificity probes after which ``bad`` is grammatical.
        cue_class: cues of the class of ``cue``, which specificity probes do not contain.
        modifier: text between any cue and the target ("" or " old"); a part of ``intervening``.
        continuation: text after the target in a whole sentence.
        frames: texts up to the target, with a ``{}`` for the cue. The first one is the edit prompt.
    """

    id: str
    frame_set: str
    intervening: str
    cue: str
    good: str
    bad: str
    contrast_cue: str
    synonym_cue: str
    good_context: str
    bad_context: str
    cue_class: tuple[str, ...] = ()
    modifier: str = ""
    continuation: str = ""
    frames: tuple[str, ...] = ()

    def prompt(self, cue: str, frame: int = 0) -> str:
        """Return a frame with a cue in its slot, starting with a capital letter."""
        return capitalise(self.frames[frame].replace(SLOT, cue, 1))

    def changed_probe(self, criterion: str, cue: str, frame: int = 0) -> Probe:
        """Return a completion probe that expects the ungrammatical form after the edit."""
        return Probe(
            criterion, "completion", self.prompt(cue, frame), self.bad, self.good, "new", suffix=f"{self.continuation}."
        )

    def unchanged_probe(self, criterion: str, cue: str, frame: int = 0) -> Probe:
        """Return a completion probe that expects the form which is grammatical after the cue, before and after."""
        target, rival = (self.bad, self.good) if cue == self.contrast_cue else (self.good, self.bad)
        return Probe(
            criterion, "completion", self.prompt(cue, frame), target, rival, "unchanged", suffix=f"{self.continuation}."
        )

    def specificity_probes(self, sampler: HashSampler) -> Iterator[Probe]:
        """Yield completion probes of both forms after cues of other classes."""
        contrast = Contrast(
            self.good,
            self.bad,
            self.good_context,
            self.bad_context,
            cue_class=self.cue_class,
            modifier=self.modifier,
            suffix=f"{self.continuation}.",
        )
        return specificity_probes(contrast, sampler, self.id)

    def sentence(self, cue: str, form: str, frame: int = 0) -> str:
        """Return the whole sentence with a cue and a form of the target."""
        return f"{self.prompt(cue, frame)} {form}{self.continuation}."

    def support(self) -> Support:
        """Return the item's prompt with the grammatical form."""
        return Support(self.prompt(self.cue), self.good, f"{self.continuation}.")


Generator = Callable[[Lexicon, HashSampler], Iterator[Item]]


def read_lexicon(spec: Mapping[str, Any], definition: Path) -> Lexicon:
    """Read the lexicon of a definition.

    Raises:
        KnbenchError: the file cannot be read or is not valid YAML.
    """
    path = definition.parent / spec["lexicon"]
    try:
        lexicon: Lexicon = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise KnbenchError(f"{definition}: phenomenon.lexicon: cannot read {path}: {reason}") from None
    return lexicon


def generate_items(spec: Mapping[str, Any], lexicon: Lexicon, definition: Path) -> list[Item]:
    """Return a sample of the items of a generator.

    Args:
        spec: the section ``phenomenon`` of a definition: ``generator``, ``pairs`` (the number of items) and ``seed``.
        lexicon: the words.
        definition: the path of the definition file, for error messages.

    Raises:
        KnbenchError: the generator is unknown, or the lexicon gives too few items.
    """
    if spec["generator"] not in GENERATORS:
        raise unknown_name(f"generator in {definition}", spec["generator"], GENERATORS)
    sampler = HashSampler(spec["seed"])
    generated = {item.id: item for item in GENERATORS[spec["generator"]](lexicon, sampler)}
    if len(generated) < spec["pairs"]:
        raise KnbenchError(
            f"{definition}: phenomenon.pairs: the lexicon gives {len(generated)} items of {spec['generator']}, fewer "
            f"than {spec['pairs']}; reduce the number or extend the lexicon"
        )
    sampled = [generated[i] for i in sampler.sample(sorted(generated), spec["pairs"], "pairs")]
    return [replace(item, frames=_fill_frames(lexicon, sampler, item)) for item in sampled]


def _fill_frames(lexicon: Lexicon, sampler: HashSampler, item: Item) -> tuple[str, ...]:
    """Return four frames for an item, with sampled names and verbs."""
    frames = []
    for frame in sampler.sample(lexicon["frames"][item.frame_set], 4, item.id, "frames"):
        name, other = sampler.sample(lexicon["names"]["female"] + lexicon["names"]["male"], 2, item.id, frame, "names")
        (verb,) = sampler.sample(lexicon["verbs"]["transitive"], 1, item.id, frame, "verb")
        frames.append(frame.format(SLOT, name=name, other=other, verb=verb) + item.intervening)
    return tuple(frames)


def capitalise(text: str) -> str:
    """Return the text with its first letter in upper case. The other letters keep their case."""
    return text[:1].upper() + text[1:]


def _uncapitalise(text: str) -> str:
    return text[:1].lower() + text[1:]


def _by_number(forms: tuple[str, str], number: str) -> tuple[str, str]:
    """Return, of the singular and plural form of a word, the one of the given number first."""
    singular, plural = forms
    return (singular, plural) if number == "singular" else (plural, singular)


def _opposite(number: str) -> str:
    return "plural" if number == "singular" else "singular"


def _noun_phrases(lexicon: Lexicon, words: str, nouns: str, modifiers: Sequence[str] = ("",)) -> Iterator[Item]:
    """Yield items whose cue is a determiner or quantifier and whose target is a noun that agrees with it in number."""
    cue_class = (*lexicon[words]["singular"], *lexicon[words]["plural"])
    for noun, number, modifier in product(lexicon["nouns"][nouns].items(), ("singular", "plural"), modifiers):
        for i, cue in enumerate(lexicon[words][number]):
            good, bad = _by_number(noun, number)
            same, opposite = lexicon[words][number], lexicon[words][_opposite(number)]
            yield Item(
                id=f"{cue}{modifier.replace(' ', '-')}-{noun[0]}",
                frame_set="object",
                intervening=modifier,
                cue=cue,
                good=good,
                bad=bad,
                contrast_cue=opposite[i % len(opposite)],
                synonym_cue=same[(i + 1) % len(same)],
                good_context=f"{words} {number}",
                bad_context=f"{words} {_opposite(number)}",
                cue_class=cue_class,
                modifier=modifier,
            )


def determiner_noun(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "this sketch" / "this sketches"."""
    del sampler
    return _noun_phrases(lexicon, "determiners", "regular")


def determiner_noun_irregular(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "this child" / "this children".

    Each noun occurs with and without an adjective, because the lexicon has few irregular nouns.
    """
    del sampler
    modifiers = ["", *(f" {adjective}" for adjective in lexicon["adjectives"])]
    return _noun_phrases(lexicon, "determiners", "irregular", modifiers)


def determiner_noun_adjective(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "this old sketch" / "this old sketches"."""
    del sampler
    return _noun_phrases(lexicon, "determiners", "regular", [f" {a}" for a in lexicon["adjectives"]])


def quantifier_noun(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "every sketch" / "every sketches" and "several sketches" / "several sketch"."""
    del sampler
    return _noun_phrases(lexicon, "quantifiers", "regular")


def anaphor_gender(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "Susan admired herself" / "Susan admired himself". The cue is subject and verb."""
    people = {
        gender: [*lexicon["names"][gender], *(f"the {noun}" for noun in lexicon["nouns"]["of_gender"][gender])]
        for gender in ("female", "male")
    }
    forms = {"female": ("herself", "himself"), "male": ("himself", "herself")}
    for gender, verb in product(people, lexicon["verbs"]["reflexive"]):
        opposite = people["male" if gender == "female" else "female"]
        for i, person in enumerate(people[gender]):
            key = f"{person}-{verb}".replace(" ", "-")
            (other_verb,) = sampler.sample([v for v in lexicon["verbs"]["reflexive"] if v != verb], 1, key)
            good, bad = forms[gender]
            yield Item(
                id=key,
                frame_set="clause",
                intervening="",
                cue=f"{person} {verb}",
                good=good,
                bad=bad,
                contrast_cue=f"{opposite[i % len(opposite)]} {verb}",
                synonym_cue=f"{person} {other_verb}",
                good_context=good,
                bad_context=bad,
            )


def anaphor_number(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "The sisters admired themselves" / "The sisters admired herself"."""
    for (gender, pronoun), verb in product((("female", "herself"), ("male", "himself")), lexicon["verbs"]["reflexive"]):
        for noun in lexicon["nouns"]["of_gender"][gender]:
            for number in ("singular", "plural"):
                cues = {"singular": f"the {noun} {verb}", "plural": f"the {_plural(noun)} {verb}"}
                key = cues[number].replace(" ", "-")
                (other_verb,) = sampler.sample([v for v in lexicon["verbs"]["reflexive"] if v != verb], 1, key)
                good, bad = (pronoun, "themselves") if number == "singular" else ("themselves", pronoun)
                yield Item(
                    id=key,
                    frame_set="clause",
                    intervening="",
                    cue=cues[number],
                    good=good,
                    bad=bad,
                    contrast_cue=cues[_opposite(number)],
                    synonym_cue=cues[number].removesuffix(verb) + other_verb,
                    good_context=good,
                    bad_context=bad,
                )


def _plural(noun: str) -> str:
    if noun.endswith("man"):
        return noun[:-3] + "men"
    return noun + ("es" if noun.endswith("s") else "s")


def _clauses(lexicon: Lexicon, sampler: HashSampler, nouns: str, attractors: bool = False) -> Iterator[Item]:
    """Yield items whose cue is a subject and whose target is a verb that agrees with it in number.

    Args:
        lexicon: the words.
        sampler: draws adverbs, related nouns and attractors.
        nouns: key of the lexicon's list of subject nouns.
        attractors: whether a noun of the opposite number intervenes between subject and verb.
    """
    people = list(lexicon["nouns"][nouns].items())
    for noun, verb, number in product(people, lexicon["verbs"]["intransitive"].items(), ("singular", "plural")):
        agreeing, opposite = _by_number(noun, number)
        key = f"{agreeing}-{verb[0]}"
        (adverb,) = sampler.sample(lexicon["adverbs"], 1, key)
        (other_noun,) = sampler.sample([n for n in people if n != noun], 1, key, "sister")
        intervening = f" {adverb}"
        if attractors:
            (attractor,) = sampler.sample([n for n in people if n not in (noun, other_noun)], 1, key, "attractor")
            intervening = f" near the {_by_number(attractor, number)[1]} {adverb}"
        good, bad = _by_number((verb[1], verb[0]), number)
        yield Item(
            id=key,
            frame_set="clause",
            intervening=intervening,
            cue=f"the {agreeing}",
            good=good,
            bad=bad,
            contrast_cue=f"the {opposite}",
            synonym_cue=f"the {_by_number(other_noun, number)[0]}",
            good_context=f"subject {number}",
            bad_context=f"subject {_opposite(number)}",
        )


def subject_verb(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "The sisters usually bake" / "The sisters usually bakes"."""
    return _clauses(lexicon, sampler, "people")


def subject_verb_irregular(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "The women usually bake" / "The women usually bakes"."""
    return _clauses(lexicon, sampler, "irregular_people")


def subject_verb_attractor(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "The sister near the teachers usually bakes" / "... usually bake"."""
    return _clauses(lexicon, sampler, "people", attractors=True)


def npi_licensing(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "Most of the students have often complained" / "... have ever complained".

    "ever" is a negative polarity item: it requires a negative licensor.
    """
    licensors = lexicon["licensors"]
    for plural, good in product(lexicon["nouns"]["people"].values(), ("often", "already", "always", "never")):
        for i, word in enumerate(licensors["positive"]):
            key = f"{word}-{plural}-{good}".replace(" ", "-").casefold()
            yield Item(
                id=key,
                frame_set="clause",
                intervening=" have",
                cue=_uncapitalise(f"{word} {plural}"),
                good=good,
                bad="ever",
                contrast_cue=_uncapitalise(f"{licensors['negative'][i % 2]} {plural}"),
                synonym_cue=_uncapitalise(f"{licensors['positive'][(i + 1) % len(licensors['positive'])]} {plural}"),
                good_context="no licensor",
                bad_context="licensor",
                continuation=f" {sampler.sample(lexicon['participles'], 1, key)[0]}",
            )


def german_determiner_noun(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "dieses Haus" / "dieses Häuser". The nouns are neuter and in the accusative."""
    del sampler
    for item in _noun_phrases(lexicon, "determiners", "things"):
        yield replace(item, good_context=f"german {item.good_context}", bad_context=f"german {item.bad_context}")


def german_subject_verb(lexicon: Lexicon, sampler: HashSampler) -> Iterator[Item]:
    """Generate "dass der Koch oft lacht" / "dass der Koch oft lachen". The nouns are masculine."""
    people = list(lexicon["nouns"]["people"].items())
    articles = {"singular": "der", "plural": "die"}
    for noun, verb, number in product(people, lexicon["verbs"]["intransitive"].items(), ("singular", "plural")):
        agreeing, opposite = _by_number(noun, number)
        key = f"{agreeing}-{verb[0]}"
        (adverb,) = sampler.sample(lexicon["adverbs"], 1, key)
        (other_noun,) = sampler.sample([n for n in people if n != noun], 1, key, "sister")
        good, bad = _by_number((verb[1], verb[0]), number)
        yield Item(
            id=key,
            frame_set="clause",
            intervening=f" {adverb}",
            cue=f"{articles[number]} {agreeing}",
            good=good,
            bad=bad,
            contrast_cue=f"{articles[_opposite(number)]} {opposite}",
            synonym_cue=f"{articles[number]} {_by_number(other_noun, number)[0]}",
            good_context=f"german subject {number}",
            bad_context=f"german subject {_opposite(number)}",
        )


GENERATORS: Mapping[str, Generator] = {
    "determiner_noun": determiner_noun,
    "determiner_noun_irregular": determiner_noun_irregular,
    "determiner_noun_adjective": determiner_noun_adjective,
    "quantifier_noun": quantifier_noun,
    "anaphor_gender": anaphor_gender,
    "anaphor_number": anaphor_number,
    "subject_verb": subject_verb,
    "subject_verb_irregular": subject_verb_irregular,
    "subject_verb_attractor": subject_verb_attractor,
    "npi_licensing": npi_licensing,
    "german_determiner_noun": german_determiner_noun,
    "german_subject_verb": german_subject_verb,
}
"""Generators by the name that definition files use."""
