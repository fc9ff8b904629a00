"""Drift: what an edit changes that it is not about, by lm-eval tasks and by perplexity on held-out text.

The edited model is measured in memory, sample by sample, so that each sample is compared with itself on the unedited
model. Three things go wrong when an edited model is handed to lm-eval, and are guarded here: its wrapper ties weights
again (the weights are hashed around it), a cache of requests gives the answers from before the edit (there is none),
and a masked model is scored as a causal one without a word (it is refused).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ..core import registry
from ..core.errors import KnbenchError, unknown_name
from ..core.schema import Task, digest
from ..core.settings import DriftSettings
from ..models.language_model import LanguageModel
from ..models.loading import cache_folder
from .lm_eval_tasks import export_task, exported_name

PERPLEXITY = "perplexity"
ROWS = 4
"""Paragraphs that are read at once: all positions' logits are needed."""


def make_gauge(lm: LanguageModel, settings: DriftSettings) -> DriftGauge:
    """Return what measures drift on a model.

    Raises:
        KnbenchError: the model is a masked one, a task is not known, or the text cannot be read.
    """
    if not lm.causal:
        raise KnbenchError(f"drift needs a causal model: lm-eval would score '{lm.name}' as one without an error")
    return DriftGauge(lm, settings)


class DriftGauge:
    """Measures a model on drift tasks as it is at the moment."""

    def __init__(self, lm: LanguageModel, settings: DriftSettings) -> None:
        self.lm = lm
        self.limit = settings.limit
        self.names = settings.tasks
        self.paragraphs = read_paragraphs(settings.text)
        self._known = registry.tasks()
        for name in self.names:
            if name in self._known and not self._known[name].pairs:
                linguistic = [task.name for task in self._known.values() if task.pairs]
                raise KnbenchError(
                    f"drift task '{name}' has no sentence pairs; those that have: {', '.join(linguistic)}"
                )
        if self.lm_eval_names:
            _ = self._tasks  # an unknown name is told before anything long begins

    @property
    def lm_eval_names(self) -> list[str]:
        """The tasks as lm-eval calls them; perplexity is not one of them."""
        return [exported_name(n) if n in self._known else n for n in self.names if n != PERPLEXITY]

    def card(self) -> dict[str, Any]:
        """Return what decides the numbers."""
        return {
            "tasks": list(self.names),
            "limit": self.limit,
            "text": digest(self.paragraphs) if PERPLEXITY in self.names else None,
            "content": {n: self._known[n].content_hash() for n in self.names if n in self._known},
            "lm_eval": version("lm-eval") if self.lm_eval_names else None,
        }

    def measure(self) -> list[dict[str, Any]]:
        """Measure every task sample by sample.

        Raises:
            KnbenchError: the weights are not what they were before lm-eval had them.
        """
        rows = []
        if PERPLEXITY in self.names:
            values = nll_per_token(self.lm, self.paragraphs)
            rows.append({"task": PERPLEXITY, "metric": "nll", "higher_is_better": False, "values": values})
        if self.lm_eval_names:
            rows += self._lm_eval()
        return rows

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """lm-eval's task objects, with their data."""
        from lm_eval.tasks import TaskManager, get_task_dict

        _quiet()
        ours = [self._known[name] for name in self.names if name in self._known]
        foreign = [name for name in self.names if name not in self._known and name != PERPLEXITY]
        manager = TaskManager(include_path=str(_exported(ours)), include_defaults=bool(foreign))
        for name in foreign:
            if name not in manager.all_tasks:
                raise unknown_name("drift task", name, [PERPLEXITY, *self._known, *manager.all_tasks][:60])
        try:
            with _no_bars():
                found: dict[str, Any] = get_task_dict(self.lm_eval_names, manager)
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise KnbenchError(f"drift tasks {', '.join(self.lm_eval_names)} cannot be loaded: {first}") from error
        return found

    def _lm_eval(self) -> list[dict[str, Any]]:
        from lm_eval.evaluator import evaluate

        before = self.lm.fingerprint()
        wrapped = wrap(self.lm)
        found = evaluate(
            lm=wrapped,
            task_dict=self._tasks,
            limit=self.limit,
            cache_requests=False,
            bootstrap_iters=0,
            log_samples=True,
        )
        if self.lm.fingerprint() != before:
            raise KnbenchError(f"lm-eval changed the weights of '{self.lm.name}'; its numbers are not the edit's")
        rows = []
        for name, samples in sorted(found["samples"].items()):
            metric = _metric(samples)
            rows.append(
                {
                    "task": name,
                    "metric": metric,
                    "higher_is_better": bool(found["higher_is_better"].get(name, {}).get(metric, True)),
                    "values": [float(s[metric]) for s in sorted(samples, key=lambda s: s["doc_id"])],
                }
            )
        return rows


