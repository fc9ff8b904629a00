"""The three regimes: single edits, batches of edits, and sequential edits.

Measurements after an edit are always compared with the *unedited* model, also in sequential runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.records import CheckpointLine, DriftLine, Failure, Observation, Record
from ..core.schema import Case, EditRequest, digest
from ..editing import Editor, EditStack, State
from ..models.language_model import LanguageModel
from ..models.weights import WeightMonitor
from ..probing.base import Prober
from ..probing.baseline import Baseline
from ..probing.drift import DriftGauge
from ..probing.positions import max_positions
from ..results.io import CHECKPOINT, DRIFT_LINE, RECORD, LineKind
from .attempts import Attempt, edit_block, edit_cases
from .failures import MEASURING_FAILURES, failed_edit, failure_of
from .model_state import MAX_NAMES, ModelState
from .plan import CasesStarted, Completed, FileName, LinesWithdrawn, OutputLine, Unit
from .records import make_record

Output = OutputLine | CasesStarted | LinesWithdrawn
Emit = Callable[[Output], None]
"""Receives each line as soon as it is measured, the cases whose edit starts, and lines that turn out to be invalid."""
LINE_KINDS: Mapping[FileName, LineKind[Any]] = {"records": RECORD, "checkpoints": CHECKPOINT, "drift": DRIFT_LINE}


class ModelChangedError(KnbenchError):
    """An editor or a wrapper left the model changed."""


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
        weights: detects changes of the unedited weights.
        state: of the unedited model, apart from its weights.
        reporter: receives progress.
        drift: measures drift; None if drift is not measured.
        lost: failures of cases that ended their workers, by case id.
        alone: whether each case is edited on its own, because joint edits ended their workers.
    """

    unit: Unit
    editor: Editor[Any]
    prober: Prober
    baseline: Baseline
    completed: Completed
    emit: Emit
    seed: int
    weights: WeightMonitor
    state: ModelState
    reporter: Reporter
    drift: DriftGauge | None = None
    lost: Mapping[str, Failure] = field(default_factory=dict)
    alone: bool = False

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

    def compute_edit(
        self, cases: Sequence[Case], earlier: Sequence[EditRequest] | None = None, state: State | None = None
    ) -> Attempt:
        """Compute one edit for all of some cases; see :func:`~.attempts.edit_cases`."""
        self.started([case.id for case in cases])
        return edit_cases(self.editor, self.lm, cases, self.failures, self.seed, earlier, state)

    @cached_property
    def failures(self) -> Mapping[str, Failure]:
        """Failures that are known before the edit, by case id: of unreadable cases, and of those that ended workers."""
        unreadable = {
            case_id: failure_of("tokenise", ValueError(reason)) for case_id, reason in self.baseline.unreadable.items()
        }
        return {**self.lost, **unreadable}

    def started(self, case_ids: Sequence[str]) -> None:
        """Report that cases are edited or measured from now on. The loss of the worker is attributed to them."""
        pending = [i for i in case_ids if i not in self.failures and not self.has("records", case_id=i)]
        self.emit(CasesStarted(tuple(pending)))

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
            unedited_seconds=self.baseline.seconds.get(case.id),
        )

    def check_unchanged(
        self, weights: WeightMonitor, state: ModelState, after: str, touched: Collection[str] | None = None
    ) -> None:
        """Check that the weights have their expected values, and that the rest of the model has a state.

        Args:
            weights: the expected values.
            state: the expected state.
            after: the step before the check, for the message.
            touched: parameters to read completely in a quick check; None reads all parameters.

        Raises:
            ModelChangedError: they do not, because an editor or a wrapper changed them.
        """
        if changed := state.differences():
            raise ModelChangedError(
                f"editor '{self.editor.name}' left the model changed after {after}: {_first_names(changed)}; restore "
                "hooks, modes, buffers and gradients before edit() returns (see: knbench check-editor "
                f"{self.editor.name})"
            )
        if changed := weights.all_changed() if touched is None else weights.changed(touched):
            raise ModelChangedError(
                f"editor '{self.editor.name}' left the model's weights changed after {after}: {_first_names(changed)}; "
                "an editor must return its change as an Edit and leave the model as it was"
            )

    @contextlib.contextmanager
    def verified(self) -> Iterator[Job]:
        """Yield a job whose weights are all read at the end of the ``with`` block.

        The quick check after each case does not read all weights. If the model is found changed, the lines that the job
        emitted are withdrawn, because the change may be older than its detection.

        Raises:
            ModelChangedError: the model is changed.
        """
        emitted: list[OutputLine] = []

        def emit(output: Output) -> None:
            if isinstance(output, OutputLine):
                emitted.append(output)
            self.emit(output)

        try:
            yield dataclasses.replace(self, emit=emit)
            self.check_unchanged(self.weights, self.state, str(self.unit))
        except ModelChangedError:
            keys = {file: {LINE_KINDS[file].key_of(o.line) for o in emitted if o.file == file} for file in LINE_KINDS}
            self.emit(LinesWithdrawn(keys))
            raise

    def measure_drift(self, **key: Any) -> None:
        """Measure drift on the model as it is and emit the line, unless it exists.

        A model without finite probabilities gives a line with a failure. The measurement of the case stays valid.

        Args:
            key: ``edits``, ``case_id`` or ``block``.

        Raises:
            KnbenchError: the measurement changed the weights, or a text exceeds the model's positions.
        """
        if self.drift is None or self.has("drift", **key):
            return
        self.reporter.doing(f"{self.editor.name}: drift")
        try:
            line = DriftLine(**key, tasks=self.drift.measure(), failure=None)
        except IndexError as error:  # models with learned positions; rotary models read longer texts
            limit = max_positions(self.lm)
            raise KnbenchError(
                f"drift cannot be measured on '{self.lm.name}': {error}; use texts within its {limit} positions"
            ) from error
        except (*MEASURING_FAILURES, OverflowError) as error:
            line = DriftLine(**key, tasks=(), failure=failed_edit(self.editor.name, "probe", error))
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


