"""ParaRel: facts of T-REx in several wordings (Elazar et al. 2021), in the format of the knowledge-neuron papers.

A file is one JSON object that maps each relation to a list of bags. A bag is one fact in all patterns of the relation:
a list of [prompt with [MASK], answer, "P36(capital)"]. The file does not give the subject. The reader infers the
patterns from the prompts; the subject is the part of a prompt that its pattern leaves open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import SLOT, Case, Probe, Task
from ...benchmark.scoring.answers import normalise
from ..sampling import HashOrderedPool
from .shared.cases import NEIGHBOURHOOD_PROBES, build_cases, make_request
from .shared.fields import strings_in, task_name_from
from .shared.masked_patterns import MASK, Pattern, infer_patterns
from .shared.published_task import PublishedReader, TaskCard, build_task
from .shared.recognition import suggestion
from .shared.rows import load_rows, resolve_file, source_not_found
from .shared.skips import SkipRecord, SkipReport, SourceLocation

TASK_VERSION = 2
INVERSE = {"P36": "P1376", "P1376": "P36"}
OCCUPATION_TEMPLATE = f"{SLOT} is a famous"
# The occupation of a person who works in a field. Fields without an unambiguous word ("jazz", "cave", "LGBT") are
# omitted.
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


class Bag(NamedTuple):
    """One fact of the file, before its subject is known."""

    location: SourceLocation
    prompts: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Fact:
    """One fact with its subject."""

    location: SourceLocation
    subject: str
    answer: str


@dataclass(frozen=True)
class Relation:
    """All facts of a relation, and the templates of its cases.

    Attributes:
        name: the Wikidata property, for example "P36".
        templates: the wordings in which the mask ends the sentence; the first one is edited.
        inverse: the first wording of the inverse relation in which the mask ends the sentence, or None.
        facts: the facts in the order of the file.
        answers: the distinct answers in the order of the file.
        answers_by_subject: the answers of each subject, all normalised.
        pool: the facts from which neighbourhood probes are drawn.
        pools: the same facts, by normalised answer.
        positions: the position of each fact, by the index of its location.
    """

    name: str
    templates: tuple[str, ...]
    inverse: str | None
    facts: tuple[Fact, ...]
    answers: tuple[str, ...]
    answers_by_subject: Mapping[str, frozenset[str]]
    pool: HashOrderedPool[Fact]
    pools: Mapping[str, HashOrderedPool[Fact]]
    positions: Mapping[int, int]

    @cached_property
    def first_facts(self) -> dict[str, Fact]:
        """The first fact of each answer, in the order of the file."""
        return {fact.answer: fact for fact in reversed(self.facts)}

    @cached_property
    def answers_with_occupation(self) -> tuple[str, ...]:
        """The answers of which :data:`OCCUPATIONS` has a word."""
        return tuple(answer for answer in self.answers if answer in OCCUPATIONS)


def load(selection: str | None, source: str) -> tuple[Task, SkipReport]:
    """Load one relation from a file, a folder with one data file, or a file on the Hub.

    Raises:
        KnbenchError: the relation or the source does not exist, the file has another format, or no record can be read.
    """
    source = resolve_file(source, "pararel")
    content = _relations_in(source)
    if selection is None:
        example = f", for example pararel:{min(content)}" if content else ""
        raise KnbenchError(
            f"pararel needs a relation: use pararel:RELATION{example}; relations in {source}: "
            f"{', '.join(sorted(content))}"
        )
    if selection not in content:
        raise unknown_name("ParaRel relation", selection, content)
    report = SkipReport()
    relation, label = _relation(selection, content, report)
    cases = build_cases(relation.facts, lambda fact: fact.location, lambda fact: _case(relation, fact), report)
    card = TaskCard(
        name=f"pararel-{task_name_from(selection)}",
        kind="fact",
        title=f"ParaRel {label}",
        description="The object of a fact is replaced by another object of the same relation; asked in the relation's "
        "wordings that end with the object.",
        licence="MIT",
        citation="Elazar, Kassner, Ravfogel, Ravichander, Hovy, Schütze, Goldberg (2021), Measuring and Improving "
        "Consistency in Pretrained Language Models, TACL 9.",
        source=f"ParaRel, relation {label}, filled with LAMA's facts of T-REx, https://github.com/yanaiela/pararel",
        relation=f"Wikidata {label}",
        version=TASK_VERSION,
    )
    return build_task(cases, report, source, card)


def _relations_in(source: str) -> dict[str, Any]:
    """Return the bags of a file by relation.

    Raises:
        KnbenchError: the file does not exist or has another format.
    """
    if not Path(source).is_file() and ":" not in source:
        raise source_not_found(source)
    records = [row.value for row in load_rows(source, SkipReport())]
    if len(records) != 1 or not all(isinstance(bags, list) for bags in records[0].values()):
        advice = suggestion(records, "pararel")
        raise KnbenchError(
            f"{source}: not ParaRel data: expected a JSON object that maps relations to lists of bags"
            + (f"; {advice}" if advice else "")
        )
    return records[0]


def _relation(name: str, content: Mapping[str, Any], report: SkipReport) -> tuple[Relation, str]:
    """Return a relation and its label, for example "P36(capital)"."""
    bags, label = _bags(name, content[name], report)
    patterns = infer_patterns([bag.prompts for bag in bags])
    templates = tuple(p.template for p in patterns if p and p.template)
    facts = []
    for bag in bags:
        try:
            facts.append(Fact(bag.location, _subject(bag, patterns), bag.answer))
        except SkipRecord as error:
            report.skip(bag.location, str(error))
    answers_by_subject: dict[str, set[str]] = defaultdict(set)
    facts_by_answer: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        answers_by_subject[normalise(fact.subject)].add(normalise(fact.answer))
        facts_by_answer[normalise(fact.answer)].append(fact)
    relation = Relation(
        name=name,
        templates=templates,
        inverse=_inverse_template(name, content),
        facts=tuple(facts),
        answers=tuple(dict.fromkeys(fact.answer for fact in facts)),
        answers_by_subject={subject: frozenset(answers) for subject, answers in answers_by_subject.items()},
        pool=HashOrderedPool(facts, name=lambda fact: fact.location.label),
        pools={
            answer: HashOrderedPool(same, name=lambda fact: fact.location.label)
            for answer, same in facts_by_answer.items()
        },
        positions={fact.location.index: position for position, fact in enumerate(facts)},
    )
    return relation, label or name


def _inverse_template(name: str, content: Mapping[str, Any]) -> str | None:
    """Return the first usable template of the inverse relation, or None if the file has no inverse relation."""
    inverse = INVERSE.get(name, "")
    bags, _ = _bags(inverse, content.get(inverse, []), SkipReport())
    return next((p.template for p in infer_patterns([bag.prompts for bag in bags]) if p and p.template), None)


def _bags(name: str, bags: Sequence[Any], report: SkipReport) -> tuple[list[Bag], str | None]:
    """Return the well-formed bags, and the label of the relation as the first of them gives it."""
    found, label = [], None
    for index, bag in enumerate(bags):
        location = SourceLocation(index, f"bag {task_name_from(name)}-{index:04d}")
        try:
            prompts, answers, labels = _columns(bag)
        except SkipRecord as error:
            report.skip(location, str(error))
            continue
        found.append(Bag(location, prompts, answers[0]))
        label = label or labels[0]
    return found, label


def _columns(bag: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the prompts, answers and relation labels of a bag.

    Raises:
        SkipRecord: the bag is malformed.
    """
    if not isinstance(bag, list) or not bag:
        raise SkipRecord("not a list of prompts")
    if not all(isinstance(line, list) and len(line) == 3 and len(strings_in(line)) == 3 for line in bag):
        raise SkipRecord("a line is not [prompt, answer, relation]")
    # Prompts are not stripped: their outer spaces are part of the pattern.
    prompts, (_, answers, labels) = tuple(line[0] for line in bag), zip(*map(strings_in, bag), strict=True)
    if any(prompt.count(MASK) != 1 for prompt in prompts):
        raise SkipRecord("a prompt does not contain exactly one [MASK]")
    if len(set(answers)) != 1:
        raise SkipRecord("the prompts have different answers")
    return prompts, tuple(answers), tuple(labels)


