"""Runs editors over tasks: measure, edit, measure again, take the edit back, write the record down."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .editing import Edit, Editor, build_editor
from .environment import PeakMemory, describe_environment
from .errors import KnbenchError
from .known import Store, known_cases, readable_cases
from .language_model import LanguageModel
from .masked_probing import make_prober
from .probing import Observation, Prober, Reference
from .progress import Reporter
from .results import SCHEMA_VERSION
from .run_folder import finish, open_folder
from .split import SMALLEST, Split, split_cases
from .types import Case, Task, derived_seed


@dataclass(frozen=True)
class RunSettings:
    """What besides model, editors and tasks decides a run's numbers.

    Attributes:
        split: which cases are run, see :mod:`knbench.benchmark.split`: ``test`` judges methods, ``tune`` is what their
            hyper-parameters may be chosen on.
        limit: at most so many cases a task, or None for all.
        known_only: judge only what the unedited model knows: keep the cases whose true answer it knows, and of their
            ``unchanged`` probes those whose target it prefers to the rival. What it gets wrong before the edit can
            neither be rewritten nor kept.
        known_by: what counts as knowing, see :mod:`knbench.benchmark.known`.
        batch_size: rows per probing batch.
        new_tokens: length of greedy continuations.
        editor_args: per editor, hyper-parameters by name, as text.
    """

    split: Split = "test"
    limit: int | None = None
    seed: int = 0
    known_only: bool = False
    known_by: str = "success"
    batch_size: int = 32
    new_tokens: int = 6
    editor_args: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """A task's cases that are run, and why some of them cannot be read by this model's tokenizer."""

    cases: Sequence[Case]
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class Baseline:
    """What the unedited model says to a task's probes, measured once for all editors.

    Attributes:
        cases: the selected cases; under ``known_only`` without the unchanged probes that the model gets wrong.
        observations: by case id, one per probe; none for unreadable cases.
        unreadable: by case id, why it cannot be measured.
        reference: the distributions that ``kl`` is measured against.
    """

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
    built = [build_editor(cls, lm, settings.editor_args.get(cls.name), settings.seed) for cls in editors]
    prober = make_prober(lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens)
    fingerprint = lm.fingerprint()
    manifests = []
    common = {
        "schema_version": SCHEMA_VERSION,
        "benchmark_version": __version__,
        "model": describe_model(lm),
        "seed": settings.seed,
        "environment": describe_environment(str(lm.device)),
    }
    for editor, source in built:
        reporter.doing(f"preparing {editor.name}")
        with seeded(derived_seed(settings.seed, editor.name, "prepare")):
            prepared = editor.prepare(lm, reporter)
        manifests.append({**common, "editor": describe_editor(editor, source, prepared)})
    # Every folder is opened before anything is measured, so that a wrong one is refused at once.
    work = []
    for task in tasks:
        reporter.doing(f"selecting cases of {task.name}")
        selection = select_cases(prober, task, settings)
        about = {
            "task": {**task.card(), "content_hash": task.content_hash(), "cases_total": len(task.cases())},
            "protocol": describe_protocol(lm, settings, len(selection.cases)),
        }
        folders = [output / editor.name / task.name for editor, _ in built]
        records = [open_folder(f, {**m, **about}) for f, m in zip(folders, manifests, strict=True)]
        work.append((task, selection, folders, records))
    reporter.begin(sum(len(selection.cases) * len(folders) for _, selection, folders, _ in work))
    for task, selection, folders, records in work:
        baseline: Baseline | None = None
        for (editor, _), folder, file in zip(built, folders, records, strict=True):
            for block in _blocks(len(selection.cases), editor.together):
                pending = [i for i in block if selection.cases[i].id not in file.done]
                if pending:
                    if baseline is None:
                        reporter.doing(f"unedited model on {task.name}")
                        baseline = measure_baseline(prober, selection, settings)
                    reporter.doing(f"{editor.name} on {task.name}")
                    # The whole block, also where a part of it is done: what is edited together decides the last bits.
                    attempts = edit_block(editor, lm, baseline, block, settings.seed)
                    for index in pending:
                        file.append(run_case(editor, prober, baseline, index, attempts[index], fingerprint))
                        reporter.advance()
                reporter.advance(len(block) - len(pending))
            finish(folder)
    return [folder for _, _, folders, _ in work for folder in folders]


def select_cases(prober: Prober, task: Task, settings: RunSettings) -> Selection:
    """Choose the cases of a task that are run: of its split, the known ones if so wished, up to the limit.

    Raises:
        KnbenchError: no case is left.
    """
    _, unreadable = readable_cases(prober, task)
    cases: Sequence[Case] = split_cases(task.name, task.cases(), settings.split)
    if task.cases() and not cases:
        raise KnbenchError(
            f"task '{task.name}' has no {settings.split} cases; a task of fewer than {SMALLEST} cases is not split"
        )
    if settings.known_only:
        known = known_cases(Store.of(prober), task)
        cases = [case for case in cases if known.get(case.id, {}).get(settings.known_by)]
    cases = cases[: settings.limit]
    if not task.cases():
        raise KnbenchError(
            f"task '{task.name}' has no pair that an edit could be keyed on; score it with: knbench known"
        )
    if not cases:
        raise KnbenchError(
            f"task '{task.name}': the model knows none of its cases (split: {settings.split}); run without --known-only"
        )
    return Selection(cases, unreadable)


def measure_baseline(prober: Prober, selection: Selection, settings: RunSettings) -> Baseline:
    """Measure the unedited model on all probes of the selected cases, in shared batches."""
    readable = [case for case in selection.cases if case.id not in selection.unreadable]
    reference = Reference()
    seen = iter(prober.observe([probe for case in readable for probe in case.probes], remember=reference))
    table = {case.id: [(probe, next(seen)) for probe in case.probes] for case in readable}
    if settings.known_only:
        table = {
            case_id: [(p, o) for p, o in pairs if p.expect != "unchanged" or _prefers_target(o)]
            for case_id, pairs in table.items()
        }
    cases = [
        dataclasses.replace(case, probes=tuple(p for p, _ in table[case.id])) if case.id in table else case
        for case in selection.cases
    ]
    observations = {case_id: [o for _, o in pairs] for case_id, pairs in table.items()}
    return Baseline(cases, observations, selection.unreadable, reference)


def _prefers_target(observation: Observation) -> bool:
    return bool(observation["target"]["logprob"] > observation["rival"]["logprob"])


@dataclass(frozen=True)
class Attempt:
    """What came of computing one case's edit.

    Attributes:
        edit: the edit, or None where it failed.
        failure: phase, type and message of the failure.
        seconds: of computing; of a block that is computed together, an equal share.
        peak_memory_mb: the most memory in use meanwhile, of the whole block.
    """

    edit: Edit | None = None
    failure: Mapping[str, str] | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None


def _blocks(cases: int, together: int) -> Iterator[range]:
    """Yield the indices of cases that are edited together, the same ones however often a run is continued."""
    for start in range(0, cases, together):
        yield range(start, min(start + together, cases))


def edit_block(
    editor: Editor[Any], lm: LanguageModel, baseline: Baseline, block: range, seed: int
) -> dict[int, Attempt]:
    """Compute the edits of some cases, by index: together where the method can, one by one where that fails."""
    cases = {i: baseline.cases[i] for i in block}
    attempts = {
        i: Attempt(failure=_failure("tokenise", ValueError(baseline.unreadable[case.id])))
        for i, case in cases.items()
        if case.id in baseline.unreadable
    }
    todo = [i for i in block if i not in attempts]
    if editor.together > 1 and len(todo) > 1:
        with contextlib.suppress(Exception):  # which of them failed, and why, shows when each is tried alone
            peak, start = PeakMemory(str(lm.device)), time.perf_counter()
            with seeded(derived_seed(seed, editor.name, *(cases[i].id for i in todo))):
                edits = editor.edit_each(lm, [cases[i].request for i in todo])
            seconds, megabytes = (time.perf_counter() - start) / len(todo), round(peak.megabytes(), 1)
            found = {i: Attempt(e, None, seconds, megabytes) for i, e in zip(todo, edits, strict=True)}
            return {**attempts, **found}
    return {**attempts, **{i: _edit_alone(editor, lm, cases[i], seed) for i in todo}}


def _edit_alone(editor: Editor[Any], lm: LanguageModel, case: Case, seed: int) -> Attempt:
    try:
        peak, start = PeakMemory(str(lm.device)), time.perf_counter()
        with seeded(derived_seed(seed, editor.name, case.id)):
            edit = editor.edit(lm, [case.request])
        return Attempt(edit, None, time.perf_counter() - start, round(peak.megabytes(), 1))
    except Exception as error:
        return Attempt(failure=_failure("edit", error))


def _failure(phase: str, error: BaseException) -> dict[str, str]:
    return {"phase": phase, "type": type(error).__name__, "message": _first_line(error)}


def run_case(
    editor: Editor[Any],
    prober: Prober,
    baseline: Baseline,
    index: int,
    attempt: Attempt,
    fingerprint: str,
) -> dict[str, Any]:
    """Apply an edit, measure, restore: one record. Whatever goes wrong in between is recorded as a failure.

    Raises:
        KnbenchError: the model's weights did not come back as they were.
    """
    lm, case = prober.lm, baseline.cases[index]
    before: Sequence[Observation | None] = baseline.observations.get(case.id, [None] * len(case.probes))
    after: Sequence[Observation | None] = [None] * len(case.probes)
    probe_seconds: float | None = None
    edit_facts: dict[str, Any] = {"parameters": [], "parameters_touched": 0, "prefix": "", "diagnostics": {}}
    failure = attempt.failure
    if attempt.edit is not None:
        edit = attempt.edit
        edit_facts = {
            "parameters": sorted(edit.weights),
            "parameters_touched": sum(t.numel() for t in edit.weights.values()),
            "prefix": edit.prefix,
            "diagnostics": dict(edit.diagnostics),
        }
        try:
            start = time.perf_counter()
            with edit.applied(lm):
                after = prober.observe(case.probes, against=baseline.reference)
            probe_seconds = time.perf_counter() - start
        except Exception as error:
            failure, after = _failure("probe", error), [None] * len(case.probes)
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
        "timings": {
            "edit_seconds": attempt.seconds,
            "probe_seconds": probe_seconds,
            "peak_memory_mb": attempt.peak_memory_mb,
        },
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
        "split": settings.split,
        "cases": cases,
        "limit": settings.limit,
        "known_only": settings.known_only,
        "known_by": settings.known_by if settings.known_only else None,
        "bos": lm.bos_policy,
        "bos_prepended": lm.bos_id is not None,
        "new_tokens": settings.new_tokens,
        "batch_size": settings.batch_size,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
