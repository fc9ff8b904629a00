"""Measures drift, the side effects of an edit, by lm-eval tasks and by perplexity on held-out text.

The edited model is measured in memory and sample by sample, which pairs each sample with the same sample on the
unedited model. Passing an edited model to lm-eval has three pitfalls, which this module guards against:

- lm-eval's wrapper ties weights again. The weights are hashed before and after the evaluation.
- lm-eval can cache requests and then return answers from before the edit. The cache is disabled.
- lm-eval scores a masked model as a causal one without an error. :func:`make_gauge` refuses masked models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from ..core import registry
from ..core.errors import KnbenchError, first_line, unknown_name
from ..core.files import cache_folder, exclusive
from ..core.records import DriftSamples
from ..core.schema import Task, digest
from ..core.settings import DriftSettings
from ..models.language_model import LanguageModel
from .lm_eval_model import as_lm_eval_model, silence_loggers
from .lm_eval_tasks import export_task, exported_name

PERPLEXITY = "perplexity"
"""Name of the drift task that measures perplexity on held-out text; the other drift tasks are run by lm-eval."""
PARAGRAPHS_PER_BATCH = 4
"""Rows per forward pass for perplexity, which needs the logits of all positions."""


def make_gauge(lm: LanguageModel, settings: DriftSettings) -> DriftGauge:
    """Return an object that measures drift on a model.

    Raises:
        KnbenchError: the model is masked, a task is unknown or has no sentence pairs, a task cannot be loaded, or the
            held-out text cannot be read.
    """
    if not lm.causal:
        raise KnbenchError(
            f"drift needs a causal model, and '{lm.name}' is masked: lm-eval would score it as causal without an error"
        )
    return DriftGauge(lm, settings)


class DriftGauge:
    """Measures drift tasks on a model in its current state.

    If the model uses its chat template, lm-eval puts its prompts into it, too. Whole sentences and texts for perplexity
    have no prompt and are read as they are.

    Args:
        lm: a causal model.
        settings: the tasks, the number of samples per lm-eval task, and the held-out text.

    Raises:
        KnbenchError: a task is unknown, has no sentence pairs or cannot be loaded, or the held-out text cannot be read.
    """

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
                    f"drift task '{name}' has no sentence pairs; choose one that has: {', '.join(linguistic)}"
                )
        if self.lm_eval_names:
            _ = self._tasks  # loads the tasks now, which reports an unknown name before the run begins

    @property
    def lm_eval_names(self) -> list[str]:
        """lm-eval's names of the tasks that lm-eval runs, which are all except perplexity."""
        return [exported_name(n) if n in self._known else n for n in self.names if n != PERPLEXITY]

    def card(self) -> dict[str, Any]:
        """Return everything that decides the numbers: tasks, limit, hashes of text and tasks, lm-eval's version."""
        return {
            "tasks": list(self.names),
            "limit": self.limit,
            "text": digest(self.paragraphs) if PERPLEXITY in self.names else None,
            "content": {n: self._known[n].content_hash() for n in self.names if n in self._known},
            "lm_eval": version("lm-eval") if self.lm_eval_names else None,
        }

    def measure(self) -> tuple[DriftSamples, ...]:
        """Measure every task sample by sample.

        Returns:
            The values of each task, one per sample. The metric of perplexity is ``nll``, the mean negative
            log-likelihood per token of a paragraph, in
            nats. The metric of other tasks is lm-eval's ``acc``, or else the first that has a number per sample.

        Raises:
            KnbenchError: lm-eval changed the model's weights, or a task has no metric with a number per sample.
            FloatingPointError: the likelihood of a paragraph is not finite.
        """
        rows: list[DriftSamples] = []
        if PERPLEXITY in self.names:
            values = nll_per_token(self.lm, self.paragraphs)
            rows.append(DriftSamples(task=PERPLEXITY, metric="nll", higher_is_better=False, values=tuple(values)))
        if self.lm_eval_names:
            rows += self._lm_eval()
        return tuple(rows)

    @cached_property
    def _tasks(self) -> dict[str, Any]:
        """lm-eval's task objects with their data, by lm-eval's names."""
        from lm_eval.tasks import TaskManager, get_task_dict

        silence_loggers()
        own = [self._known[name] for name in self.names if name in self._known]
        foreign = [name for name in self.names if name not in self._known and name != PERPLEXITY]
        manager = TaskManager(include_path=str(_export_folder(own)), include_defaults=bool(foreign))
        for name in foreign:
            if name not in manager.all_tasks:
                raise unknown_name("drift task", name, [PERPLEXITY, *self._known, *manager.all_tasks][:60])
        try:
            with _progress_bars_disabled():
                tasks: dict[str, Any] = get_task_dict(self.lm_eval_names, manager)
        except Exception as error:
            names = ", ".join(self.lm_eval_names)
            raise KnbenchError(f"drift tasks {names} cannot be loaded: {first_line(error)}") from error
        return tasks

    def _lm_eval(self) -> list[DriftSamples]:
        """Evaluate the tasks of lm-eval. Prompts of its own tasks are put into the chat template of a chat."""
        own = {exported_name(name) for name in self._known}  # whole sentences
        chat = self.lm.chat is not None
        parts = {
            in_chat: {name: task for name, task in self._tasks.items() if (chat and name not in own) == in_chat}
            for in_chat in (False, True)
        }
        return [row for in_chat, tasks in parts.items() if tasks for row in self._evaluated(tasks, chat=in_chat)]

    def _evaluated(self, tasks: dict[str, Any], *, chat: bool) -> list[DriftSamples]:
        from lm_eval.evaluator import evaluate

        before = self.lm.fingerprint()
        results = evaluate(
            lm=as_lm_eval_model(self.lm),
            task_dict=tasks,
            limit=self.limit,
            cache_requests=False,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
        )
        if self.lm.fingerprint() != before:
            raise KnbenchError(
                f"lm-eval changed the weights of '{self.lm.name}'; its numbers are not those of the edited model"
            )
        rows = []
        for name, samples in sorted(results["samples"].items()):
            metric = _metric(samples)
            rows.append(
                DriftSamples(
                    task=name,
                    metric=metric,
                    higher_is_better=bool(results["higher_is_better"].get(name, {}).get(metric, True)),
                    values=tuple(float(s[metric]) for s in sorted(samples, key=lambda s: s["doc_id"])),
                )
            )
        return rows


