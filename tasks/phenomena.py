"""From a lexicon and a small grammar to minimal pairs, and from these to cases.

A case edits one *cue* ("this", "Susan admired", "The sisters") to be followed by the target in the ungrammatical form
("sketches", "himself", "bakes"). Its probes (Niu et al. 2024, sections 2 and 5):

- paraphrase: cue and target in other frames;
- symmetry: the target held fixed and the cue varied, over whole sentences;
- synonym: another cue of the same class;
- extension: other words of the same phenomenon, which an edit of one cue may or may not take along;
- neighbourhood: what the cue has no part in: the cue that rightly has the target, and other phenomena.

Its support is other items' prompts with the right form, of the same cue as far as there are such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..benchmark.core.errors import KnbenchError, unknown_name
from ..benchmark.core.schema import SLOT, Case, EditRequest, Probe, Support, derived_seed

Lexicon = Mapping[str, Any]
T = TypeVar("T")
CRITERIA = ("reliability", "paraphrase", "symmetry", "synonym", "extension", "neighbourhood")


@dataclass(frozen=True)
class Item:
    """One minimal pair with what varies around it.

    Attributes:
        id: unique within its paradigm.
        place: the lexicon's list of frames that fits the cue.
        tail: what stands between cue and target.
        cue: what the edit is keyed on.
        good: the form that the cue asks for.
        bad: the other form.
        mirror: a cue that asks for ``bad``.
        sister: another cue that asks for ``good``.
        ending: what follows the target in a whole sentence.
        frames: texts with a ``{}`` for the cue, up to the target; the first is the edited one.
    """

    id: str
    place: str
    tail: str
    cue: str
    good: str
    bad: str
    mirror: str
    sister: str
    ending: str = ""
    frames: tuple[str, ...] = ()

    def prompt(self, cue: str, frame: int = 0) -> str:
        """Return a frame with a cue in it, capitalised as a sentence."""
        return _sentence(self.frames[frame].replace(SLOT, cue, 1))

    def probe(self, criterion: str, cue: str, frame: int = 0, *, right: bool = False) -> Probe:
        """Return a completion after a cue: of the bad form against the good one, or, unchanged, the right one."""
        suffix = f"{self.ending}."
        if right:
            wanted, rival = (self.bad, self.good) if cue == self.mirror else (self.good, self.bad)
            return Probe(criterion, "completion", self.prompt(cue, frame), wanted, rival, "unchanged", suffix=suffix)
        return Probe(criterion, "completion", self.prompt(cue, frame), self.bad, self.good, "new", suffix=suffix)

    def sentence(self, cue: str, form: str, frame: int = 0) -> str:
        """Return the whole sentence with a cue and a form of the target."""
        return f"{self.prompt(cue, frame)} {form}{self.ending}."

    def support(self) -> Support:
        """Return the item's prompt with the grammatical form."""
        return Support(self.prompt(self.cue), self.good, f"{self.ending}.")


Generator = Callable[[Lexicon, "_Choice"], Iterator[Item]]


@dataclass(frozen=True)
class _Choice:
    """Chooses by hash, the same on every machine and version of Python."""

    seed: int

    def pick(self, items: Sequence[T], count: int, *key: object) -> list[T]:
        """Draw without replacement; as many as there are where there are fewer than ``count``."""
        pool = list(items)
        numbers = (derived_seed(self.seed, *key, n) for n in range(min(count, len(pool))))
        return [pool.pop(number % len(pool)) for number in numbers]


def read_lexicon(spec: Mapping[str, Any], definition: Path) -> Lexicon:
    """Read the lexicon that a definition names.

    Raises:
        KnbenchError: it cannot be read.
    """
    path = definition.parent / spec["lexicon"]
    try:
        lexicon: Lexicon = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KnbenchError(f"{definition}: lexicon: cannot read {path}: {error}") from None
    return lexicon