def _subject(bag: Bag, patterns: Sequence[Pattern | None]) -> str:
    """Return the subject that all prompts of a bag have in common.

    Raises:
        SkipRecord: a pattern is unknown, a prompt does not match its pattern, or the prompts have different subjects.
    """
    pairs = list(zip(patterns, bag.prompts, strict=False))
    if any(pattern is None for pattern, _ in pairs):
        raise SkipRecord("a pattern cannot be inferred: too few bags or too few subjects")
    subjects = {pattern.subject(prompt) for pattern, prompt in pairs if pattern}
    if len(subjects) != 1:
        raise SkipRecord("the prompts have different subjects")
    return subjects.pop()


def _case(relation: Relation, fact: Fact) -> Case:
    if not relation.templates:
        raise SkipRecord("no pattern of the relation ends with [MASK]")
    subject, true = fact.subject, fact.answer
    donor = _donor(relation, fact)
    new = donor.answer
    edit, *others = relation.templates
    start, _, rest = edit.partition(SLOT)
    request = make_request(start + SLOT + rest.replace(SLOT, subject), subject, new, true)
    probes = [Probe("reliability", "completion", request.text, new, true, "new")]
    probes += [Probe("paraphrase", "completion", _fill(t, subject), new, true, "new") for t in others]
    probes += [*_inverse_probes(relation, fact, donor), *_synonym_probes(relation, fact, new)]
    for other in _neighbours(relation, fact, new):
        prompt = _fill(edit, other.subject)
        probes.append(Probe("neighbourhood", "completion", prompt, other.answer, new, "unchanged"))
    case_id = f"{task_name_from(relation.name)}-{fact.location.index:04d}"
    return Case(case_id, request, tuple(probes), f"ParaRel {relation.name}, bag {fact.location.index}")