def _metric(samples: Sequence[dict[str, Any]]) -> str:
    """Return the first metric that has a number for every sample; ``acc`` takes precedence over the others."""
    for metric in sorted(samples[0]["metrics"], key=lambda m: m != "acc"):
        if all(isinstance(sample.get(metric), int | float) for sample in samples):
            return str(metric)
    raise KnbenchError("a drift task has no metric with a number for every sample; choose another --drift task")


def _export_folder(tasks: Sequence[Task]) -> Path:
    """Export tasks for lm-eval to a folder of the cache, and return the folder."""
    folder = cache_folder() / "lm-eval" / digest([task.content_hash() for task in tasks])[:20]
    with exclusive(folder):  # several workers export the same tasks
        for task in tasks:
            export_task(task, folder)
    return folder


@contextmanager
def _progress_bars_disabled() -> Iterator[None]:
    """Disable the progress bars of ``datasets``, which would interfere with the run's own."""
    import datasets

    enabled = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()


def read_paragraphs(path: str | None) -> list[str]:
    """Return the paragraphs of a text, which empty lines separate, each on one line.

    Args:
        path: a UTF-8 text file; None selects the built-in text, ``held_out.txt``.

    Raises:
        KnbenchError: the file cannot be read or contains no paragraph.
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
        raise KnbenchError(f"--drift-text '{path}' contains no paragraph; separate paragraphs by empty lines")
    return paragraphs


@torch.inference_mode()
def nll_per_token(lm: LanguageModel, paragraphs: Sequence[str]) -> list[float]:
    """Return the mean negative log-likelihood per token of each paragraph, in nats.

    Perplexity is exp of the mean of these values.

    Raises:
        FloatingPointError: a value is not finite.
    """
    rows = [lm.split(lm.prompt_prefix.strip(), paragraph) for paragraph in paragraphs]
    values: list[float] = []
    for start in range(0, len(rows), PARAGRAPHS_PER_BATCH):
        part = rows[start : start + PARAGRAPHS_PER_BATCH]
        batch = lm.pad([context + target for context, target in part])
        with lm.reading(batch, [0] * len(part)):  # a text, without a prompt
            logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits.float()
        for i, (context, target) in enumerate(part):
            columns = slice(len(context) - 1, len(context) + len(target) - 1)
            loss = torch.nn.functional.cross_entropy(logits[i, columns], batch.ids[i, len(context) :][: len(target)])
            if not bool(loss.isfinite()):
                raise FloatingPointError("the model's probabilities are not numbers")
            values.append(float(loss))
    return values
