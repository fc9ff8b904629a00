"""What silencing (or enhancing) neurons does to a whole class of words, and whether that is grammar or frequency.

Niu et al. 2024, section 4.2: neurons that are attributed to a determiner are silenced, and the probability of every
determiner is compared before and after. If they held the grammatical number, the singular and the plural ones would
part; and if they held no more than co-occurrence, the change would follow how often a word stands before a singular or
a plural noun in text.

A masked model is asked for the word at its place. A causal model reads from the left only; it is asked how probable the
word *and what follows it* are, which by Bayes' rule, divided by the sum over the class, is the word's probability given
both sides.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from scipy import stats

from ..core.errors import KnbenchError, unknown_name
from ..core.schema import SLOT, Case, Probe
from ..editing import Edit
from ..models.attribution import Neuron
from ..models.language_model import LanguageModel
from ..probing.masked import make_prober
from ..scoring.effects import adjusted, effect
from ..scoring.intervals import mean_over_cases

Operation = Literal["suppress", "enhance"]
WordClass = Mapping[str, Sequence[str]]
"""Words by number or gender."""
STANDARD_LIBRARY = "stdlib"
"""The corpus that everyone has: what is written about Python's standard library in its own docstrings."""


def word_class(text: str) -> WordClass:
    """Return a class by its name, or one that is spelt out: ``singular=this|that,plural=these|those``.

    Raises:
        KnbenchError: no such class, or it cannot be read.
    """
    known = yaml.safe_load(files(__package__).joinpath("word_classes.yaml").read_text(encoding="utf-8"))
    if "=" not in text:
        if text not in known:
            raise unknown_name("word class", text, known)
        found: WordClass = known[text]
        return found
    own = {name.strip(): tuple(words.split("|")) for name, _, words in (p.partition("=") for p in text.split(","))}
    if len(own) < 2 or not all(all(words) for words in own.values()):
        raise KnbenchError(f"--words '{text}': expected at least two groups, such as singular=this|that,plural=these")
    return own


@dataclass(frozen=True)
class Frame:
    """A sentence with a place for a word.

    Attributes:
        left: the text before it.
        right: the text behind it.
        number: of which group of the class the word should be, as the task's own word is.
    """

    left: str
    right: str
    number: str


def frames_of(cases: Sequence[Case], words: WordClass) -> list[Frame]:
    """Return the sentences of cases that have a word of the class as their cue, or as their true answer.

    Raises:
        KnbenchError: none has.
    """
    group = {word: name for name, members in words.items() for word in members}
    found = []
    for case in cases:
        request = case.request
        if request.subject in group:
            left, right = request.prompt.split(SLOT)
            found.append(Frame(left.rstrip(), f"{right} {request.target_true}", group[request.subject]))
        elif request.target_true in group:
            found.append(Frame(request.text, "", group[request.target_true]))
    if not found:
        some = ", ".join(list(dict.fromkeys(case.request.subject for case in cases))[:3])
        raise KnbenchError(f"no case has a word of the class as its cue or answer; the cues are {some}, ...")
    return list(dict.fromkeys(found))


def silencing(lm: LanguageModel, neurons: Sequence[Neuron], operation: Operation) -> Edit:
    """Return the edit that sets the neurons' columns of W to zero, as if they never fired, or doubles them.

    Raises:
        KnbenchError: the model has no such neuron.
    """
    weights: dict[str, torch.Tensor] = {}
    for layer, index in neurons:
        if not 0 <= index < lm.n_neurons:
            raise KnbenchError(f"neuron {layer}:{index} does not exist: layers have neurons 0 to {lm.n_neurons - 1}")
        name = lm.mlp_weight_name(layer)
        new = weights.setdefault(name, lm.parameter(name).detach().clone())
        lm.as_stored(layer, new)[:, index] *= 0 if operation == "suppress" else 2
    return Edit(weights=weights)


