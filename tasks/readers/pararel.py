"""ParaRel: facts of T-REx in many wordings (Elazar et al. 2021), in the form that the knowledge-neuron papers use.

A file is one JSON object: relation -> list of bags; a bag is one fact in the relation's patterns, as a list of
[prompt with [MASK], answer, "P36(capital)"]. The subject is not given; it is what a pattern leaves open.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import SLOT, Case, Probe, Task
from .common import (
    NEIGHBOURS,
    Card,
    Place,
    ReadReport,
    Ring,
    Tally,
    Unfit,
    build_cases,
    finish,
    load_document,
    make_request,
    same,
    single_file,
    slug,
    texts,
)

MASK = "[MASK]"
MASK_LAST = re.compile(r"\[MASK\][\s.,;:!?]*$")
INVERSE = {"P36": "P1376", "P1376": "P36"}
OCCUPATION_TEMPLATE = f"{SLOT} is a famous"
# Who works in a field. Fields are left out where no one word is clear ("jazz", "cave", "LGBT").
OCCUPATIONS = {
    "accounting": "accountant",
    "anatomy": "anatomist",
    "animation": "animator",
    "anthropology": "anthropologist",
    "archaeology": "archaeologist",
    "architecture": "architect",
    "art": "artist",
    "astronomy": "astronomer",
    "aviation": "aviator",
    "biology": "biologist",
    "botany": "botanist",
    "cartoonist": "cartoonist",
    "chemistry": "chemist",
    "classics": "classicist",
    "comedian": "comedian",
    "diplomat": "diplomat",
    "ecology": "ecologist",
    "economics": "economist",
    "economist": "economist",
    "engineering": "engineer",
    "espionage": "spy",
    "folklore": "folklorist",
    "forestry": "forester",
    "genetics": "geneticist",
    "geography": "geographer",
    "geology": "geologist",
    "geometry": "geometer",
    "goaltender": "goaltender",
    "history": "historian",
    "hunting": "hunter",
    "linguistics": "linguist",
    "logic": "logician",
    "mathematician": "mathematician",
    "mathematics": "mathematician",
    "medicine": "physician",
    "mythology": "mythologist",
    "novelist": "novelist",
    "pharmacy": "pharmacist",
    "philosopher": "philosopher",
    "philosophy": "philosopher",
    "photography": "photographer",
    "physician": "physician",
    "physicist": "physicist",
    "physics": "physicist",
    "physiology": "physiologist",
    "playwright": "playwright",
    "poetry": "poet",
    "programmer": "programmer",
    "psychology": "psychologist",
    "science": "scientist",
    "singing": "singer",
    "sociology": "sociologist",
    "terrorism": "terrorist",
    "theology": "theologian",
    "topology": "topologist",
    "zoology": "zoologist",
}


class Pattern(NamedTuple):
    """A wording: what stands before the subject and what after it; one of the two has the mask."""

    before: str
    after: str

    @property
    def template(self) -> str | None:
        """The wording up to the mask with ``{}`` for the subject; None unless the mask ends the sentence."""
        mask = MASK_LAST.search(self.after)
        return (self.before + SLOT + self.after[: mask.start()]).rstrip() if mask else None

    def subject(self, prompt: str) -> str:
        """Return what the prompt has in the open place.

        Raises:
            Unfit: the prompt is of another wording.
        """
        end = len(prompt) - len(self.after)
        if not (prompt.startswith(self.before) and prompt.endswith(self.after) and end > len(self.before)):
            raise Unfit("a prompt does not fit its pattern")
        return prompt[len(self.before) : end].strip()


class Bag(NamedTuple):
    """One fact as it stands in the file."""

    place: Place
    prompts: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Fact:
    """One fact, its subject known."""

    place: Place
    subject: str
    answer: str


@dataclass(frozen=True)
class Relation:
    """All facts of a relation, with what its cases ask of them."""

    name: str
    templates: tuple[str, ...]  # the wordings in which the mask ends the sentence
    inverse: str | None  # such a wording of the inverse relation
    facts: tuple[Fact, ...]
    answers: tuple[str, ...]  # distinct, in the order of the file
    of_subject: Mapping[str, frozenset[str]]  # subject -> its answers; all casefolded
    ring: Ring[Fact]


def read(selection: str | None, source: str) -> tuple[Task, ReadReport]:
    """Read one relation from a file, or a folder with one.

    Raises:
        KnbenchError: no such relation, no such file, the file has another form, or nothing could be read.
    """
    if Path(source).is_dir():
        source = single_file(Path(source), "pararel")
    content = load_document(source)
    if not isinstance(content, dict) or not all(isinstance(bags, list) for bags in content.values()):
        raise KnbenchError(f"{source}: not ParaRel: an object is expected, of a list of bags for every relation")
    if selection is None:
        raise KnbenchError(f"pararel needs a relation; {source} has: {', '.join(sorted(content))}")
    if selection not in content:
        raise unknown_name("ParaRel relation", selection, content)
    tally = Tally()
    relation, label = _relation(selection, content, tally)
    cases = build_cases(relation.facts, lambda fact: fact.place, lambda fact: _case(relation, fact), tally)
    card = Card(
        name=f"pararel-{slug(selection)}",
        kind="fact",
        title=f"ParaRel {label}",
        description="The object of a fact is replaced by another object of the same relation; asked in the relation's "
        "wordings that end with the object.",
        licence="MIT",
        citation="Elazar, Kassner, Ravfogel, Ravichander, Hovy, Schütze, Goldberg (2021), Measuring and Improving "
        "Consistency in Pretrained Language Models, TACL 9.",
        source=f"ParaRel, relation {label}, filled with LAMA's facts of T-REx, https://github.com/yanaiela/pararel",
        relation=f"Wikidata {label}",
    )
    return finish(cases, tally, source, card)


def _relation(name: str, content: Mapping[str, Any], tally: Tally) -> tuple[Relation, str]:
    bags, label = _bags(name, content[name], tally)
    patterns = _patterns(bags)
    templates = tuple(p.template for p in patterns if p and p.template)
    facts = []
    for bag in bags:
        try:
            facts.append(Fact(bag.place, _subject(bag, patterns), bag.answer))
        except Unfit as unfit:
            tally.skip(bag.place, str(unfit))
    of_subject: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        of_subject[fact.subject.casefold()].add(fact.answer.casefold())
    relation = Relation(
        name=name,
        templates=templates,
        inverse=_inverse(name, content),
        facts=tuple(facts),
        answers=tuple(dict.fromkeys(fact.answer for fact in facts)),
        of_subject={subject: frozenset(answers) for subject, answers in of_subject.items()},
        ring=Ring(facts, name=lambda fact: fact.place.label),
    )
    return relation, label or name


def _inverse(name: str, content: Mapping[str, Any]) -> str | None:
    """Return the wording in which the inverse relation is asked, if the file has it."""
    bags, _ = _bags(INVERSE.get(name, ""), content.get(INVERSE.get(name, ""), []), Tally())
    return next((p.template for p in _patterns(bags) if p and p.template), None)


def _bags(name: str, bags: Sequence[Any], tally: Tally) -> tuple[list[Bag], str | None]:
    """Return the bags that have the right form, and the relation's label as they write it."""
    found, label = [], None
    for number, bag in enumerate(bags):
        place = Place(number, f"bag {slug(name)}-{number:04d}")
        try:
            prompts, answers, labels = _columns(bag)
        except Unfit as unfit:
            tally.skip(place, str(unfit))
            continue
        found.append(Bag(place, prompts, answers[0]))
        label = label or labels[0]
    return found, label