class PrefixError(ValueError):
    """The prefix of an edit makes a case unreadable."""


EDIT_FAILURES = (*MEASURING_FAILURES, PrefixError)
"""Errors of applying an edit and measuring cases that the edit causes."""


def measure_cases(job: Job, indices: Sequence[int]) -> Measured:
    """Measure the probes of cases on the model as it is, in shared batches.

    Raises:
        PrefixError: the model has a prompt prefix with which a case cannot be tokenised or exceeds the positions.
    """
    cases = {i: job.case(i) for i in indices if job.case(i).id not in job.baseline.unreadable}
    if job.lm.prompt_prefix or job.lm.recall:
        for case in cases.values():
            try:
                job.prober.check(case)
            except ValueError as error:
                raise PrefixError(f"with the edit's prefix, {error}") from error
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
            cases = {i: job.case(i) for i in chunk}
            attempts = edit_block(job.editor, job.lm, cases, job.failures, job.seed, job.started, alone=job.alone)
            for index in pending:
                job.emit(OutputLine("records", run_case(job, index, attempts[index])))


def run_case(job: Job, index: int, attempt: Attempt) -> Record:
    """Apply an edit, measure, restore, and return the record. An error that the edit causes is recorded as a failure.

    Raises:
        KnbenchError: the edit does not fit the model, or the model was not restored.
    """
    job.started([job.case(index).id])
    measured, failure = _measure_applied(job, attempt, [index], {"case_id": job.case(index).id})
    job.check_unchanged(job.weights, job.state, f"case '{job.case(index).id}'", touched_by(attempt))
    return job.record(index, attempt, measured, failure)


def touched_by(attempt: Attempt) -> Collection[str]:
    """Return the names of the parameters that an edit replaces."""
    return attempt.edit.weights.keys() if attempt.edit is not None else ()


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
        job.check_unchanged(job.weights, job.state, f"batch {number}", touched_by(attempt))
        share = dataclasses.replace(attempt, seconds=attempt.seconds and attempt.seconds / len(chunk))
        for index in pending:
            case_id = job.case(index).id
            case_failure = job.failures[case_id] if case_id in job.baseline.unreadable else failure
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
        except EDIT_FAILURES as error:
            return None, failed_edit(job.editor.name, "probe", error)
        except KnbenchError as error:
            raise KnbenchError(f"editor '{job.editor.name}', {_place(job, indices)}: {error}") from error
        # Outside of the try: a full disk, or weights that lm-eval changed, are not failures of the edit.
        job.measure_drift(**drift_key)
        return measured, None


