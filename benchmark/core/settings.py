"""Settings of a run that affect its numbers, apart from model, editors and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import KnbenchError
from .extra_probes import ExtraProbes
from .split import Split, Subset

Regime = Literal["single", "batch", "sequential"]


@dataclass(frozen=True)
class DriftSettings:
    """Settings of drift, the change of the model on text and tasks unrelated to the edits.

    Attributes:
        tasks: names of lm-eval tasks, or of built-in linguistic tasks.
        limit: maximum number of samples per task.
        text: path of a held-out text whose paragraphs are separated by empty lines. None selects the built-in text.
    """

    tasks: tuple[str, ...] = ()
    limit: int = 100
    text: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run that affect its numbers, apart from model, editors and tasks.

    Attributes:
        split: the cases to run, see :mod:`knbench.benchmark.core.split`. Methods are evaluated on ``test``;
            hyper-parameters are chosen on ``tune``.
        subset: ``lite`` selects a fixed sample of the split, drawn after the selection of ``known_only``.
        limit: maximum number of cases per task, or None for all. With ``lite``, the first cases of its fixed order.
        seed: the seed from which editors and sampling derive theirs.
        known_only: keep only cases whose true answer the unedited model knows. Of their ``unchanged`` probes, keep
            those whose target the unedited model prefers to the rival. A wrong answer before the edit can be neither
            rewritten nor preserved.
        known_by: the measure of knowledge, see :mod:`knbench.benchmark.probing.known`.
        batch_size: rows per probing batch.
        apply_chat_template: whether each prompt is the user's message of the tokenizer's chat template.
        new_tokens: minimum length of greedy continuations, in tokens.
        fluency_tokens: length of the text from which fluency is computed, in tokens. 0 disables fluency.
        probes: probes that are added to each case and enter no score, see :mod:`.extra_probes`.
        batch_edits: number of cases whose edits are applied together.
        sequential: number of cases whose edits are applied one after another to the same model.
        checkpoints: numbers of sequential edits after which all previous cases are measured again. None selects 1, 2,
            5, 10, 20, 50, ... The last edit is always included.
        drift: settings of drift, or None to disable it.
        retry_failed: run cases again whose edits failed in a previous run in the same folder.
        editor_args: hyper-parameters by editor and name, as text.

    Raises:
        KnbenchError: two settings contradict each other.
    """

    split: Split = "test"
    subset: Subset = "full"
    limit: int | None = None
    seed: int = 0
    known_only: bool = False
    known_by: str = "success"
    batch_size: int = 32
    apply_chat_template: bool = False
    new_tokens: int = 6
    fluency_tokens: int = 0
    probes: tuple[ExtraProbes, ...] = ()
    batch_edits: int | None = None
    sequential: int | None = None
    checkpoints: tuple[int, ...] | None = None
    drift: DriftSettings | None = None
    retry_failed: bool = False
    editor_args: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_edits and self.sequential:
            raise KnbenchError("--batch-edits and --sequential are different regimes; use only one")
        if self.retry_failed and self.sequential:
            raise KnbenchError("--retry-failed is not possible with sequential edits; use another --output")
        if self.checkpoints is not None and not self.sequential:
            raise KnbenchError("--checkpoints needs --sequential")
        outside = [c for c in self.checkpoints or () if not 1 <= c <= (self.sequential or 0)]
        if outside:
            raise KnbenchError(
                f"--checkpoints {outside[0]} is not between 1 and the {self.sequential} sequential edits"
            )

    @property
    def regime(self) -> Regime:
        """How edits are applied: each alone, several together, or one after another to the same model."""
        if self.sequential:
            return "sequential"
        return "batch" if self.batch_edits else "single"

    @property
    def resolved_checkpoints(self) -> tuple[int, ...]:
        """Numbers of sequential edits after which all previous cases are measured again, including the last."""
        if not self.sequential:
            return ()
        series = (m * 10**e for e in range(9) for m in (1, 2, 5))
        counts = self.checkpoints if self.checkpoints is not None else series
        return (*sorted({c for c in counts if c < self.sequential}), self.sequential)
