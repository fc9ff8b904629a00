"""The three ways in which edits meet: each alone, many at once, one upon the other. Each gives records.

What is measured after an edit is always compared with the *unedited* model, also where edits pile up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import Case, EditRequest, derived_seed
from ..editing import Edit, Editor, EditStack
from ..models.language_model import LanguageModel
from ..probing.baseline import Baseline
from ..probing.causal import Observation, Prober
from ..probing.drift import DriftGauge
from ..results.io import key_of
from .environment import PeakMemory
from .plan import Completed, FileName, OutputLine, Unit

Emit = Callable[[OutputLine], None]
KINDS: Mapping[FileName, str] = {"records": "record", "checkpoints": "checkpoint", "drift": "drift"}
"""How the lines of a run folder's files are called."""


@dataclass(frozen=True)
class Job:
    """One unit of a run, with all that it takes to measure it.

    Attributes:
        written: what of it was measured before.
        tell: takes what is measured, line by line.
        fingerprint: of the unedited weights.
        drift: measures drift, or None where that is not asked for.
    """

    unit: Unit
    editor: Editor[Any]
    prober: Prober
    baseline: Baseline
    written: Completed
    emit: Emit
    seed: int
    fingerprint: str
    reporter: Reporter
    drift: DriftGauge | None = None

    @property
    def lm(self) -> LanguageModel:
        """The model."""
        return self.prober.lm

    def pending(self, indices: range) -> list[int]:
        """Return which cases have no record yet."""
        return [i for i in indices if not self.has("records", {"case_id": self.baseline.cases[i].id})]

    def has(self, file: FileName, where: Mapping[str, Any]) -> bool:
        """Whether a line with these keys was written before."""
        return key_of(where, KINDS[file]) in self.written.keys.get(file, ())

    def check_unchanged(self, fingerprint: str, after: str) -> None:
        """Make sure that the weights are what they should be.

        Raises:
            KnbenchError: they are not; an editor or a wrapper changed them.
        """
        if self.lm.fingerprint() != fingerprint:
            raise KnbenchError(
                f"editor '{self.editor.name}' left the model's weights changed after {after}; an editor must "
                "return its change as an Edit and leave the model as it was"
            )

    def note_drift(self, **where: Any) -> None:
        """Measure drift on the model as it is and write it down, unless that was done before.

        A model that gives no probabilities is a line that says so: the case's own measurement stands all the same.

        Raises:
            KnbenchError: the measurement itself changed the weights.
        """
        if self.drift is None or self.has("drift", where):
            return
        self.reporter.doing(f"{self.editor.name}: drift")
        try:
            found = {**where, "tasks": self.drift.measure(), "failure": None}
        except (KnbenchError, OSError):
            raise
        except Exception as error:
            found = {**where, "tasks": [], "failure": failure_of("probe", error)}
        self.emit(OutputLine("drift", found))


def run_single(job: Job) -> None:
    """Edit, measure, restore: each case for itself."""
    for block in blocks(job.unit.indices, job.editor.joint_batch_size):
        pending = job.pending(block)
        if pending:
            # The whole block, also where a part of it is done: what is edited together decides the last bits.
            attempts = edit_block(job.editor, job.lm, job.baseline, block, job.seed)
            for index in pending:
                job.emit(OutputLine("records", run_case(job, index, attempts[index])))


def run_case(job: Job, index: int, attempt: Attempt) -> dict[str, Any]:
    """Apply an edit, measure, restore: one record. Whatever goes wrong in between is recorded as a failure.

    Raises:
        KnbenchError: the model's weights did not come back as they were.
    """
    case = job.baseline.cases[index]
    seen = None
    failure = attempt.failure
    if attempt.edit is not None:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(attempt.edit.applied(job.lm))
                seen = probe_cases(job, [index])
            except Exception as error:
                failure = failure_of("probe", error)
            else:  # outside: a full disk, or weights that lm-eval changed, are no failure of the edit
                job.note_drift(case_id=case.id)
    job.check_unchanged(job.fingerprint, f"case '{case.id}'")
    return record_of(job, index, attempt, None if failure else seen, failure)


