"""NAS: scale the value of every edit to a norm that is usual on the unedited model.

Liu et al. 2026, "Norm Anchors Make Model Edits Last" (arXiv 2602.02543). In a long sequence, larger weights lead to
larger values, and these to larger weights. NAS (norm-anchor scaling) breaks this loop: the optimised MLP output v* of
the last edited layer is replaced by

    v* a / |v*|,   or by the output v0 before the edit if |v*| > 2 a.

The anchor a is the mean of |v*| over pilot facts on the unedited model, without the largest 5%.

The pilots of the released code are 1000 facts of CounterFact, optimised in batches of 16 that stop together. Here they
are tuning cases of the built-in fact tasks, each optimised as if it were alone, without contexts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import JsonObject
from ..benchmark.editing import MlpValues, ValueGuard, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.warm_up import WARM_UP_TASKS, warm_up_requests

PILOTS_PER_CALL = 8
"""Number of pilots that are optimised between two steps of the progress bar."""


@dataclass(frozen=True)
class NasConfig:
    """Hyper-parameters of NAS."""

    pilots: int = hyperparameter(100, help="Number of facts whose values define the anchor.")
    trim: float = hyperparameter(0.05, help="Share of the pilots with the largest norms that the anchor leaves out.")
    skip_above: float = hyperparameter(2.0, help="Multiple of the anchor above which a fact is not written.")

    def __post_init__(self) -> None:
        if self.pilots < 1 or not 0 <= self.trim < 1 or self.skip_above < 1:
            raise ValueError("pilots and skip_above must be at least 1, and trim at least 0 and below 1")


class Nas(ValueGuard[NasConfig]):
    """Scales the value of an edit to the mean norm of values on the unedited model."""

    name = "nas"
    summary = "NAS: values are scaled to a norm that is usual on the unedited model"
    paper = "Liu et al. 2026 (arXiv 2602.02543)"
    Config = NasConfig

    def __init__(self, config: NasConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: the anchor is that of the weights without any edit.
        self._anchors: WeakKeyDictionary[LanguageModel, dict[int, float]] = WeakKeyDictionary()

    def prepare_values(self, lm: LanguageModel, layer: int, values: MlpValues, reporter: Reporter) -> JsonObject:
        """Compute the anchor of a layer, and return it.

        Raises:
            ValueError: the model can tokenise no pilot.
        """
        anchors = self._anchors.setdefault(lm, {})
        if layer not in anchors:
            anchors[layer] = self._anchor(lm, values, reporter)
        return {"anchor": anchors[layer], "pilots": self.config.pilots}

    def value(self, lm: LanguageModel, layer: int, start: Tensor, value: Tensor) -> Tensor:
        """Return the value with the norm of the anchor, or the output before the edit if its norm is far above."""
        anchor, norm = self._anchors[lm][layer], value.norm()
        return start if float(norm) > self.config.skip_above * anchor else value * (anchor / norm)

    def _anchor(self, lm: LanguageModel, values: MlpValues, reporter: Reporter) -> float:
        # The first token of a text attracts attention whatever it is, and its values are many times larger.
        pilots = [
            request
            for request in warm_up_requests(lm, WARM_UP_TASKS, self.config.pilots)
            if lm.subject_span(request.prompt, request.subject)[1][-1] > 0
        ]
        norms: list[float] = []
        with reporter.stage("norms of pilot values", len(pilots)) as step:
            for first in range(0, len(pilots), PILOTS_PER_CALL):
                group = pilots[first : first + PILOTS_PER_CALL]
                norms += values(group)[1].norm(dim=-1).tolist()
                for _ in group:
                    step()
        if not norms:
            raise ValueError(f"'{lm.name}' can tokenise no pilot fact; edit it without the guard '{self.name}'")
        kept = sorted(norms)[: max(1, len(norms) - math.ceil(self.config.trim * len(norms)))]
        return sum(kept) / len(kept)