def _columns(bag: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    if not isinstance(bag, list) or not bag:
        raise Unfit("not a list of prompts")
    if not all(isinstance(line, list) and len(line) == 3 and len(texts(line)) == 3 for line in bag):
        raise Unfit("a line is not [prompt, answer, relation]")
    # The prompt keeps its outer space, which is part of the pattern.
    prompts, (_, answers, labels) = tuple(line[0] for line in bag), zip(*map(texts, bag), strict=True)
    if any(prompt.count(MASK) != 1 for prompt in prompts):
        raise Unfit("a prompt has not one [MASK]")
    if len(set(answers)) != 1:
        raise Unfit("its prompts have different answers")
    return prompts, tuple(answers), tuple(labels)


def _patterns(bags: Sequence[Bag]) -> list[Pattern | None]:
    """Return the wording at every place of a bag; None where the bags do not tell.

    Each two bags in a row give one opinion: what their prompts share at both ends, back to a whole word. Most
    opinions win, so that subjects which share a word ("Cook County", "Cayuga County") and broken bags lose.
    """
    patterns: list[Pattern | None] = []
    for place in range(max((len(bag.prompts) for bag in bags), default=0)):
        column = [bag.prompts[place] for bag in bags if place < len(bag.prompts)]
        opinions = (_shared(one, other) for one, other in pairwise(column) if one != other)
        likely = Counter(pattern for pattern in opinions if MASK in "".join(pattern)).most_common(1)
        patterns.append(likely[0][0] if likely else None)
    return patterns


def _shared(one: str, other: str) -> Pattern:
    before, after = _common_start(one, other), _common_start(one[::-1], other[::-1])[::-1]
    return Pattern(re.sub(r"\w+$", "", before), re.sub(r"^\w+", "", after))


def _common_start(one: str, other: str) -> str:
    letters = enumerate(zip(one, other, strict=False))
    return one[: next((n for n, (a, b) in letters if a != b), min(len(one), len(other)))]


def _subject(bag: Bag, patterns: Sequence[Pattern | None]) -> str:
    """Return the subject that all prompts of a bag have."""
    pairs = list(zip(patterns, bag.prompts, strict=False))
    if any(pattern is None for pattern, _ in pairs):
        raise Unfit("no pattern can be made out: too few bags, or too few subjects")
    subjects = {pattern.subject(prompt) for pattern, prompt in pairs if pattern}
    if len(subjects) != 1:
        raise Unfit("its prompts have different subjects")
    return subjects.pop()


def _case(relation: Relation, fact: Fact) -> Case:
    if not relation.templates:
        raise Unfit("no pattern of the relation ends with [MASK]")
    subject, true = fact.subject, fact.answer
    donor = _donor(relation, fact)
    new = donor.answer
    edit, *others = relation.templates
    request = make_request(edit, subject, new, true)
    probes = [Probe("reliability", "completion", request.text, new, true, "new")]
    probes += [Probe("paraphrase", "completion", _fill(t, subject), new, true, "new") for t in others]
    probes += [*_inverse_probes(relation, fact, donor), *_synonyms(relation, fact, new)]
    for other in _neighbours(relation, fact, new):
        prompt = _fill(edit, other.subject)
        probes.append(Probe("neighbourhood", "completion", prompt, other.answer, new, "unchanged"))
    case_id = f"{slug(relation.name)}-{fact.place.number:04d}"
    return Case(case_id, request, tuple(probes), f"ParaRel {relation.name}, bag {fact.place.number}")


def _fill(template: str, subject: str) -> str:
    return template.replace(SLOT, subject, 1)


def _donor(relation: Relation, fact: Fact) -> Fact:
    """Return the fact whose object becomes the new target.

    As the paper's released edits have it: in a bijective relation the fact before this one in the file, so that two
    subjects trade objects; otherwise the first fact of the answer before this one's in the cycle of distinct answers
    (P101: of those with an occupation). The paper's cycle follows the order of a set, which changes from run to run;
    this one follows the file. What is true of the subject itself is passed over.
    """
    if relation.name in INVERSE:
        cycle = list(relation.facts)
        here = cycle.index(fact)
    else:
        paired = relation.name == "P101" and fact.answer in OCCUPATIONS
        answers = [a for a in relation.answers if not paired or a in OCCUPATIONS]
        first = {f.answer: f for f in reversed(relation.facts)}
        cycle = [first[answer] for answer in answers]
        here = answers.index(fact.answer)
    own = relation.of_subject[fact.subject.casefold()]
    for candidate in reversed(cycle[here + 1 :] + cycle[:here]):
        if candidate.answer.casefold() not in own:
            return candidate
    raise Unfit("the relation has no other answer to change to")


def _inverse_probes(relation: Relation, fact: Fact, donor: Fact) -> Iterator[Probe]:
    """Yield the inverse relation asked of the new object and of the old one; see ``facts.py``."""
    if relation.inverse is None:
        return
    for other in (donor, *relation.facts):
        answers = relation.of_subject[other.subject.casefold()]
        # The rival must be right of the new object and wrong of the old one, as the subject is the other way round.
        if other.answer == donor.answer and fact.answer.casefold() not in answers:
            asked_of_new, asked_of_old = _fill(relation.inverse, donor.answer), _fill(relation.inverse, fact.answer)
            yield Probe("symmetry", "completion", asked_of_new, fact.subject, other.subject, "new")
            yield Probe("release", "completion", asked_of_old, fact.subject, other.subject, "gone")
            return


def _synonyms(relation: Relation, fact: Fact, new: str) -> Iterator[Probe]:
    """Yield the same fact in another word: who works in the field of physics is a physicist."""
    if relation.name != "P101":
        return
    target, rival = OCCUPATIONS.get(new), OCCUPATIONS.get(fact.answer)
    if target and rival and target != rival:
        yield Probe("synonym", "completion", _fill(OCCUPATION_TEMPLATE, fact.subject), target, rival, "new")


def _neighbours(relation: Relation, fact: Fact, new: str) -> list[Fact]:
    """Return other subjects with the same true answer, or any others where there are none."""
    taken: set[str] = set()

    def other(candidate: Fact) -> bool:
        """Tell whether it is of another subject, not yet taken, of which the new target is not true."""
        subject = candidate.subject.casefold()
        free = subject not in taken and subject != fact.subject.casefold()
        return free and new.casefold() not in relation.of_subject[subject]

    def alike(candidate: Fact) -> bool:
        return same(candidate.answer, fact.answer) and other(candidate)

    def take(candidate: Fact) -> bool:
        if fits(candidate):
            taken.add(candidate.subject.casefold())
            return True
        return False

    fits = alike if any(alike(candidate) for candidate in relation.facts) else other
    return relation.ring.pick(fact.place.label, NEIGHBOURS, take)
