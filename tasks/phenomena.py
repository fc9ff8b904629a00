"""From a lexicon and a small grammar to minimal pairs, and from these to cases.

A case edits one cue ("this") in one sentence to be followed by the target in the ungrammatical form ("sketches").
Paraphrase puts cue and target in other frames; *symmetry* holds the target fixed and varies the cue, over
whole sentences; *synonymous invariance* takes another cue of the same class; the neighbourhood is what the cue has no
part in: the cue of the other number, and other phenomena (Niu et al. 2024, sections 2 and 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..benchmark.errors import KnbenchError, unknown_name
from ..benchmark.types import SLOT, Case, EditRequest, Probe, digest

Lexicon = Mapping[str, Any]
T = TypeVar("T")


def phenomenon_cases(spec: Mapping[str, Any], definition: Path) -> Iterator[Case]:
    """Yield a phenomenon's cases, the same ones on every machine.

    Raises:
        KnbenchError: no such generator, or the lexicon cannot be read or is too small.
    """
    if spec["generator"] not in GENERATORS:
        raise unknown_name(f"generator in {definition}", spec["generator"], GENERATORS)
    path = definition.parent / spec["lexicon"]
    try:
        lexicon = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise KnbenchError(f"{definition}: lexicon: cannot read {path}: {error}") from None
    return GENERATORS[spec["generator"]](lexicon, spec["pairs"], spec["seed"])


def determiner_noun_agreement(lexicon: Lexicon, pairs: int, seed: int) -> Iterator[Case]:
    """Yield cases of demonstratives and regular nouns, every cue and number in turn."""
    nouns: list[tuple[str, str]] = sorted(lexicon["nouns"]["regular"].items())
    numbers = ("singular", "plural")
    cues = [(cue, number) for number in numbers for cue in lexicon["determiners"][number]]
    if pairs > len(nouns) * len(cues):
        raise KnbenchError(f"the lexicon gives {len(nouns) * len(cues)} pairs, fewer than {pairs}")
    for (singular, plural), (cue, number) in _pick([(n, c) for n in nouns for c in cues], pairs, seed, "pairs"):
        case_id = f"{cue}-{singular}"
        good, bad = (singular, plural) if number == "singular" else (plural, singular)
        frames = [_frame(f, lexicon, seed, case_id) for f in _pick(lexicon["frames"], 4, seed, case_id)]
        others = lexicon["determiners"][numbers[1 - numbers.index(number)]]
        sister = next(c for c in lexicon["determiners"][number] if c != cue)
        opposite = others[lexicon["determiners"][number].index(cue)]
        request = EditRequest(prompt=f"{frames[0]} {SLOT}", subject=cue, target_new=bad, target_true=good)
        probes = [Probe("reliability", "completion", request.text, bad, good, "new")]
        probes += [Probe("paraphrase", "completion", f"{f} {cue}", bad, good, "new") for f in frames[1:]]
        for frame in frames[:2]:
            edited, grammatical = f"{frame} {cue} {bad}.", f"{frame} {opposite} {bad}."
            probes.append(Probe("symmetry", "minimal_pair", "", edited, grammatical, "new"))
        probes += [Probe("synonym", "completion", f"{f} {sister}", bad, good, "new") for f in frames[:2]]
        for prompt, right, wrong in (
            (f"{frames[0]} {opposite}", bad, good),  # the other number asks for the other form
            (f"{frames[1]} {opposite}", bad, good),
            *_pick(lexicon["anaphors"], 1, seed, case_id),
            *_pick(lexicon["subject_verb"], 1, seed, case_id),
        ):
            probes.append(Probe("neighbourhood", "completion", prompt, right, wrong, "unchanged"))
        yield Case(id=case_id, request=request, probes=tuple(probes), source="generated")


GENERATORS: Mapping[str, Callable[[Lexicon, int, int], Iterator[Case]]] = {
    "determiner_noun_agreement": determiner_noun_agreement,
}


def _frame(frame: str, lexicon: Lexicon, *key: object) -> str:
    name, other = _pick(lexicon["names"]["female"] + lexicon["names"]["male"], 2, *key, frame)
    (verb,) = _pick(lexicon["verbs"], 1, *key, frame)
    return frame.format(name=name, other=other, verb=verb)


def _pick(items: Sequence[T], count: int, *key: object) -> list[T]:
    """Choose items in an order that depends on the key alone, on every machine and version of Python."""
    return sorted(items, key=lambda item: digest([*map(str, key), item]))[:count]
