"""Memory prompt: facts are kept as sentences, and the one that fits a prompt is put before it.

After "SCR" of Wang et al. 2025, "Revisiting Parameter-Based Knowledge Editing", without its second model and without
asking the model itself for the scope, which small models cannot answer. For a prompt q, the facts are ordered by a
score

- lexical: the share of the words of the fact's prompt that q contains, weighted by inverse document frequency;
- hidden: the cosine of the mean hidden states of q and of the sentence, minus the mean over other texts.

A fact whose score reaches a threshold is put before the prompt, as ``in-context`` writes it; otherwise the model
reads the prompt alone. The threshold, the frequencies and the mean come from tuning cases and do not change
afterwards. All facts of a batch or of a sequence are in the memory: the right one is not handed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.editing import Edit, Editor, Recall, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.calibration import ScopeCase, best_threshold, scope_cases
from .shared.fact_memory import embeddings, lexical_score, merged, sentence, stems, word_weights
from .shared.warm_up import WARM_UP_TASKS


@dataclass(frozen=True, kw_only=True)
class MemoryPromptConfig:
    """Hyper-parameters of the memory prompt."""

    score: Literal["lexical", "hidden"] = hyperparameter("lexical", help="How a prompt is compared with the facts.")
    layer: int = hyperparameter(help="Block whose hidden states are compared.")
    facts: int = hyperparameter(1, help="Maximum number of facts before a prompt.")
    threshold: float | None = hyperparameter(
        None, help="Score from which a fact is put before a prompt; none calibrates it on tuning cases."
    )
    calibration: int = hyperparameter(100, help="Number of tuning cases.")
    calibration_tasks: tuple[str, ...] = hyperparameter(WARM_UP_TASKS, help="Tasks of these cases, in turn.")

    def __post_init__(self) -> None:
        if self.layer < 0 or self.facts < 1 or self.calibration < 1:
            raise ValueError("layer must not be negative, facts and calibration must be at least 1")


@dataclass(frozen=True)
class FactRecall(Recall):
    """Facts with their prompts, and everything that their scores need.

    Tensors with ``score = hidden``: an embedding of each text (n, d), and their mean over other texts (d,).
    """

    def scores(self, lm: LanguageModel, prompt: str) -> list[float]:
        """Return the score of each fact for a prompt."""
        settings = self.settings
        if settings["score"] == "lexical":
            query = stems(prompt)
            return [lexical_score(query, stems(fact), settings["weights"]) for fact in settings["prompts"]]
        own = embeddings(lm, [prompt], settings["layer"])[0].cpu() - self.tensors["mean"]
        facts = self.tensors["embeddings"] - self.tensors["mean"]
        found: list[float] = torch.nn.functional.cosine_similarity(facts, own[None], dim=1).tolist()
        return found

    def preface(self, lm: LanguageModel, prompt: str) -> str:
        """Return the best facts whose score reaches the threshold, the best one last. A later fact wins ties."""
        threshold = float(self.settings["threshold"])
        ranked = sorted(((score, i) for i, score in enumerate(self.scores(lm, prompt)) if score >= threshold))
        return "".join(f"{self.texts[i]}. " for _, i in ranked[-self.settings["facts"] :])


@dataclass(frozen=True)
class _Calibrated:
    weights: JsonObject
    mean: Tensor
    threshold: float
    accuracy: float | None


class MemoryPrompt(Editor[MemoryPromptConfig]):
    """Puts the fact that fits a prompt before it."""

    name = "memory-prompt"
    summary = "No weight is changed: the stored fact that fits a prompt is said before it"
    paper = "after Wang et al. 2025, Revisiting Parameter-Based Knowledge Editing (SCR)"
    kind = "memory"
    Config = MemoryPromptConfig

    def __init__(self, config: MemoryPromptConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: hidden states and thresholds differ between models.
        self._calibrated: WeakKeyDictionary[LanguageModel, _Calibrated] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the block in the middle."""
        return {"layer": lm.n_layers // 2}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute word frequencies, the mean of hidden states, and the threshold, from tuning cases.

        Raises:
            KnbenchError: a task or the layer does not exist.
        """
        reporter.doing("threshold of the memory")
        found = self._calibration(lm)
        return {"threshold": str(found.threshold), "balanced_accuracy": found.accuracy, "split": "tune"}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return a memory with the facts of the requests."""
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Add the facts to the memory that the model has. A fact replaces an earlier one with the same prompt."""
        del earlier, state
        old = lm.recall if isinstance(lm.recall, FactRecall) else None
        with lm.without_preface():
            return Edit(recall=self._extended(lm, old, requests, self._calibration(lm)))

    def _extended(
        self, lm: LanguageModel, old: FactRecall | None, requests: Sequence[EditRequest], calibrated: _Calibrated
    ) -> FactRecall:
        old_texts = old.texts if old else ()
        old_prompts = list(old.settings["prompts"]) if old else []
        kept = merged(old_texts, old_prompts, requests)
        texts = tuple(old_texts[fact] if isinstance(fact, int) else sentence(fact) for fact in kept)
        settings = {
            "score": self.config.score,
            "layer": self.config.layer,
            "facts": self.config.facts,
            "threshold": str(calibrated.threshold),
            "weights": calibrated.weights,
            "prompts": [old_prompts[fact] if isinstance(fact, int) else fact.text for fact in kept],
        }
        if self.config.score == "lexical":
            return FactRecall(texts, {}, settings)
        new = embeddings(lm, [sentence(f) for f in kept if not isinstance(f, int)], self.config.layer).cpu()
        rows = iter(new)
        parts = [old.tensors["embeddings"][f] if old and isinstance(f, int) else next(rows) for f in kept]
        return FactRecall(texts, {"embeddings": torch.stack(parts), "mean": calibrated.mean}, settings)

    def _calibration(self, lm: LanguageModel) -> _Calibrated:
        if lm not in self._calibrated:
            config = self.config
            cases = scope_cases(lm, config.calibration_tasks, config.calibration)
            weights = word_weights([case.request.text for case in cases])
            mean = torch.zeros(0)
            if config.score == "hidden":
                texts = [probe.prompt for case in cases for probe in case.outside[:1]]
                mean = embeddings(lm, texts, config.layer).mean(0).cpu()
            found = _Calibrated(weights, mean, config.threshold or 0.0, None)
            if config.threshold is None:
                threshold, accuracy = self._threshold(lm, cases, found)
                found = dataclasses.replace(found, threshold=threshold, accuracy=round(accuracy, 4))
            self._calibrated[lm] = found
        return self._calibrated[lm]

    def _threshold(self, lm: LanguageModel, cases: Sequence[ScopeCase], calibrated: _Calibrated) -> tuple[float, float]:
        inside, outside = [], []
        for case in cases:
            memory = self._extended(lm, None, [case.request], calibrated)
            inside += [memory.scores(lm, probe.prompt)[0] for probe in case.inside]
            outside += [memory.scores(lm, probe.prompt)[0] for probe in case.outside]
        return best_threshold(inside, outside)
