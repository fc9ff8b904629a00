"""The three regimes: single edits, batches of edits, and sequential edits.

Measurements after an edit are always compared with the *unedited* model, also in sequential runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.records import CheckpointLine, DriftLine, Failure, Observation, Record
from ..core.schema import Case, EditRequest
from ..editing import Editor, EditStack
from ..models.language_model import LanguageModel
from ..probing.base import Prober
from ..probing.baseline import Baseline
from ..probing.drift import DriftGauge
from ..results.io import CHECKPOINT, DRIFT_LINE, RECORD, LineKind
from .attempts import Attempt, edit_block, edit_cases, failure_of
from .plan import Completed, FileName, OutputLine, Unit
from .records import make_record

Emit = Callable[[OutputLine], None]
"""Receives each line as soon as it is measured."""
LINE_KINDS: Mapping[FileName, LineKind[Any]] = {"records": RECORD, "checkpoints": CHECKPOINT, "drift": DRIFT_LINE}


@dataclass(frozen=True)
class Job:
    """A unit of work with everything that is needed to measure it.

    Attributes:
        unit: the unit.
        editor: the method.
        prober: measures probes.
        baseline: cases and observations of the unedited model.
        completed: the part that was measured before.
        emit: receives the lines.
        seed: seed of the run.
        fingerprint: of the unedited weights.
        reporter: receives progress.
        drift: measures drift; None if drift is not measured.
    """

    unit: Unit
    editor: Editor[Any]
    prober: Prober
    baseline: Baseline
    completed: Completed
    emit: Emit
    seed: int
    fingerprint: str
    reporter: Reporter
    drift: DriftGauge | None = None

    @property
    def lm(self) -> LanguageModel:
        """The model."""
        return self.prober.lm

    def case(self, index: int) -> Case:
        """Return a case by its index in the run."""
        return self.baseline.cases[index]

    def pending(self, indices: range) -> list[int]:
        """Return the indices of the cases that have no record yet."""
        return [i for i in indices if not self.has("records", case_id=self.case(i).id)]

    def has(self, file: FileName, **key: Any) -> bool:
        """Return whether a line with these key fields was measured before."""
        return LINE_KINDS[file].key(key) in self.completed.keys.get(file, ())

    def compute_edit(self, cases: Sequence[Case], earlier: Sequence[EditRequest] | None = None) -> Attempt:
        """Compute one edit for all of some cases; see :func:`~.attempts.edit_cases`."""
        return edit_cases(self.editor, self.lm, cases, self.baseline, self.seed, earlier)

    def record(
        self,
        index: int,
        attempt: Attempt,
        measured: Measured | None,
        failure: Failure | None,
        state: str | None = None,
    ) -> Record:
        """Build the record of a case; a failed case has no observations after the edit."""
        case = self.case(index)
        after = None if measured is None or failure else measured.observations[index]
        return make_record(
            index,
            case,
            attempt,
            self.baseline.observations.get(case.id),
            after,
            failure,
            probe_seconds=None if after is None or measured is None else measured.seconds,
            state=state,
        )

    def check_unchanged(self, fingerprint: str, after: str) -> None:
        """Check that the weights have a fingerprint.

        Raises:
            KnbenchError: they do not, because an editor or a wrapper changed them.
        """
        if self.lm.fingerprint() != fingerprint:
            raise KnbenchError(
                f"editor '{self.editor.name}' left the model's weights changed after {after}; an editor must "
                "return its change as an Edit and leave the model as it was"
            )

    def measure_drift(self, **key: Any) -> None:
        """Measure drift on the model as it is and emit the line, unless it exists.

        A model without finite probabilities gives a line with a failure. The measurement of the case stays valid.

        Args:
            key: ``edits``, ``case_id`` or ``block``.

        Raises:
            KnbenchError: the measurement changed the weights.
        """
        if self.drift is None or self.has("drift", **key):
            return
        self.reporter.doing(f"{self.editor.name}: drift")
        try:
            line = DriftLine(**key, tasks=self.drift.measure(), failure=None)
        except (KnbenchError, OSError):
            raise
        except Exception as error:
            line = DriftLine(**key, tasks=(), failure=failure_of("probe", error))
        self.emit(OutputLine("drift", line))


@dataclass(frozen=True)
class Measured:
    """Observations of some cases.

    Attributes:
        observations: by case index, one observation per probe.
        seconds: mean time per case.
    """

    observations: Mapping[int, Sequence[Observation]]
    seconds: float


def measure_cases(job: Job, indices: Sequence[int]) -> Measured:
    """Measure the probes of cases on the model as it is, in shared batches."""
    cases = {i: job.case(i) for i in indices if job.case(i).id not in job.baseline.unreadable}
    probes = [probe for case in cases.values() for probe in case.probes]
    start = time.perf_counter()
    observed = iter(job.prober.observe(probes, compare_to=job.baseline.reference))
    observations = {i: [next(observed) for _ in case.probes] for i, case in cases.items()}
    return Measured(observations, (time.perf_counter() - start) / max(len(cases), 1))


def chunks(indices: range, size: int) -> Iterator[range]:
    """Yield consecutive ranges of cases that are edited together. Resuming a run does not change them."""
    for start in range(indices.start, indices.stop, size):
        yield range(start, min(start + size, indices.stop))


def run_single(job: Job) -> None:
    """Edit, measure and restore each case on its own."""
    for chunk in chunks(job.unit.indices, job.editor.joint_batch_size):
        pending = job.pending(chunk)
        if pending:
            # The whole chunk, even if a part of it is recorded: the cases that are edited together affect rounding.
            attempts = edit_block(job.editor, job.lm, job.baseline, chunk, job.seed)
            for index in pending:
                job.emit(OutputLine("records", run_case(job, index, attempts[index])))


def run_case(job: Job, index: int, attempt: Attempt) -> Record:
    """Apply an edit, measure, restore, and return the record. An exception in between is recorded as a failure.

    Raises:
        KnbenchError: the model's weights were not restored.
    """
    measured, failure = _measure_applied(job, attempt, [index], {"case_id": job.case(index).id})
    job.check_unchanged(job.fingerprint, f"case '{job.case(index).id}'")
    return job.record(index, attempt, measured, failure)


def run_batch(job: Job, size: int) -> None:
    """Apply one edit for ``size`` cases, measure all of them, restore."""
    for chunk in chunks(job.unit.indices, size):
        number = chunk.start // size
        pending = job.pending(chunk)
        if not pending:
            continue
        readable = [job.case(i) for i in chunk if job.case(i).id not in job.baseline.unreadable]
        attempt = job.compute_edit(readable)
        measured, failure = _measure_applied(job, attempt, chunk, {"block": number})
        job.check_unchanged(job.fingerprint, f"batch {number}")
        share = dataclasses.replace(attempt, seconds=attempt.seconds and attempt.seconds / len(chunk))
        for index in pending:
            reason = job.baseline.unreadable.get(job.case(index).id)
            case_failure = failure_of("tokenise", ValueError(reason)) if reason else failure
            job.emit(OutputLine("records", job.record(index, share, measured, case_failure)))


def _measure_applied(
    job: Job, attempt: Attempt, indices: Sequence[int], drift_key: Mapping[str, Any]
) -> tuple[Measured | None, Failure | None]:
    """Apply an edit, measure cases and drift, and restore the model."""
    if attempt.edit is None:
        return None, attempt.failure
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(attempt.edit.applied(job.lm))
            measured = measure_cases(job, indices)
        except Exception as error:
            return None, failure_of("probe", error)
        # Outside of the try: a full disk, or weights that lm-eval changed, are not failures of the edit.
        job.measure_drift(**drift_key)
        return measured, None


def run_sequential(job: Job, stops: Sequence[int]) -> None:
    """Apply the edits one after the other. Measure each right after it, and all so far again at the checkpoints.

    A continued run applies its recorded edits again and checks the weights. An edit after which the model gives no
    probabilities is taken back and recorded as a failure, because later edits could not be judged.

    Args:
        job: the unit.
        stops: numbers of edits after which all cases so far are measured again.

    Raises:
        KnbenchError: a recorded edit, applied again, gives other weights.
    """
    lm = job.lm
    state = job.fingerprint
    earlier: list[EditRequest] = []
    with EditStack(lm) as stack:
        for index in job.unit.indices:
            case = job.case(index)
            stored = job.completed.states.get(case.id)
            if stored is None or not stored.failed:
                job.reporter.doing(f"{job.editor.name}: edit {index + 1}" + (", again" if stored else ""))
                attempt = job.compute_edit([case], earlier)
                job.check_unchanged(state, f"case '{case.id}'")
                failure, measured = attempt.failure, None
                if attempt.edit is not None:
                    try:
                        stack.push(attempt.edit)
                        try:
                            measured = measure_cases(job, [index]) if stored is None else None
                        except Exception:
                            stack.pop()
                            raise
                        earlier.append(case.request)
                        state = lm.fingerprint()
                    except Exception as error:
                        failure = failure_of("probe", error)
                if stored is None:
                    job.emit(OutputLine("records", job.record(index, attempt, measured, failure, state)))
                elif stored.weights != state:
                    raise KnbenchError(
                        f"{job.unit}: the edit of case '{case.id}', applied again, gives other weights; continue on "
                        "the same kind of machine with the same versions and threads, or choose another --output"
                    )
            if index + 1 in stops:
                _measure_checkpoint(job, index + 1)
    job.check_unchanged(job.fingerprint, "the last edit")


def _measure_checkpoint(job: Job, edits: int) -> None:
    """Measure all cases so far, and drift, on the model after ``edits`` edits."""
    missing = [i for i in range(edits) if not job.has("checkpoints", edits=edits, case_id=job.case(i).id)]
    if missing:
        job.reporter.doing(f"{job.editor.name}: all {edits} again")
        failure, measured = None, Measured({}, 0.0)
        try:
            # Recorded cases, too: the cases that share a batch affect rounding.
            measured = measure_cases(job, range(edits))
        except Exception as error:
            failure = failure_of("probe", error)
        for i in missing:
            after = measured.observations.get(i, [None] * len(job.case(i).probes))
            line = CheckpointLine(edits=edits, case_id=job.case(i).id, after=tuple(after), failure=failure)
            job.emit(OutputLine("checkpoints", line))
    job.measure_drift(edits=edits)
