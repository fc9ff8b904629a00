"""Builds the cases of linguistic tasks from minimal pairs.

A case edits one *cue* ("this", "Susan admired", "The sisters"): after the edit, the cue is followed by the target in
its ungrammatical form ("sketches", "himself", "bakes"). The probes follow Niu et al. (2024), sections 2 and 5:

- paraphrase: cue and target in other frames;
- symmetry: whole sentences with the same target and different cues;
- synonym: another cue of the same class;
- extension: other words of the same phenomenon, to which an edit of one cue may or may not extend;
- neighbourhood: prompts without the cue: a cue after which the target is grammatical, and other phenomena;
- specificity: both forms of the target after cues of other classes (see :mod:`.specificity`).

The support of a case is the prompts of other items with their grammatical form, preferably items with the same cue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..benchmark.core.schema import SLOT, Case, EditRequest, Probe, Support
from .grammar import Item, capitalise, generate_items, read_lexicon
from .sampling import HashSampler

CRITERIA = ("reliability", "paraphrase", "symmetry", "synonym", "extension", "neighbourhood", "specificity")
NEIGHBOUR_POOL = 40
"""Number of items per other phenomenon from which neighbourhood probes are drawn."""
SUPPORT = 8
"""Maximum number of support prompts per case, for methods that use several prompts."""


def phenomenon_cases(spec: Mapping[str, Any], definition: Path) -> Iterator[Case]:
    """Yield the cases of a phenomenon.

    Args:
        spec: the section ``phenomenon`` of the definition.
        definition: the path of the definition file, to which the path of the lexicon is relative.

    Raises:
        KnbenchError: the lexicon cannot be read, a generator is unknown, or the lexicon gives too few items.
    """
    lexicon = read_lexicon(spec, definition)
    items = generate_items(spec, lexicon, definition)
    sampler = HashSampler(spec["seed"])
    neighbours = [
        item
        for name in spec["neighbours"]
        for item in generate_items({**spec, "generator": name, "pairs": NEIGHBOUR_POOL}, lexicon, definition)
    ]
    item_of_prompt = {item.prompt(item.cue): item for item in reversed(items)}
    for item in items:
        case = _case(item, items, neighbours, sampler)
        support = _support(item, case.probes, item_of_prompt, sampler)
        yield replace(case, request=replace(case.request, support=support))


def _case(item: Item, items: Sequence[Item], neighbours: Sequence[Item], sampler: HashSampler) -> Case:
    """Return the case of an item, without support."""
    # Words between cue and target; a phenomenon has no inverse relation.
    relation = (item.intervening.strip(), "")
    request = EditRequest(
        capitalise(item.frames[0]), _subject(item), target_new=item.bad, target_true=item.good, relation=relation
    )
    probes = [item.changed_probe("reliability", item.cue)]
    probes += [item.changed_probe("paraphrase", item.cue, frame) for frame in range(1, len(item.frames))]
    for frame in (0, 1):
        edited, grammatical = (item.sentence(cue, item.bad, frame) for cue in (item.cue, item.contrast_cue))
        probes.append(Probe("symmetry", "minimal_pair", "", edited, grammatical, "new", suffix=""))
        probes.append(item.changed_probe("synonym", item.synonym_cue, frame))
    other_words = [
        o for o in items if o.contrast_cue != item.cue and {o.good, o.bad}.isdisjoint({item.good, item.bad})
    ] or [o for o in items if o.cue != item.cue]
    probes += [o.changed_probe("extension", o.cue) for o in sampler.sample(other_words, 2, item.id, "extension")]
    probes.append(item.unchanged_probe("neighbourhood", item.contrast_cue))
    drawn = sampler.sample(neighbours, 3, item.id, "neighbourhood")
    probes += [o.unchanged_probe("neighbourhood", o.cue) for o in drawn]
    probes += item.specificity_probes(sampler)
    return Case(id=item.id, request=request, probes=tuple(probes), source="generated")


def _support(
    item: Item, probes: Sequence[Probe], item_of_prompt: Mapping[str, Item], sampler: HashSampler
) -> tuple[Support, ...]:
    """Return the prompts of other items, those with the same cue first.

    A support prompt is never the prompt of a probe, nor the beginning of a sentence of a symmetry probe, which consists
    of a frame of the item and its cue or contrast cue.
    """
    excluded = {probe.prompt for probe in probes}
    excluded |= {item.prompt(cue, frame) for cue in (item.cue, item.contrast_cue) for frame in range(len(item.frames))}
    candidates = [other for prompt, other in item_of_prompt.items() if prompt not in excluded]
    chosen = sampler.sample([o for o in candidates if o.cue == item.cue], SUPPORT, item.id, "support")
    rest = [o for o in candidates if o.cue != item.cue]
    chosen += sampler.sample(rest, SUPPORT - len(chosen), item.id, "support", "other cues")
    return tuple(other.support() for other in chosen)


def _subject(item: Item) -> str:
    return capitalise(item.cue) if item.frames[0].startswith(SLOT) else item.cue


def minimal_pairs(spec: Mapping[str, Any], definition: Path) -> list[dict[str, Any]]:
    """Return the minimal pairs of a phenomenon with the keys of BLiMP's JSONL files (Warstadt et al. 2020).

    Raises:
        KnbenchError: see :func:`phenomenon_cases`.
    """
    return [
        {
            "sentence_good": item.sentence(item.cue, item.good),
            "sentence_bad": item.sentence(item.cue, item.bad),
            "one_prefix_prefix": item.prompt(item.cue),
            "one_prefix_word_good": item.good,
            "one_prefix_word_bad": item.bad,
            "UID": definition.stem,
            "simple_LM_method": True,
            "one_prefix_method": True,
            "two_prefix_method": False,
            "pairID": str(index),
        }
        for index, item in enumerate(generate_items(spec, read_lexicon(spec, definition), definition))
    ]