def items(spec: Mapping[str, Any], lexicon: Lexicon, definition: Path) -> list[Item]:
    """Return a paradigm's items, the same ones on every machine.

    Raises:
        KnbenchError: no such generator, or the lexicon gives too few.
    """
    if spec["generator"] not in GENERATORS:
        raise unknown_name(f"generator in {definition}", spec["generator"], GENERATORS)
    choice = _Choice(spec["seed"])
    made = {item.id: item for item in GENERATORS[spec["generator"]](lexicon, choice)}
    if len(made) < spec["pairs"]:
        raise KnbenchError(f"{definition}: pairs: the lexicon gives {len(made)}, fewer than {spec['pairs']}")
    chosen = [made[i] for i in choice.pick(sorted(made), spec["pairs"], "pairs")]
    return [replace(item, frames=_frames(lexicon, choice, item)) for item in chosen]


def phenomenon_cases(spec: Mapping[str, Any], definition: Path) -> Iterator[Case]:
    """Yield a phenomenon's cases."""
    lexicon = read_lexicon(spec, definition)
    mine = items(spec, lexicon, definition)
    choice = _Choice(spec["seed"])
    others = [
        item
        for name in spec["neighbours"]
        for item in items({**spec, "generator": name, "pairs": NEIGHBOURS}, lexicon, definition)
    ]
    offers = {item.prompt(item.cue): item for item in reversed(mine)}
    for item in mine:
        case = _case(item, mine, others, choice)
        support = _support(item, case.probes, offers, choice)
        yield replace(case, request=replace(case.request, support=support))


NEIGHBOURS = 40
"""Items of each other phenomenon that neighbourhood probes are drawn from."""


def _case(item: Item, mine: Sequence[Item], others: Sequence[Item], choice: _Choice) -> Case:
    request = EditRequest(_sentence(item.frames[0]), _subject(item), target_new=item.bad, target_true=item.good)
    probes = [item.probe("reliability", item.cue)]
    probes += [item.probe("paraphrase", item.cue, frame) for frame in range(1, len(item.frames))]
    for frame in (0, 1):
        edited, grammatical = (item.sentence(cue, item.bad, frame) for cue in (item.cue, item.mirror))
        probes.append(Probe("symmetry", "minimal_pair", "", edited, grammatical, "new", suffix=""))
        probes.append(item.probe("synonym", item.sister, frame))
    alike = [o for o in mine if o.mirror != item.cue and {o.good, o.bad}.isdisjoint({item.good, item.bad})] or [
        o for o in mine if o.cue != item.cue
    ]
    probes += [o.probe("extension", o.cue) for o in choice.pick(alike, 2, item.id, "extension")]
    probes.append(item.probe("neighbourhood", item.mirror, right=True))
    probes += [o.probe("neighbourhood", o.cue, right=True) for o in choice.pick(others, 3, item.id, "neighbourhood")]
    return Case(id=item.id, request=request, probes=tuple(probes), source="generated")


SUPPORT = 8
"""Other items' prompts that a case offers to methods that search over several."""


def _support(item: Item, probes: Sequence[Probe], offers: Mapping[str, Item], choice: _Choice) -> tuple[Support, ...]:
    """Return other items' prompts, those of the item's own cue first; ``offers`` has one item per prompt.

    None is the beginning of a sentence that a probe asks of: not of a minimal pair's either, which begins with the
    item's frame and its cue or mirror.
    """
    asked = {probe.prompt for probe in probes}
    asked |= {item.prompt(cue, frame) for cue in (item.cue, item.mirror) for frame in range(len(item.frames))}
    free = [other for prompt, other in offers.items() if prompt not in asked]
    chosen = choice.pick([o for o in free if o.cue == item.cue], SUPPORT, item.id, "support")
    rest = [o for o in free if o.cue != item.cue]
    chosen += choice.pick(rest, SUPPORT - len(chosen), item.id, "support", "other cues")
    return tuple(other.support() for other in chosen)


def _subject(item: Item) -> str:
    return _sentence(item.cue) if item.frames[0].startswith(SLOT) else item.cue


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- the grammar -------------------------------------------------------------------------------------------------


