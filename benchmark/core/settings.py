"""What besides model, editors and tasks decides a run's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import KnbenchError
from .split import Split, Subset

Regime = Literal["single", "batch", "sequential"]


@dataclass(frozen=True)
class DriftSettings:
    """How an edited model is compared with the unedited one on what no edit is about; see :mod:`.drift`.

    Attributes:
        tasks: lm-eval tasks: our linguistic ones by their own name, others as lm-eval calls them.
        limit: samples of each task.
        text: a file of held-out text, whose paragraphs are parted by empty lines; None takes the built-in one.
    """

    tasks: tuple[str, ...] = ()
    limit: int = 100
    text: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """What besides model, editors and tasks decides a run's numbers.

    Attributes:
        split: which cases are run, see :mod:`~.core.split`: ``test`` judges methods, ``tune`` is what their
            hyper-parameters may be chosen on.
        subset: ``lite`` takes a fixed draw of the split's cases, of the known ones under ``known_only``.
        limit: at most so many cases a task, or None for all.
        known_only: judge only what the unedited model knows: keep the cases whose true answer it knows, and of their
            ``unchanged`` probes those whose target it prefers to the rival. What it gets wrong before the edit can
            neither be rewritten nor kept.
        known_by: what counts as knowing, see :mod:`knbench.benchmark.probing.known`.
        batch_size: rows per probing batch.
        new_tokens: least length of greedy continuations.
        fluency_tokens: length of the text that fluency is judged by; 0 leaves fluency out.
        batch_edits: so many cases' edits are made at once.
        sequential: so many cases' edits are made one after the other, each upon the last.
        checkpoints: after how many sequential edits all cases so far are measured again; None takes 1, 2, 5, 10, 20,
            50, ... and the last one always.
        drift: what drift is measured on, or None.
        retry_failed: try again the cases whose edits failed when the run was here before.
        editor_args: per editor, hyper-parameters by name, as text.
    """

    split: Split = "test"
    subset: Subset = "full"
    limit: int | None = None
    seed: int = 0
    known_only: bool = False
    known_by: str = "success"
    batch_size: int = 32
    new_tokens: int = 6
    fluency_tokens: int = 0
    batch_edits: int | None = None
    sequential: int | None = None
    checkpoints: tuple[int, ...] | None = None
    drift: DriftSettings | None = None
    retry_failed: bool = False
    editor_args: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_edits and self.sequential:
            raise KnbenchError("--batch-edits and --sequential are two regimes; choose one")
        if self.subset == "lite" and self.limit:
            raise KnbenchError("--subset lite and --limit both choose cases; leave out one")
        if self.retry_failed and self.sequential:
            raise KnbenchError("--retry-failed cannot go back into sequential edits; choose another --output")
        if self.checkpoints is not None and not self.sequential:
            raise KnbenchError("--checkpoints needs --sequential")
        beyond = [c for c in self.checkpoints or () if not 1 <= c <= (self.sequential or 0)]
        if beyond:
            raise KnbenchError(f"--checkpoints {beyond[0]} is not between 1 and the {self.sequential} edits")

    @property
    def regime(self) -> Regime:
        """How edits meet: each alone, many at once, or one upon the other."""
        if self.sequential:
            return "sequential"
        return "batch" if self.batch_edits else "single"

    @property
    def stops(self) -> tuple[int, ...]:
        """After how many sequential edits everything so far is measured again, the last one included."""
        if not self.sequential:
            return ()
        series = (m * 10**e for e in range(9) for m in (1, 2, 5))
        chosen = self.checkpoints if self.checkpoints is not None else series
        return (*sorted({c for c in chosen if c < self.sequential}), self.sequential)