def _metric(samples: Sequence[dict[str, Any]]) -> str:
    """Return the first metric that has a number for each sample, accuracy before others."""
    for metric in sorted(samples[0]["metrics"], key=lambda m: m != "acc"):
        if all(isinstance(sample.get(metric), int | float) for sample in samples):
            return str(metric)
    raise KnbenchError("a drift task has no metric that gives a number for each sample; choose another")


def _exported(tasks: Sequence[Task]) -> Path:
    """Return a folder of the cache that holds our tasks in lm-eval's form."""
    folder = cache_folder() / "lm-eval" / digest([task.content_hash() for task in tasks])[:20]
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        export_task(task, folder)
    return folder


def _quiet() -> None:
    for name in ("lm_eval", "lm-eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the data sets' progress bars out of ours."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def wrap(lm: LanguageModel) -> Any:
    """Return lm-eval's view of a model as it is now, text before prompts included."""
    from lm_eval.models.huggingface import HFLM

    prefix = lm.tokenizer(lm.prompt_prefix, add_special_tokens=False).input_ids if lm.prompt_prefix else []

    class Wrapped(HFLM):  # type: ignore[misc]
        """Puts the text of in-context editing behind the start token of every context."""

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: Any = None) -> Any:
            del disable_tqdm
            if prefix:
                requests = [
                    (texts, [*context[:start], *prefix, *context[start:]], continuation)
                    for texts, context, continuation in requests
                    for start in [int(context[:1] == [self.prefix_token_id])]
                ]
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    _quiet()
    return Wrapped(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=32)


def read_paragraphs(path: str | None) -> list[str]:
    """Return the paragraphs of a text, parted by empty lines; the built-in one for None.

    Raises:
        KnbenchError: it cannot be read, or holds nothing.
    """
    if path is None:
        text = files(__package__).joinpath("held_out.txt").read_text(encoding="utf-8")
    else:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KnbenchError(f"--drift-text '{path}' cannot be read: {error}") from None
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    if not paragraphs:
        raise KnbenchError(f"--drift-text '{path}' holds no paragraph")
    return paragraphs


@torch.inference_mode()
def nll_per_token(lm: LanguageModel, paragraphs: Sequence[str]) -> list[float]:
    """Return each paragraph's mean negative log-likelihood per token in nats; perplexity is exp of their mean.

    Raises:
        FloatingPointError: the model's probabilities are not numbers.
    """
    rows = [lm.split(lm.prompt_prefix.strip(), paragraph) for paragraph in paragraphs]
    values: list[float] = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        batch = lm.pad([context + target for context, target in part])
        logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits.float()
        for i, (context, target) in enumerate(part):
            where = slice(len(context) - 1, len(context) + len(target) - 1)
            losses = torch.nn.functional.cross_entropy(logits[i, where], batch.ids[i, len(context) :][: len(target)])
            if not bool(losses.isfinite()):
                raise FloatingPointError("the model's probabilities are not numbers")
            values.append(float(losses))
    return values