def _fill(template: str, subject: str) -> str:
    return template.replace(SLOT, subject)


def _donor(relation: Relation, fact: Fact) -> Fact:
    """Return the fact whose object becomes the new target.

    The rule follows the released edits of Niu et al. (2024). In a bijective relation the donor is the preceding fact
    of the file, which makes two subjects exchange objects. In other relations it is the first fact that has the
    preceding answer in the cycle of distinct answers (P101: of the answers with an occupation). The cycle of the
    paper follows the order of a set, which differs between runs; this one follows the file. Candidates whose object
    is a true answer of the subject are skipped.

    Raises:
        SkipRecord: no candidate is left.
    """
    if relation.name in INVERSE:
        cycle: Sequence[Fact] = relation.facts
        position = relation.positions[fact.location.index]
    else:
        occupations_only = relation.name == "P101" and fact.answer in OCCUPATIONS
        answers = relation.answers_with_occupation if occupations_only else relation.answers
        cycle = [relation.first_facts[answer] for answer in answers]
        position = answers.index(fact.answer)
    true_answers = relation.answers_by_subject[normalise(fact.subject)]
    for step in range(1, len(cycle)):
        candidate = cycle[(position - step) % len(cycle)]
        if normalise(candidate.answer) not in true_answers:
            return candidate
    raise SkipRecord("the relation has no other answer to use as new target")


def _inverse_probes(relation: Relation, fact: Fact, donor: Fact) -> Iterator[Probe]:
    """Yield the symmetry and release probes: the inverse relation of the new object and of the old one.

    The rival answer is another subject of the new object, as in the symmetry probes of ``tasks/facts.py``. It must be
    correct for the new object and wrong for the old one before the edit; the subject is the reverse.
    """
    if relation.inverse is None:
        return
    for other in chain([donor], relation.facts):
        answers = relation.answers_by_subject[normalise(other.subject)]
        if other.answer == donor.answer and normalise(fact.answer) not in answers:
            new_prompt, old_prompt = _fill(relation.inverse, donor.answer), _fill(relation.inverse, fact.answer)
            yield Probe("symmetry", "completion", new_prompt, fact.subject, other.subject, "new")
            yield Probe("release", "completion", old_prompt, fact.subject, other.subject, "gone")
            return


def _synonym_probes(relation: Relation, fact: Fact, new: str) -> Iterator[Probe]:
    """Yield the fact in another word: a person who works in the field of physics is a physicist."""
    if relation.name != "P101":
        return
    target, rival = OCCUPATIONS.get(new), OCCUPATIONS.get(fact.answer)
    if target and rival and target != rival:
        yield Probe("synonym", "completion", _fill(OCCUPATION_TEMPLATE, fact.subject), target, rival, "new")


def _neighbours(relation: Relation, fact: Fact, new: str) -> list[Fact]:
    """Return facts of other subjects with the same true answer, or of any other subjects if no subject shares it."""
    picked: set[str] = set()

    def is_eligible(candidate: Fact) -> bool:
        """Return whether the subject is another one, not yet picked, and the new target is not true of it."""
        subject = normalise(candidate.subject)
        available = subject not in picked and subject != normalise(fact.subject)
        return available and normalise(new) not in relation.answers_by_subject[subject]

    def accept_once(candidate: Fact) -> bool:
        if is_eligible(candidate):
            picked.add(normalise(candidate.subject))
            return True
        return False

    label, sharing = fact.location.label, relation.pools[normalise(fact.answer)]
    return sharing.pick(label, NEIGHBOURHOOD_PROBES, accept_once) or relation.pool.pick(
        label, NEIGHBOURHOOD_PROBES, accept_once
    )


READER = PublishedReader("pararel", load)