def _number(noun: tuple[str, str], number: str) -> tuple[str, str]:
    """Return the form of a noun or verb that fits a number, and the one that does not."""
    singular, plural = noun
    return (singular, plural) if number == "singular" else (plural, singular)


def _other(number: str) -> str:
    return "plural" if number == "singular" else "singular"


def _frames(lexicon: Lexicon, choice: _Choice, item: Item) -> tuple[str, ...]:
    """Return four frames for an item, with names and verbs filled in."""
    frames = []
    for frame in choice.pick(lexicon["frames"][item.place], 4, item.id, "frames"):
        name, other = choice.pick(lexicon["names"]["female"] + lexicon["names"]["male"], 2, item.id, frame, "names")
        (verb,) = choice.pick(lexicon["verbs"]["transitive"], 1, item.id, frame, "verb")
        frames.append(frame.format(SLOT, name=name, other=other, verb=verb) + item.tail)
    return tuple(frames)


def _noun_phrases(lexicon: Lexicon, words: str, nouns: str, tails: Sequence[str] = ("",)) -> Iterator[Item]:
    """Yield items of a determiner-like cue that asks for a number of its noun."""
    for noun, number, tail in product(lexicon["nouns"][nouns].items(), ("singular", "plural"), tails):
        for i, cue in enumerate(lexicon[words][number]):
            key = f"{cue}{tail.replace(' ', '-')}-{noun[0]}"
            good, bad = _number(noun, number)
            same, opposite = lexicon[words][number], lexicon[words][_other(number)]
            yield Item(
                id=key,
                place="object",
                tail=tail,
                cue=cue,
                good=good,
                bad=bad,
                mirror=opposite[i % len(opposite)],
                sister=same[(i + 1) % len(same)],
            )


