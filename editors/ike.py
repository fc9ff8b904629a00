"""IKE: the new fact is said before a prompt, after demonstrations of when such a fact changes an answer.

Zheng et al. 2023, "Can We Edit Factual Knowledge by In-Context Learning?" (EMNLP). A demonstration shows a fact of a
tuning case and a question with its answer, in one of three roles:

- copy: the fact's own prompt, with the new answer;
- update: the same fact asked in other words, with the new answer;
- retain: another fact, with its old answer.

The demonstrations nearest to the fact stand first, the roles in the ratio 1 : 3 : 4, the nearest one last. Nearness is
the share of common words weighted by inverse document frequency; the released code uses a sentence encoder. The fact of
a prompt is the nearest one of all facts of the batch or sequence. There is no check of the scope: whether a fact
concerns a prompt is left to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.core.text import join_answer
from ..benchmark.editing import Edit, Editor, Recall, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.calibration import ScopeCase, scope_cases
from .shared.fact_memory import lexical_score, merged, sentence, stems, word_weights
from .shared.warm_up import WARM_UP_TASKS

ROLES = ("copy", "update", "update", "update", "retain", "retain", "retain", "retain")
"""Roles of eight demonstrations; more repeat them."""
MANY_POSITIONS = 1024
"""Number of positions from which a model has room for eight demonstrations."""


@dataclass(frozen=True, kw_only=True)
class InContextDemonstrationsConfig:
    """Hyper-parameters of IKE."""

    demonstrations: int = hyperparameter(8, help="Number of demonstrations before the fact.")
    cases: int = hyperparameter(200, help="Number of tuning cases to choose them from.")
    tasks: tuple[str, ...] = hyperparameter(WARM_UP_TASKS, help="Tasks of these cases, in turn.")

    def __post_init__(self) -> None:
        if self.demonstrations < 0 or self.cases < 1:
            raise ValueError("demonstrations must not be negative, cases must be at least 1")


@dataclass(frozen=True)
class DemonstrationRecall(Recall):
    """Facts, followed by the demonstrations of each. Settings: the prompts of the facts, and word weights."""

    @property
    def entries(self) -> int:
        """Number of facts."""
        return len(self.texts) // 2

    def preface(self, lm: LanguageModel, prompt: str) -> str:
        """Return the demonstrations and the sentence of the nearest fact. A later fact wins ties."""
        del lm
        query, settings = stems(prompt), self.settings
        scores = [lexical_score(query, stems(own), settings["weights"]) for own in settings["prompts"]]
        best = max(range(len(scores)), key=lambda i: (scores[i], i))
        return f"{self.texts[len(scores) + best]}New fact: {self.texts[best]}.\nPrompt: "


class InContextDemonstrations(Editor[InContextDemonstrationsConfig]):
    """Puts the nearest fact before a prompt, after demonstrations."""

    name = "ike"
    summary = "No weight is changed: demonstrations and the new fact are said before each prompt"
    paper = "Zheng et al. 2023, Can We Edit Factual Knowledge by In-Context Learning? (EMNLP)"
    kind = "context"
    Config = InContextDemonstrationsConfig

    def __init__(self, config: InContextDemonstrationsConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: its tokenizer decides which cases can be read.
        self._cases: WeakKeyDictionary[LanguageModel, list[ScopeCase]] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the number of demonstrations, of which a model with few positions reads none."""
        positions = getattr(lm.model.config.get_text_config(), "max_position_embeddings", MANY_POSITIONS)
        return {"demonstrations": 8 if positions >= MANY_POSITIONS else 0}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Read the tuning cases.

        Raises:
            KnbenchError: a task does not exist.
        """
        reporter.doing("demonstrations")
        return {"cases": len(self._tuning(lm)), "split": "tune"}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return the facts with their demonstrations."""
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Add facts to those that the model has. A fact replaces an earlier one with the same prompt."""
        del earlier, state
        old = lm.recall if isinstance(lm.recall, DemonstrationRecall) else None
        cases = self._tuning(lm)
        weights = word_weights([case.request.text for case in cases])
        texts, shown = (old.texts[: old.entries], old.texts[old.entries :]) if old else ((), ())
        prompts = list(old.settings["prompts"]) if old else []
        kept = merged(texts, prompts, requests)
        settings = {"weights": weights, "prompts": [prompts[f] if isinstance(f, int) else f.text for f in kept]}
        facts = [texts[f] if isinstance(f, int) else sentence(f) for f in kept]
        before = [shown[f] if isinstance(f, int) else self.shown(cases, f, weights) for f in kept]
        return Edit(recall=DemonstrationRecall((*facts, *before), {}, settings))

    def shown(self, cases: Sequence[ScopeCase], request: EditRequest, weights: JsonObject) -> str:
        """Return the demonstrations for a fact, the nearest case last.

        Cases with the subject of the fact are left out.
        """
        own = stems(request.text)
        others = [case for case in cases if not request.subject or case.request.subject != request.subject]
        ranked = sorted(others, key=lambda case: -lexical_score(stems(case.request.text), own, weights))
        nearest = ranked[: self.config.demonstrations]
        return "".join(demonstration(case, ROLES[i % len(ROLES)]) for i, case in enumerate(nearest[::-1]))

    def _tuning(self, lm: LanguageModel) -> list[ScopeCase]:
        if lm not in self._cases:
            self._cases[lm] = scope_cases(lm, self.config.tasks, self.config.cases)
        return self._cases[lm]


def demonstration(case: ScopeCase, role: str) -> str:
    """Return a fact and a question with its answer, as text."""
    request = case.request
    if role == "copy":
        answered = sentence(request)
    elif role == "update":
        answered = join_answer(case.inside[0].prompt, request.target_new)
    else:
        answered = join_answer(case.outside[0].prompt, case.outside[0].target)
    return f"New fact: {sentence(request)}.\nPrompt: {answered}\n\n"