def run_batch(job: Job, size: int) -> None:
    """Make the edits of ``size`` cases at once, measure them all, restore."""
    cases = job.baseline.cases
    for block in blocks(job.unit.indices, size):
        number = block.start // size
        pending = job.pending(block)
        if pending:
            attempt = edit_cases(job, [i for i in block if cases[i].id not in job.baseline.unreadable])
            failure, seen = attempt.failure, None
            if attempt.edit is not None:
                with contextlib.ExitStack() as stack:
                    try:
                        stack.enter_context(attempt.edit.applied(job.lm))
                        seen = probe_cases(job, block)
                    except Exception as error:
                        failure = failure_of("probe", error)
                    else:
                        job.note_drift(block=number)
            job.check_unchanged(job.fingerprint, f"batch {number}")
            share = dataclasses.replace(attempt, seconds=attempt.seconds and attempt.seconds / len(block))
            for index in pending:
                unread = job.baseline.unreadable.get(cases[index].id)
                why = failure_of("tokenise", ValueError(unread)) if unread else failure
                job.emit(OutputLine("records", record_of(job, index, share, None if why else seen, why)))


def run_sequential(job: Job, stops: Sequence[int]) -> None:
    """Make the edits one upon the other; measure each right after it, and all so far again at the stops.

    A run that is continued makes its edits again and checks that the weights are what they were. An edit whose model
    gives no probabilities is taken back and recorded as a failure: what comes after it could not be judged.

    Raises:
        KnbenchError: an edit that is made again gives other weights.
    """
    cases, lm, done = job.baseline.cases, job.lm, job.written.states
    state = job.fingerprint
    earlier: list[EditRequest] = []
    with EditStack(lm) as pile:
        for index, case in enumerate(cases):
            stored = done.get(case.id)
            if stored is None or not stored.failed:
                job.reporter.doing(f"{job.editor.name}: edit {index + 1}" + (", again" if stored else ""))
                attempt = edit_cases(job, [index], earlier)
                job.check_unchanged(state, f"case '{case.id}'")
                failure, seen = attempt.failure, None
                if attempt.edit is not None:
                    try:
                        pile.push(attempt.edit)
                        try:
                            seen = probe_cases(job, [index]) if stored is None else Seen({}, 0.0)
                        except Exception:
                            pile.pop()
                            raise
                        earlier.append(case.request)
                        state = lm.fingerprint()
                    except Exception as error:
                        failure = failure_of("probe", error)
                if stored is None:
                    record = record_of(job, index, attempt, None if failure else seen, failure)
                    record["edit"]["state"] = state
                    job.emit(OutputLine("records", record))
                elif stored.weights != state:
                    raise KnbenchError(
                        f"{job.unit}: the edit of case '{case.id}', made again, gives other weights; continue on "
                        "the same kind of machine with the same versions and threads, or choose another --output"
                    )
            if index + 1 in stops:
                _measure_again(job, index + 1)
    job.check_unchanged(job.fingerprint, "the last edit")


def _measure_again(job: Job, stop: int) -> None:
    """Measure all cases so far on the model as it is now, and drift."""
    cases = job.baseline.cases
    missing = [i for i in range(stop) if not job.has("checkpoints", {"edits": stop, "case_id": cases[i].id})]
    if missing:
        job.reporter.doing(f"{job.editor.name}: all {stop} again")
        failure, seen = None, Seen({}, 0.0)
        try:
            seen = probe_cases(job, range(stop))  # also what is written: what shares a batch decides the last bits
        except Exception as error:
            failure = failure_of("probe", error)
        for i in missing:
            after = seen.observations.get(i, [None] * len(cases[i].probes))
            row = {"edits": stop, "case_id": cases[i].id, "after": after, "failure": failure}
            job.emit(OutputLine("checkpoints", row))
    job.note_drift(edits=stop)


@dataclass(frozen=True)
class Seen:
    """What was observed of some cases, by index, and the seconds that one of them took on average."""

    observations: Mapping[int, Sequence[Observation]]
    seconds: float


def probe_cases(job: Job, indices: Sequence[int]) -> Seen:
    """Measure the probes of cases on the model as it is, in shared batches."""
    cases = {i: job.baseline.cases[i] for i in indices if job.baseline.cases[i].id not in job.baseline.unreadable}
    probes = [probe for case in cases.values() for probe in case.probes]
    start = time.perf_counter()
    seen = iter(job.prober.observe(probes, against=job.baseline.reference))
    found = {i: [next(seen) for _ in case.probes] for i, case in cases.items()}
    return Seen(found, (time.perf_counter() - start) / max(len(cases), 1))


