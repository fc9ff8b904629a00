"""Runs editors over tasks: measure, edit, measure again, take the edit back, write the record down."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import __version__
from .baseline import Baseline, measure_baseline, select_cases
from .drift import DriftGauge, make_gauge
from .editing import Editor, build_editor
from .environment import describe_environment
from .errors import KnbenchError
from .language_model import LanguageModel
from .masked_probing import make_prober
from .progress import Reporter
from .regimes import Job, is_complete, run_batch, run_sequential, run_single, seeded
from .results import SCHEMA_VERSION
from .run_folder import finish, locked, open_folder
from .settings import RunSettings
from .types import Task, derived_seed


def run(
    lm: LanguageModel,
    editors: Sequence[type[Editor[Any]]],
    tasks: Sequence[Task],
    output: Path,
    settings: RunSettings,
    reporter: Reporter | None = None,
    *,
    command: str | None = None,
) -> list[Path]:
    """Run every editor over every task and write one folder per pair.

    A folder that already holds records of the same run is continued after its last whole record.

    Args:
        lm: the model.
        editors: the methods.
        tasks: the tasks.
        output: the folder above those that are written.
        settings: everything else that decides the numbers.
        reporter: told how far it is.
        command: what was typed, noted in the results.

    Returns:
        The folders ``output/editor/task``, each with manifest, records and result.

    Raises:
        KnbenchError: a folder holds another run, or an editor left the model changed.
    """
    reporter = reporter or Reporter()
    built = [build_editor(cls, lm, settings.editor_args.get(cls.name), settings.seed) for cls in editors]
    if settings.fluency_tokens and not lm.causal:
        raise KnbenchError(f"'{lm.name}' is a masked model and writes no text; leave out --fluency-tokens")
    prober = make_prober(
        lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens, free_tokens=settings.fluency_tokens
    )
    gauge = make_gauge(lm, settings.drift) if settings.drift else None
    fingerprint = lm.fingerprint()
    manifests = []
    common = {
        "schema_version": SCHEMA_VERSION,
        "benchmark_version": __version__,
        "model": describe_model(lm),
        "seed": settings.seed,
        "environment": describe_environment(str(lm.device), command),
    }
    for editor, source in built:
        reporter.doing(f"preparing {editor.name}")
        with seeded(derived_seed(settings.seed, editor.name, "prepare")):
            prepared = editor.prepare(lm, reporter)
        manifests.append({**common, "editor": describe_editor(editor, source, prepared)})
    with ExitStack() as stack:
        # Every folder is opened before anything is measured, so that a wrong one is refused at once.
        work = []
        for task in tasks:
            reporter.doing(f"selecting cases of {task.name}")
            selection = select_cases(prober, task, settings)
            about = {
                "task": {**task.card(), "content_hash": task.content_hash(), "cases_total": len(task.cases())},
                "protocol": describe_protocol(lm, settings, len(selection.cases), gauge),
            }
            folders = [output / editor.name / task.name for editor, _ in built]
            for folder in folders:
                stack.enter_context(locked(folder))
            opened = [open_folder(f, {**m, **about}) for f, m in zip(folders, manifests, strict=True)]
            if settings.retry_failed:
                for files in opened:
                    files.records.drop(lambda record: record["failure"] is not None)
            work.append((task, selection, folders, opened))
        reporter.begin(sum(len(selection.cases) * len(folders) for _, selection, folders, _ in work))
        for task, selection, folders, opened in work:
            baseline: Baseline | None = None
            for (editor, _), folder, files in zip(built, folders, opened, strict=True):
                if is_complete(files, selection.cases, settings.stops):
                    reporter.advance(len(selection.cases))
                else:
                    if baseline is None:
                        reporter.doing(f"unedited model on {task.name}")
                        baseline = measure_baseline(prober, selection, settings)
                    reporter.doing(f"{editor.name} on {task.name}")
                    job = Job(editor, prober, baseline, files, settings.seed, fingerprint, reporter, gauge)
                    job.note_drift(edits=0)
                    if settings.sequential:
                        run_sequential(job, settings.stops)
                    elif settings.batch_edits:
                        run_batch(job, settings.batch_edits)
                    else:
                        run_single(job)
                finish(folder)
    return [folder for _, _, folders, _ in work for folder in folders]


# --- provenance --------------------------------------------------------------------------------------------------


def describe_model(lm: LanguageModel) -> dict[str, Any]:
    """Return what identifies a model, with a hash of its weights."""
    return {
        "name": lm.name,
        "revision": lm.revision,
        "weight_hash": lm.weight_hash(),
        **lm.shape,
        "objective": lm.family.objective,
        "parameters": sum(p.numel() for p in lm.model.parameters()),
        "dtype": str(lm.dtype).removeprefix("torch."),
    }


def describe_editor(editor: Editor[Any], source: str, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Return an editor's card: description, hyper-parameters and where they come from."""
    return {
        "name": editor.name,
        "summary": editor.summary,
        "paper": editor.paper,
        "config": _plain(dataclasses.asdict(editor.config)),
        "config_source": source,
        "prepared": _plain(prepared),
    }


def describe_protocol(
    lm: LanguageModel, settings: RunSettings, cases: int, gauge: DriftGauge | None = None
) -> dict[str, Any]:
    """Return how the numbers were taken."""
    return {
        "regime": settings.regime,
        "batch_edits": settings.batch_edits,
        "checkpoints": list(settings.stops),
        "split": settings.split,
        "subset": None if settings.subset == "full" else settings.subset,
        "cases": cases,
        "limit": settings.limit,
        "known_only": settings.known_only,
        "known_by": settings.known_by if settings.known_only else None,
        "bos": lm.bos_policy,
        "bos_prepended": lm.bos_id is not None,
        "new_tokens": settings.new_tokens,
        "fluency_tokens": settings.fluency_tokens,
        "drift": gauge.card() if gauge else None,
        "batch_size": settings.batch_size,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
