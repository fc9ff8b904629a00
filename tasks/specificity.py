"""Builds the probes of the criterion ``specificity``: the forms of an edited word after cues the edit is not about.

An edit makes the form ``bad`` of a word more probable than the form ``good`` after its cue. It is specific if, after
cues of other classes, the right form keeps its preference. A method that makes ``bad`` more probable everywhere has
perfect reliability and loses the probes whose right form is ``good``. At least two of the three probes of a case are
therefore of this kind. The third one, where there is such a cue, has ``bad`` as its right form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..benchmark.core.schema import SLOT, Probe
from .sampling import HashSampler

PROBES = 3
"""Number of specificity probes per case."""


@dataclass(frozen=True)
class Contrast:
    """The two forms of an edited word, with the contexts of other cues after which they are right.

    Attributes:
        good: the form that is right after the edited cue.
        bad: the other form, which the edit prefers.
        good_context: name of a context after which ``good`` is right.
        bad_context: name of a context after which ``bad`` is right, or None.
        cue_class: words of the class of the edited cue, which the probes' cues and names do not contain.
        modifier: text between cue and form, with a space before it ("" or " old").
        suffix: the text after the form in its sentence.
    """

    good: str
    bad: str
    good_context: str
    bad_context: str | None
    cue_class: Sequence[str] = ()
    modifier: str = ""
    suffix: str = "."


@dataclass(frozen=True)
class _Context:
    """Cues after which one form is right, and frames that embed the cues.

    Attributes:
        frames: texts up to the form, with ``{}`` for the cue.
        cues: words or phrases. Each fits each frame.
    """

    frames: Sequence[str]
    cues: Sequence[str]


def specificity_probes(contrast: Contrast, sampler: HashSampler, case_id: str) -> Iterator[Probe]:
    """Yield the three specificity probes of a case, drawn by hash. No two of them have the same frame.

    Args:
        contrast: the forms of the edited word and their contexts.
        sampler: draws frames, cues and names.
        case_id: identifier of the case.
    """
    good, bad = contrast.good, contrast.bad
    asked = [(contrast.good_context, PROBES, good, bad)]
    if contrast.bad_context is not None:
        asked = [(contrast.good_context, PROBES - 1, good, bad), (contrast.bad_context, 1, bad, good)]
    used: set[str] = set()
    for name, count, right, wrong in asked:
        context = _read_contexts()[1][name]
        frames = sampler.sample([f for f in context.frames if f not in used], count, case_id, "specificity", name)
        others = [cue for cue in context.cues if _fits(cue, right, contrast)]
        cues = sampler.sample(others, count, case_id, "specificity", name, "cues")
        used.update(frames)
        for frame, cue in zip(frames, cues, strict=False):  # a lexicon may leave fewer cues
            prompt = _prompt(frame, cue, right, contrast, sampler, case_id)
            yield Probe("specificity", "completion", prompt, right, wrong, "unchanged", suffix=contrast.suffix)


def _fits(cue: str, form: str, contrast: Contrast) -> bool:
    """Return whether a cue is not of the edited cue's class, and not an article that the spelling does not decide."""
    undecided = cue == "a" and f"{contrast.modifier} {form}".lstrip().startswith(
        ("u", "eu", "one", "heir", "hon", "hour")
    )
    return not undecided and not set(cue.split()) & set(contrast.cue_class)


def _prompt(frame: str, cue: str, form: str, contrast: Contrast, sampler: HashSampler, case_id: str) -> str:
    """Return a frame with its cue and sampled words, from a capital letter to the form."""
    if cue == "a" and f"{contrast.modifier} {form}".lstrip()[0] in "aeiou":
        cue = "an"
    text = frame.replace(SLOT, cue, 1)
    words = {
        kind: sampler.sample(
            [w for w in choices if w not in contrast.cue_class], 1, case_id, "specificity", frame, cue, kind
        )[0]
        for kind, choices in _read_contexts()[0].items()
    }
    text = text.format(**words) + contrast.modifier
    return text[:1].upper() + text[1:]


@cache
def _read_contexts() -> tuple[Mapping[str, Sequence[str]], Mapping[str, _Context]]:
    """Return the lists of words and the contexts by name."""
    text = files(__package__).joinpath("data").joinpath("specificity.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content["words"], {name: _Context(**lists) for name, lists in content["contexts"].items()}
