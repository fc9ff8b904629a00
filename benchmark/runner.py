"""Runs editors over tasks: measure, edit, measure again, take the edit back, write the record down."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .editing import Editor, build_editor
from .environment import PeakMemory, describe_environment
from .errors import KnbenchError
from .language_model import LanguageModel
from .probing import Observation, Prober, Reference
from .progress import Reporter
from .results import SCHEMA_VERSION
from .run_folder import finish, open_folder
from .types import Case, Task, derived_seed


@dataclass(frozen=True)
class RunSettings:
    """What besides model, editors and tasks decides a run's numbers.

    Attributes:
        limit: at most so many cases a task, or None for all.
        known_only: judge only what the unedited model knows: keep the cases whose true answer it prefers to the
            new one, and of their ``unchanged`` probes those whose target it prefers to the rival. What it gets
            wrong before the edit can neither be rewritten nor kept.
        batch_size: rows per probing batch.
        new_tokens: length of greedy continuations.
        editor_args: per editor, hyper-parameters by name, as text.
    """

    limit: int | None = None
    seed: int = 0
    known_only: bool = False
    batch_size: int = 32
    new_tokens: int = 6
    editor_args: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """A task's selected cases with the unedited model's observations, measured once for all editors."""

    task: Task
    cases: Sequence[Case]
    observations: Mapping[str, Sequence[Observation]]
    unreadable: Mapping[str, str]
    reference: Reference


def run(
    lm: LanguageModel,
    editors: Sequence[type[Editor[Any]]],
    tasks: Sequence[Task],
    output: Path,
    settings: RunSettings,
    reporter: Reporter | None = None,
) -> list[Path]:
    """Run every editor over every task in the single regime and write one folder per pair.

    A folder that already holds records of the same run is continued after its last whole record.

    Returns:
        The folders ``output/editor/task``, each with manifest, records and result.

    Raises:
        KnbenchError: a folder holds another run, or an editor left the model changed.
    """
    reporter = reporter or Reporter()
    if not lm.causal:
        raise KnbenchError(f"model '{lm.name}' is a masked model; these tasks ask what follows, so name a causal one")
    built = [build_editor(cls, lm, settings.editor_args.get(cls.name), settings.seed) for cls in editors]
    prober = Prober(lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens)
    model_card = describe_model(lm)
    environment = describe_environment(str(lm.device))
    fingerprint = lm.fingerprint()
    prepared: dict[str, Any] = {}
    folders = []
    reporter.begin(len(built) * sum(min(len(t.cases()), settings.limit or len(t.cases())) for t in tasks))
    for task in tasks:
        reporter.doing(f"unedited model on {task.name}")
        baseline = measure_baseline(prober, task, settings)
        for editor, source in built:
            folder = output / editor.name / task.name
            reporter.doing(f"{editor.name} on {task.name}")
            if editor.name not in prepared:
                with seeded(derived_seed(settings.seed, editor.name, "prepare")):
                    prepared[editor.name] = dict(editor.prepare(lm))
            manifest = {
                "schema_version": SCHEMA_VERSION,
                "benchmark_version": __version__,
                "editor": describe_editor(editor, source, prepared[editor.name]),
                "model": model_card,
                "task": {
                    **task.card(),
                    "content_hash": task.content_hash(),
                    "cases_total": len(task.cases()),
                },
                "protocol": describe_protocol(lm, settings, len(baseline.cases)),
                "seed": settings.seed,
                "environment": environment,
            }
            records = open_folder(folder, manifest)
            for index, case in enumerate(baseline.cases):
                if case.id not in records.done:
                    records.append(run_case(editor, prober, baseline, index, case, settings.seed, fingerprint))
                reporter.advance()
            finish(folder)
            folders.append(folder)
    return folders


def measure_baseline(prober: Prober, task: Task, settings: RunSettings) -> Baseline:
    """Select a task's cases and measure the unedited model on all their probes, in shared batches.

    Raises:
        KnbenchError: no case is left to run.
    """
    unreadable: dict[str, str] = {}
    cases: Sequence[Case] = task.cases()
    for case in cases:
        try:
            prober.check(case)
        except ValueError as error:
            unreadable[case.id] = str(error)
    if settings.known_only:
        asked = [case for case in cases if case.id not in unreadable]
        quick = Prober(prober.lm, batch_size=prober.batch_size, new_tokens=0)
        probes = [next(p for p in case.probes if p.criterion == "reliability") for case in asked]
        quickly = quick.observe(probes)
        cases = [case for case, seen in zip(asked, quickly, strict=True) if not _prefers_target(seen)]
    cases = cases[: settings.limit]
    if not cases:
        raise KnbenchError(f"task '{task.name}': no case left to run; the model knows none of them, or limit is 0")
    measured = [case for case in cases if case.id not in unreadable]
    reference = Reference()
    flat = [probe for case in measured for probe in case.probes]
    seen = iter(prober.observe(flat, remember=reference))
    table = {case.id: [(probe, next(seen)) for probe in case.probes] for case in measured}
    if settings.known_only:
        table = {
            i: [(p, o) for p, o in pairs if p.expect != "unchanged" or _prefers_target(o)] for i, pairs in table.items()
        }
    cases = [
        dataclasses.replace(case, probes=tuple(p for p, _ in table[case.id])) if case.id in table else case
        for case in cases
    ]
    observations = {case_id: [o for _, o in pairs] for case_id, pairs in table.items()}
    return Baseline(task, cases, observations, unreadable, reference)


def _prefers_target(observation: Observation) -> bool:
    return bool(observation["target"]["logprob"] > observation["rival"]["logprob"])


def run_case(
    editor: Editor[Any],
    prober: Prober,
    baseline: Baseline,
    index: int,
    case: Case,
    seed: int,
    fingerprint: str,
) -> dict[str, Any]:
    """Edit, measure, restore: one record. Whatever goes wrong in between is recorded as a failure.

    Raises:
        KnbenchError: the model's weights did not come back as they were.
    """
    lm = prober.lm
    before: Sequence[Observation | None] = baseline.observations.get(case.id, [None] * len(case.probes))
    after: Sequence[Observation | None] = [None] * len(case.probes)
    timings: dict[str, float | None] = {"edit_seconds": None, "probe_seconds": None, "peak_memory_mb": None}
    edit_facts: dict[str, Any] = {"parameters": [], "parameters_touched": 0, "prefix": "", "diagnostics": {}}
    failure: dict[str, str] | None = None
    phase = "tokenise"
    try:
        if case.id in baseline.unreadable:
            raise ValueError(baseline.unreadable[case.id])
        phase = "edit"
        peak, start = PeakMemory(str(lm.device)), time.perf_counter()
        with seeded(derived_seed(seed, editor.name, case.id)):
            edit = editor.edit(lm, [case.request])
        timings["edit_seconds"] = time.perf_counter() - start
        timings["peak_memory_mb"] = round(peak.megabytes(), 1)
        edit_facts = {
            "parameters": sorted(edit.weights),
            "parameters_touched": sum(t.numel() for t in edit.weights.values()),
            "prefix": edit.prefix,
            "diagnostics": dict(edit.diagnostics),
        }
        phase, start = "probe", time.perf_counter()
        with edit.applied(lm):
            after = prober.observe(case.probes, against=baseline.reference)
        timings["probe_seconds"] = time.perf_counter() - start
    except Exception as error:
        failure = {"phase": phase, "type": type(error).__name__, "message": _first_line(error)}
        after = [None] * len(case.probes)
    if lm.fingerprint() != fingerprint:
        raise KnbenchError(
            f"editor '{editor.name}' left the model's weights changed after case '{case.id}'; an editor must "
            "return its change as an Edit and leave the model as it was"
        )
    probes = [
        {**dataclasses.asdict(probe), "before": b, "after": a}
        for probe, b, a in zip(case.probes, before, after, strict=True)
    ]
    return {
        "index": index,
        "case_id": case.id,
        "source": case.source,
        "request": dataclasses.asdict(case.request),
        "edit": edit_facts,
        "probes": probes,
        "failure": failure,
        "timings": timings,
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """``with seeded(1): ...`` draws from a fixed torch seed and leaves the surrounding generator untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__


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


def describe_protocol(lm: LanguageModel, settings: RunSettings, cases: int) -> dict[str, Any]:
    """Return how the numbers were taken."""
    return {
        "regime": "single",
        "cases": cases,
        "limit": settings.limit,
        "known_only": settings.known_only,
        "bos": lm.bos_policy,
        "bos_prepended": lm.bos_id is not None,
        "new_tokens": settings.new_tokens,
        "batch_size": settings.batch_size,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