def determiner_noun(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """this sketch / this sketches."""
    del choice
    return _noun_phrases(lexicon, "determiners", "regular")


def determiner_noun_irregular(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """this child / this children, each with and without an adjective, for there are few such nouns."""
    del choice
    tails = ["", *(f" {adjective}" for adjective in lexicon["adjectives"])]
    return _noun_phrases(lexicon, "determiners", "irregular", tails)


def determiner_noun_adjective(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """this old sketch / this old sketches."""
    del choice
    return _noun_phrases(lexicon, "determiners", "regular", [f" {a}" for a in lexicon["adjectives"]])


def quantifier_noun(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """every sketch / every sketches; several sketches / several sketch."""
    del choice
    return _noun_phrases(lexicon, "quantifiers", "regular")


def anaphor_gender(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """Susan admired herself / Susan admired himself. The cue is subject and verb."""
    people = {
        gender: [*lexicon["names"][gender], *(f"the {noun}" for noun in lexicon["nouns"]["of_gender"][gender])]
        for gender in ("female", "male")
    }
    forms = {"female": ("herself", "himself"), "male": ("himself", "herself")}
    for gender, verb in product(people, lexicon["verbs"]["reflexive"]):
        opposite = people["male" if gender == "female" else "female"]
        for i, person in enumerate(people[gender]):
            key = f"{person}-{verb}".replace(" ", "-")
            (other_verb,) = choice.pick([v for v in lexicon["verbs"]["reflexive"] if v != verb], 1, key)
            good, bad = forms[gender]
            sister, mirror = f"{person} {other_verb}", f"{opposite[i % len(opposite)]} {verb}"
            yield Item(key, "clause", "", f"{person} {verb}", good, bad, mirror, sister)


def anaphor_number(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """The sisters admired themselves / the sisters admired herself."""
    for (gender, pronoun), verb in product((("female", "herself"), ("male", "himself")), lexicon["verbs"]["reflexive"]):
        for noun in lexicon["nouns"]["of_gender"][gender]:
            for number in ("singular", "plural"):
                forms = {"singular": f"the {noun} {verb}", "plural": f"the {_plural(noun)} {verb}"}
                key = forms[number].replace(" ", "-")
                (other_verb,) = choice.pick([v for v in lexicon["verbs"]["reflexive"] if v != verb], 1, key)
                good, bad = (pronoun, "themselves") if number == "singular" else ("themselves", pronoun)
                yield Item(
                    id=key,
                    place="clause",
                    tail="",
                    cue=forms[number],
                    good=good,
                    bad=bad,
                    mirror=forms[_other(number)],
                    sister=forms[number].removesuffix(verb) + other_verb,
                )


def _plural(noun: str) -> str:
    if noun.endswith("man"):
        return noun[:-3] + "men"
    return noun + ("es" if noun.endswith("s") else "s")


def _clauses(lexicon: Lexicon, choice: _Choice, nouns: str, attractors: bool = False) -> Iterator[Item]:
    """Yield items of a subject that asks for a number of its verb."""
    people = list(lexicon["nouns"][nouns].items())
    for noun, verb, number in product(people, lexicon["verbs"]["intransitive"].items(), ("singular", "plural")):
        mine, not_mine = _number(noun, number)
        key = f"{mine}-{verb[0]}"
        (adverb,) = choice.pick(lexicon["adverbs"], 1, key)
        (sister,) = choice.pick([n for n in people if n != noun], 1, key, "sister")
        tail = f" {adverb}"
        if attractors:  # a noun of the other number stands between subject and verb
            (attractor,) = choice.pick([n for n in people if n not in (noun, sister)], 1, key, "attractor")
            tail = f" near the {_number(attractor, number)[1]} {adverb}"
        good, bad = _number((verb[1], verb[0]), number)
        yield Item(
            id=key,
            place="clause",
            tail=tail,
            cue=f"the {mine}",
            good=good,
            bad=bad,
            mirror=f"the {not_mine}",
            sister=f"the {_number(sister, number)[0]}",
        )


def subject_verb(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """The sisters usually bake / the sisters usually bakes."""
    return _clauses(lexicon, choice, "people")


def subject_verb_irregular(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """The women usually bake / the women usually bakes."""
    return _clauses(lexicon, choice, "irregular_people")


def subject_verb_attractor(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """The sister near the teachers usually bakes / ... usually bake."""
    return _clauses(lexicon, choice, "people", attractors=True)


def npi_licensing(lexicon: Lexicon, choice: _Choice) -> Iterator[Item]:
    """Most of the students have often complained / ... have ever complained: "ever" wants a negative licensor."""
    licensors = lexicon["licensors"]
    for plural, good in product(lexicon["nouns"]["people"].values(), ("often", "already", "always", "never")):
        for i, word in enumerate(licensors["positive"]):
            key = f"{word}-{plural}-{good}".replace(" ", "-").casefold()
            yield Item(
                id=key,
                place="clause",
                tail=" have",
                cue=_lower(f"{word} {plural}"),
                good=good,
                bad="ever",
                mirror=_lower(f"{licensors['negative'][i % 2]} {plural}"),
                sister=_lower(f"{licensors['positive'][(i + 1) % len(licensors['positive'])]} {plural}"),
                ending=f" {choice.pick(lexicon['participles'], 1, key)[0]}",
            )


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


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
}


def pairs(spec: Mapping[str, Any], definition: Path) -> list[dict[str, Any]]:
    """Return a phenomenon's minimal pairs in the form of BLiMP's JSONL (Warstadt et al. 2020)."""
    rows = []
    for n, item in enumerate(items(spec, read_lexicon(spec, definition), definition)):
        prefix = item.prompt(item.cue)
        rows.append(
            {
                "sentence_good": item.sentence(item.cue, item.good),
                "sentence_bad": item.sentence(item.cue, item.bad),
                "one_prefix_prefix": prefix,
                "one_prefix_word_good": item.good,
                "one_prefix_word_bad": item.bad,
                "UID": definition.stem,
                "simple_LM_method": True,
                "one_prefix_method": True,
                "two_prefix_method": False,
                "pairID": str(n),
            }
        )
    return rows