def class_probabilities(
    lm: LanguageModel, frames: Sequence[Frame], words: WordClass, batch_size: int = 32
) -> np.ndarray:
    """Return each word's probability in each frame, (frame, word), words in the order of their groups.

    Raises:
        ValueError: a word cannot be tokenised in a frame.
    """
    flat = [word for members in words.values() for word in members]
    probes = []
    for frame in frames:
        for word in flat:
            target = word if not lm.causal else f"{word}{frame.right}"
            suffix = f"{frame.right}." if not lm.causal else ""
            probes.append(Probe("suppress", "completion", frame.left, target, target, "new", suffix=suffix))
    seen = make_prober(lm, batch_size=batch_size, new_tokens=0).observe(probes)
    scores = np.array([o["target"]["logprob"] for o in seen]).reshape(len(frames), len(flat))
    if not lm.causal:
        return np.asarray(np.exp(scores))
    scores -= scores.max(axis=1, keepdims=True)
    joint = np.exp(scores)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def compare_distributions(
    before: np.ndarray, after: np.ndarray, frames: Sequence[Frame], words: WordClass
) -> dict[str, Any]:
    """Return the change of each word in frames of each group, and the share of categorical predictions that flip.

    The prediction is the group of the most probable word.

    Args:
        before: probabilities on the unedited model, (frame, word).
        after: on the edited one.
        frames: of which group each is.
        words: the class.
    """
    flat = [(name, word) for name, members in words.items() for word in members]
    rows = []
    for number in words:
        at = [i for i, frame in enumerate(frames) if frame.number == number]
        for column, (name, word) in enumerate(flat):
            if at:
                found = effect(before[at, column].tolist(), after[at, column].tolist())
                rows.append({"frames": number, "group": name, "word": word, **asdict(found)})
    for row, p in zip(rows, adjusted([row["p_paired"] for row in rows]), strict=True):
        row["p_adjusted"] = p
    groups = np.array([name for name, _ in flat])
    first, then = groups[before.argmax(axis=1)], groups[after.argmax(axis=1)]
    flips = mean_over_cases((first != then).astype(float).tolist(), share=True)
    right = [float(np.mean(said == [frame.number for frame in frames])) for said in (first, then)]
    return {
        "words": rows,
        "flipped": {"value": flips.value, "low": flips.low, "high": flips.high, "frames": len(frames)},
        "right_before": right[0],
        "right_after": right[1],
    }


# --- frequency ---------------------------------------------------------------------------------------------------


def corpus_words(source: str) -> list[str]:
    """Return a text's words, lower case; ``stdlib`` is the docstrings of Python's standard library.

    Raises:
        KnbenchError: the file cannot be read.
    """
    if source == STANDARD_LIBRARY:
        text = "\n".join(_docstrings())
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KnbenchError(f"--corpus '{source}' cannot be read: {error}") from None
    return re.findall(r"[a-z]+", text.casefold())


@cache
def _docstrings() -> tuple[str, ...]:
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
            continue
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        found += [doc for node in ast.walk(tree) if isinstance(node, kinds) and (doc := ast.get_docstring(node))]
    return tuple(found)


def noun_counts(text: Sequence[str], wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Count how often each word stands directly before a singular and before a plural noun.

    A noun is told by its form and company: a word that follows "the" in at least one of twenty places, and whose other
    number, with or without a final s, is a word of the text too.
    """
    total, behind_the = Counter(text), Counter(b for a, b in itertools.pairwise(text) if a == "the")

    @cache
    def number(word: str) -> int | None:
        if len(word) < 3 or behind_the[word] < max(2, total[word] / 20):
            return None
        if word.endswith("s") and not word.endswith("ss") and total[word[:-1]] > 1:
            return 1
        return 0 if total[word + "s"] > 1 else None

    counts = {word: [0, 0] for word in wanted}
    for a, b in itertools.pairwise(text):
        if a in counts and (kind := number(b)) is not None:
            counts[a][kind] += 1
    return {word: (found[0], found[1]) for word, found in counts.items()}


def follows_frequency(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return, for each group of frames, the rank correlation of words' changes with their leaning to plural nouns.

    The leaning is the logarithm of (plural + 1) / (singular + 1).
    """
    found: dict[str, Any] = {"counts": {word: list(pair) for word, pair in counts.items()}, "correlation": {}}
    for number in dict.fromkeys(row["frames"] for row in rows):
        mine = [row for row in rows if row["frames"] == number and sum(counts.get(row["word"], (0, 0)))]
        if len(mine) > 3:
            leaning = [math.log((counts[row["word"]][1] + 1) / (counts[row["word"]][0] + 1)) for row in mine]
            test = stats.spearmanr(leaning, [row["relative_change"] for row in mine])
            finite = bool(np.isfinite(test.statistic))
            found["correlation"][number] = {
                "rho": float(test.statistic) if finite else None,
                "p": float(test.pvalue) if finite else None,
                "words": len(mine),
            }
    return found


def suppress(
    lm: LanguageModel,
    neurons: Sequence[Neuron],
    operation: Operation,
    frames: Sequence[Frame],
    words: WordClass,
    before: Callable[[], np.ndarray],
) -> dict[str, Any]:
    """Compare a class's distribution with and without some neurons.

    Args:
        lm: the model; its weights come back bit for bit.
        neurons: what is touched.
        operation: how.
        frames: where the words are asked for.
        words: the class.
        before: gives the probabilities on the untouched model.
    """
    unedited = before()
    with silencing(lm, neurons, operation).applied(lm):
        after = class_probabilities(lm, frames, words)
    return {"neurons": [list(n) for n in neurons], **compare_distributions(unedited, after, frames, words)}