def record_of(
    job: Job,
    index: int,
    attempt: Attempt,
    seen: Seen | None,
    failure: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the record of a case; without ``seen``, nothing was measured after the edit."""
    case = job.baseline.cases[index]
    nothing: Sequence[Observation | None] = [None] * len(case.probes)
    before = job.baseline.observations.get(case.id, nothing)
    after = nothing if seen is None else seen.observations[index]
    edit = attempt.edit or Edit()
    return {
        "index": index,
        "case_id": case.id,
        "source": case.source,
        "request": dataclasses.asdict(case.request),
        "edit": {
            "parameters": sorted(edit.weights),
            "parameters_touched": sum(t.numel() for t in edit.weights.values()),
            "modules": sorted(edit.outputs),
            "prefix": edit.prefix,
            "diagnostics": _speakable(edit.diagnostics),
        },
        "probes": [
            {**dataclasses.asdict(probe), "before": b, "after": a}
            for probe, b, a in zip(case.probes, before, after, strict=True)
        ],
        "failure": failure,
        "timings": {
            "edit_seconds": attempt.seconds,
            "probe_seconds": None if seen is None else seen.seconds,
            "peak_memory_mb": attempt.peak_memory_mb,
        },
    }


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


def _speakable(value: Any) -> Any:
    """Return a value as JSON can hold it: a loss that is no number, as a divergent edit has, becomes its name."""
    if isinstance(value, Mapping):
        return {str(key): _speakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_speakable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def blocks(indices: range, joint_batch_size: int) -> Iterator[range]:
    """Yield the indices of cases that are edited together, the same ones however often a run is continued."""
    for start in range(indices.start, indices.stop, joint_batch_size):
        yield range(start, min(start + joint_batch_size, indices.stop))


def edit_block(
    editor: Editor[Any], lm: LanguageModel, baseline: Baseline, block: range, seed: int
) -> dict[int, Attempt]:
    """Compute the edits of some cases, by index: together where the method can, one by one where that fails."""
    cases = {i: baseline.cases[i] for i in block}
    attempts = {
        i: Attempt(failure=failure_of("tokenise", ValueError(baseline.unreadable[case.id])))
        for i, case in cases.items()
        if case.id in baseline.unreadable
    }
    todo = [i for i in block if i not in attempts]
    if editor.joint_batch_size > 1 and len(todo) > 1:
        with contextlib.suppress(Exception):  # which of them failed, and why, shows when each is tried alone
            peak, start = PeakMemory(str(lm.device)), time.perf_counter()
            with seeded(derived_seed(seed, editor.name, *(cases[i].id for i in todo))):
                edits = editor.edit_each(lm, [cases[i].request for i in todo])
            seconds, megabytes = (time.perf_counter() - start) / len(todo), round(peak.megabytes(), 1)
            found = {i: Attempt(e, None, seconds, megabytes) for i, e in zip(todo, edits, strict=True)}
            return {**attempts, **found}
    return {**attempts, **{i: _edit_alone(editor, lm, cases[i], seed) for i in todo}}


def _edit_alone(editor: Editor[Any], lm: LanguageModel, case: Case, seed: int) -> Attempt:
    return _attempt(lm, derived_seed(seed, editor.name, case.id), lambda: editor.edit(lm, [case.request]))


def edit_cases(job: Job, indices: Sequence[int], earlier: Sequence[EditRequest] | None = None) -> Attempt:
    """Compute one edit for some cases at once; with ``earlier``, of a model that those were written into."""
    cases = [job.baseline.cases[i] for i in indices]
    for case in cases:
        if case.id in job.baseline.unreadable:
            return Attempt(failure=failure_of("tokenise", ValueError(job.baseline.unreadable[case.id])))
    requests, editor, lm = [case.request for case in cases], job.editor, job.lm
    seed = derived_seed(job.seed, editor.name, *(case.id for case in cases))
    if earlier is None:
        return _attempt(lm, seed, lambda: editor.edit(lm, requests))
    return _attempt(lm, seed, lambda: editor.edit_next(lm, requests, earlier))


def _attempt(lm: LanguageModel, seed: int, compute: Callable[[], Edit]) -> Attempt:
    try:
        peak, start = PeakMemory(str(lm.device)), time.perf_counter()
        with seeded(seed):
            edit = compute()
        return Attempt(edit, None, time.perf_counter() - start, round(peak.megabytes(), 1))
    except Exception as error:
        return Attempt(failure=failure_of("edit", error))


def failure_of(phase: str, error: BaseException) -> dict[str, str]:
    """Return what stands in a record for an error: its phase, its type, its first line."""
    lines = str(error).strip().splitlines()
    message = lines[0][:500] if lines else type(error).__name__
    return {"phase": phase, "type": type(error).__name__, "message": message}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """``with seeded(1): ...`` draws from a fixed torch seed and leaves the surrounding generator untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
