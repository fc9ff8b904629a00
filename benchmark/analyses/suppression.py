"""Effect of suppressing or enhancing neurons on the probabilities of a class of words.

Niu et al. 2024, section 4.2: neurons that are attributed to a determiner are suppressed, and the probability of every
determiner is compared before and after. If the neurons represent grammatical number, the probabilities of singular and
plural determiners change in opposite directions. If they represent co-occurrence, the changes follow how often a word
precedes singular or plural nouns in text; see :mod:`.word_frequency`.

A masked model gives the probability of the word at its position. A causal model reads from left to right, so the joint
probability of the word and the text after it is measured. Divided by its sum over the class, this is by Bayes' rule the
probability of the word given the text on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
import yaml

from ..core.errors import KnbenchError, unknown_name
from ..core.schema import SLOT, Case, Probe
from ..core.text import join_answer
from ..editing import Edit
from ..models.attribution import Neuron
from ..models.language_model import LanguageModel
from ..probing.prober import make_prober
from ..scoring.effects import adjusted, effect
from ..scoring.intervals import mean_over_cases

Operation = Literal["suppress", "enhance"]
WordClass = Mapping[str, Sequence[str]]
"""Words by group, for example by number or gender."""


def parse_word_class(text: str) -> WordClass:
    """Return a word class by name, or parse a definition such as ``singular=this|that,plural=these|those``.

    Raises:
        KnbenchError: the name is unknown, or the definition has fewer than two groups or an empty word.
    """
    classes = yaml.safe_load(files(__package__).joinpath("word_classes.yaml").read_text(encoding="utf-8"))
    if "=" not in text:
        if text not in classes:
            raise unknown_name("word class", text, classes)
        word_class: WordClass = classes[text]
        return word_class
    parts = (part.partition("=") for part in text.split(","))
    defined = {name.strip(): tuple(words.split("|")) for name, _, words in parts}
    if len(defined) < 2 or not all(all(words) for words in defined.values()):
        raise KnbenchError(
            f"--words '{text}': expected at least two groups, for example singular=this|that,plural=these|those"
        )
    return defined


@dataclass(frozen=True)
class Frame:
    """A sentence with a slot for a word of the class.

    Attributes:
        left: the text before the slot.
        right: the text after the slot.
        group: the group of the class that fits the sentence, that of the task's own word.
    """

    left: str
    right: str
    group: str


def build_frames(cases: Sequence[Case], words: WordClass) -> list[Frame]:
    """Return the distinct sentences of the cases whose cue or true answer belongs to the class.

    Raises:
        KnbenchError: no cue and no answer belongs to the class.
    """
    group_of = {word: name for name, members in words.items() for word in members}
    frames = []
    for case in cases:
        request = case.request
        if request.subject in group_of:
            left = request.prompt.split(SLOT)[0]
            right = join_answer(request.text, request.target_true)[len(left + request.subject) :]
            frames.append(Frame(left.rstrip(" "), right, group_of[request.subject]))
        elif request.target_true in group_of:
            frames.append(Frame(request.text, "", group_of[request.target_true]))
    if not frames:
        examples = ", ".join(list(dict.fromkeys(case.request.subject for case in cases))[:3])
        raise KnbenchError(
            f"no case has a cue or an answer in the word class; choose other --words (the cues are {examples}, ...)"
        )
    return list(dict.fromkeys(frames))


def neuron_edit(lm: LanguageModel, neurons: Sequence[Neuron], operation: Operation) -> Edit:
    """Return the edit that multiplies the neurons' columns of W by 0 (suppress) or by 2 (enhance).

    Raises:
        KnbenchError: the model does not have one of the neurons.
    """
    weights: dict[str, torch.Tensor] = {}
    for layer, index in neurons:
        if not 0 <= index < lm.n_neurons:
            raise KnbenchError(f"neuron {layer}:{index} does not exist: layers have neurons 0 to {lm.n_neurons - 1}")
        name = lm.mlp_weight_name(layer)
        new = weights.setdefault(name, lm.parameter(name).detach().clone())
        lm.as_stored(layer, new)[:, index] *= 0 if operation == "suppress" else 2
    return Edit(weights=weights)


def word_probabilities(
    lm: LanguageModel, frames: Sequence[Frame], words: WordClass, batch_size: int = 32
) -> np.ndarray:
    """Return the probability of each word in each frame.

    For a causal model the probabilities of a frame sum to 1 over the class.

    Returns:
        Array of shape (frame, word), with the words in the order of their groups.

    Raises:
        ValueError: a word cannot be tokenised in a frame.
    """
    all_words = [word for members in words.values() for word in members]
    probes = []
    for frame in frames:
        for word in all_words:
            target = word if not lm.causal else f"{word}{frame.right}"
            suffix = f"{frame.right}." if not lm.causal else ""
            probes.append(Probe("suppress", "completion", frame.left, target, target, "new", suffix=suffix))
    observations = make_prober(lm, batch_size=batch_size, new_tokens=0).observe(probes)
    scores = np.array([o.target.logprob for o in observations]).reshape(len(frames), len(all_words))
    if not lm.causal:
        return np.asarray(np.exp(scores))
    scores -= scores.max(axis=1, keepdims=True)
    joint = np.exp(scores)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def compare_distributions(
    before: np.ndarray, after: np.ndarray, frames: Sequence[Frame], words: WordClass
) -> dict[str, Any]:
    """Return the change of each word in the frames of each group, and the share of categorical predictions that flip.

    The categorical prediction is the group of the most probable word. The p-values of the words are adjusted together.

    Args:
        before: probabilities on the unedited model, of shape (frame, word).
        after: probabilities on the edited model, of the same shape.
        frames: the frames, whose groups are the correct predictions.
        words: the word class.
    """
    columns = [(name, word) for name, members in words.items() for word in members]
    rows = []
    for frame_group in words:
        selected = [i for i, frame in enumerate(frames) if frame.group == frame_group]
        for column, (name, word) in enumerate(columns):
            if selected:
                change = effect(before[selected, column].tolist(), after[selected, column].tolist())
                rows.append({"frames": frame_group, "group": name, "word": word, **asdict(change)})
    for row, p in zip(rows, adjusted([row["p_paired"] for row in rows]), strict=True):
        row["p_adjusted"] = p
    groups = np.array([name for name, _ in columns])
    predicted_before, predicted_after = groups[before.argmax(axis=1)], groups[after.argmax(axis=1)]
    flips = mean_over_cases((predicted_before != predicted_after).astype(float).tolist(), share=True)
    correct = [frame.group for frame in frames]
    return {
        "words": rows,
        "flipped": {"value": flips.value, "low": flips.low, "high": flips.high, "frames": len(frames)},
        "right_before": float(np.mean(predicted_before == correct)),
        "right_after": float(np.mean(predicted_after == correct)),
    }


def suppress(
    lm: LanguageModel,
    neurons: Sequence[Neuron],
    operation: Operation,
    frames: Sequence[Frame],
    words: WordClass,
    before: Callable[[], np.ndarray],
) -> dict[str, Any]:
    """Compare the distribution over a word class with and without an operation on neurons.

    Args:
        lm: the model. Its weights are restored bit for bit.
        neurons: the neurons, as (layer, index).
        operation: ``suppress`` or ``enhance``.
        frames: sentences in which the words are measured.
        words: the word class.
        before: returns the probabilities on the unedited model, of shape (frame, word).

    Returns:
        ``neurons`` and the values of :func:`compare_distributions`.

    Raises:
        KnbenchError: the model does not have one of the neurons.
        ValueError: a word cannot be tokenised in a frame.
    """
    unedited = before()
    with neuron_edit(lm, neurons, operation).applied(lm):
        after = word_probabilities(lm, frames, words)
    return {"neurons": [list(n) for n in neurons], **compare_distributions(unedited, after, frames, words)}