def _place(job: Job, indices: Sequence[int]) -> str:
    ids = [job.case(i).id for i in indices]
    return f"case '{ids[0]}'" if len(ids) == 1 else f"cases '{ids[0]}' to '{ids[-1]}'"


def run_sequential(job: Job, stops: Sequence[int]) -> None:
    """Apply the edits one after the other. Measure each right after it, and all so far again at the checkpoints.

    A continued run applies its recorded edits again and checks the weights. An edit after which the model gives no
    probabilities is taken back and recorded as a failure, because later edits could not be judged.

    Args:
        job: the unit.
        stops: numbers of edits after which all cases so far are measured again.

    Raises:
        KnbenchError: a recorded edit, applied again, gives other weights or another state; or an edit does not fit the
            model.
    """
    lm = job.lm
    weights, model_state, reached = job.weights.copy(), job.state, job.weights.fingerprint
    earlier: list[EditRequest] = []
    with EditStack(lm) as stack:
        for index in job.unit.indices:
            case = job.case(index)
            stored = job.completed.states.get(case.id)
            if stored is None or not stored.failed:
                job.reporter.doing(f"{job.editor.name}: edit {index + 1}" + (", again" if stored else ""))
                attempt = job.compute_edit([case], earlier, stack.state)
                job.check_unchanged(weights, model_state, f"case '{case.id}'", touched_by(attempt))
                failure, measured = attempt.failure, None
                if attempt.edit is not None:
                    try:
                        stack.push(attempt.edit)
                        try:
                            measured = measure_cases(job, [index]) if stored is None else None
                        except EDIT_FAILURES:
                            stack.pop()
                            raise
                        earlier.extend(case.requests)
                        weights.accept(touched_by(attempt))
                        model_state, reached = ModelState(lm), weights.fingerprint
                        if digests := stack.digests():
                            reached = digest([reached, *digests])
                    except EDIT_FAILURES as error:
                        failure = failed_edit(job.editor.name, "probe", error)
                    except KnbenchError as error:
                        raise KnbenchError(f"editor '{job.editor.name}', case '{case.id}': {error}") from error
                if stored is None:
                    job.emit(OutputLine("records", job.record(index, attempt, measured, failure, reached)))
                elif stored.weights != reached:
                    raise KnbenchError(
                        f"{job.unit}: the edit of case '{case.id}', applied again, gives other weights or another "
                        "state; continue on the same kind of machine with the same versions and threads, or choose "
                        "another --output"
                    )
            if index + 1 in stops:
                _measure_checkpoint(job, index + 1)
    job.check_unchanged(job.weights, job.state, "the last edit")


def _measure_checkpoint(job: Job, edits: int) -> None:
    """Measure all cases so far, and drift, on the model after ``edits`` edits."""
    missing = [i for i in range(edits) if not job.has("checkpoints", edits=edits, case_id=job.case(i).id)]
    if missing:
        job.reporter.doing(f"{job.editor.name}: all {edits} again")
        failure, measured = None, Measured({}, 0.0)
        try:
            # Recorded cases, too: the cases that share a batch affect rounding.
            measured = measure_cases(job, range(edits))
        except EDIT_FAILURES as error:
            failure = failed_edit(job.editor.name, "probe", error)
        for i in missing:
            after = measured.observations.get(i, [None] * len(job.case(i).probes))
            line = CheckpointLine(edits=edits, case_id=job.case(i).id, after=tuple(after), failure=failure)
            job.emit(OutputLine("checkpoints", line))
    job.measure_drift(edits=edits)


def _first_names(names: Sequence[str]) -> str:
    """Return names for a message.

    >>> _first_names(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
