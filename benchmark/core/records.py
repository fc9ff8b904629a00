"""Types of the JSON lines that a run writes: records, checkpoint lines and drift lines.

Each type mirrors one JSON Schema in ``benchmark/results/schemas``; a test keeps the two equal. A field without a
default is always written. A field with a default is left out of the JSON while it has that default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from .schema import SLOT, EditRequest, Probe, Support

Phase = Literal["tokenise", "edit", "probe"]


class JsonStruct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all types that are stored as JSON."""


T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a stored type as plain JSON values, its keys in the order of its fields."""
    return msgspec.to_builtins(value)


def from_json(value: Any, kind: type[T]) -> T:
    """Build a stored type from plain JSON values.

    Raises:
        ValueError: the value does not have the type's fields; names the place.
    """
    return msgspec.convert(value, kind)


class Answer(JsonStruct, frozen=True):
    """Scores of one answer, token by token. Each token follows the true previous ones (teacher forcing).

    Attributes:
        logprob: sum of ``token_logprobs``, in nats.
        token_logprobs: log-probability of each token, in nats.
        ranks: number of tokens that the model prefers to each token: more probable ones, and ``argmax`` if it is equal.
        argmax: id of the most probable token at each position.
    """

    logprob: float
    token_logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    argmax: tuple[int, ...]


class Observation(JsonStruct, frozen=True):
    """Measurements of one probe on one model.

    An observation of a ``generation`` probe has only ``text``, and one of a ``passages`` probe only ``kl`` and ``js``.
    Others have ``target`` and, if the probe has a rival, ``rival``. The next-token fields and ``generated`` belong to
    completions.

    Attributes:
        target_answer: scores of the probe's target; read it through :attr:`target`.
        rival_answer: scores of the probe's rival; read it through :attr:`rival`.
        top: the most probable next token as text.
        top_id: its id.
        top_logprob: its log-probability, in nats.
        generated: greedy continuation of the prompt.
        kl: KL(unedited || this model) of the next-token distribution, in nats; probes with ``expect="unchanged"`` only.
            For passages, the mean over their tokens.
        js: Jensen-Shannon divergence of the same distributions, in nats, at most ln 2; None in results of version 0.1.
        text: sampled continuation of a ``generation`` probe.
        recalled: text that the edit recalled for this prompt and put before it; None without one.
    """

    target_answer: Answer | None = msgspec.field(default=None, name="target")
    rival_answer: Answer | None = msgspec.field(default=None, name="rival")
    top: str | None = None
    top_id: int | None = None
    top_logprob: float | None = None
    generated: str | None = None
    kl: float | None = None
    js: float | None = None
    text: str | None = None
    recalled: str | None = None

    @property
    def has_answers(self) -> bool:
        """Whether the target, and the rival of a probe that has one, were scored."""
        return self.target_answer is not None

    @property
    def target(self) -> Answer:
        """Scores of the target.

        Raises:
            ValueError: the observation is of a ``generation`` or ``passages`` probe.
        """
        if self.target_answer is None:
            raise ValueError("the observation has no target")
        return self.target_answer

    @property
    def rival(self) -> Answer:
        """Scores of the rival.

        Raises:
            ValueError: the observation is of a ``generation`` probe or of a probe without a rival.
        """
        if self.rival_answer is None:
            raise ValueError("the observation has no rival")
        return self.rival_answer

    @property
    def prefers_target(self) -> bool:
        """Whether the target is more probable than the rival."""
        return self.target.logprob > self.rival.logprob


@dataclass(frozen=True, kw_only=True)
class ProbeRecord(Probe):
    """A probe with its measurements.

    Attributes:
        before: on the unedited model; None if the case could not be tokenised.
        after: on the edited model; None if the edit failed.
    """

    before: Observation | None
    after: Observation | None


class Failure(JsonStruct, frozen=True):
    """An error that was recorded instead of a measurement.

    Attributes:
        phase: the step that raised it.
        type: class name of the exception.
        message: first line of its message.
        traceback: the innermost stack frames, one ``file:line in function`` per line, without folders.
    """

    phase: Phase
    type: str
    message: str
    traceback: str | None = None


class SizeRecord(JsonStruct, frozen=True):
    """Size of an edit.

    Attributes:
        weights: bytes of the replaced parameters.
        memory: bytes kept outside of the weights, the prefix included.
        state: bytes of the state that the method hands to the next edit and that the memory does not contain.
        entries: number of facts kept outside of the weights.
        recall: bytes of texts that are put before the prompts that they fit, and of their embeddings.
    """

    weights: int
    memory: int
    state: int
    entries: int
    recall: int = 0


class EditRecord(JsonStruct, frozen=True):
    """Description of an applied edit.

    Attributes:
        parameters: names of the changed parameters, sorted.
        parameters_touched: number of scalar weights in them.
        modules: names of the modules whose output is changed, sorted.
        prefix: text put before every prompt.
        diagnostics: JSON values from the editor.
        state: fingerprint after the edit of the weights, and of the state that the method hands to the next edit;
            sequential runs only.
        size: size of the edit; None if it failed, and in records of version 0.1.
    """

    parameters: tuple[str, ...]
    parameters_touched: int
    modules: tuple[str, ...]
    prefix: str
    diagnostics: dict[str, Any]
    state: str | None = None
    size: SizeRecord | None = None


class Timings(JsonStruct, frozen=True):
    """Cost of one case; None where the step did not run.

    Attributes:
        edit_seconds: time to compute the edit.
        probe_seconds: time to measure the case after the edit.
        peak_memory_mb: highest memory use while the edit was computed, in MiB.
        unedited_seconds: time to measure the case on the unedited model; recorded for edits that keep something beside
            the weights, which make each query slower.
    """

    edit_seconds: float | None
    probe_seconds: float | None
    peak_memory_mb: float | None
    unedited_seconds: float | None = None


class RequestRecord(JsonStruct, frozen=True):
    """The stored part of an :class:`~knbench.benchmark.core.schema.EditRequest`."""

    prompt: str
    subject: str
    target_new: str
    target_true: str
    support: tuple[Support, ...]

    @classmethod
    def of(cls, request: EditRequest) -> RequestRecord:
        """Return the stored part of a request."""
        return cls(**{name: getattr(request, name) for name in cls.__struct_fields__})

    @property
    def text(self) -> str:
        """The prompt with its subject."""
        return self.prompt.replace(SLOT, self.subject, 1)


class Record(JsonStruct, frozen=True):
    """One case of a run: the request, the edit, and every probe before and after the edit.

    Attributes:
        index: position of the case in the run.
        case_id: id of the case in its task.
        source: origin of the case's data.
        failure: the error that prevented edit or measurement, or None.
        further: other requests that were edited together with ``request``; None without any.
    """

    index: int
    case_id: str
    source: str
    request: RequestRecord
    edit: EditRecord
    probes: tuple[ProbeRecord, ...]
    failure: Failure | None
    timings: Timings
    further: tuple[RequestRecord, ...] | None = None


class CheckpointLine(JsonStruct, frozen=True):
    """One case of a sequential run, measured again after ``edits`` edits.

    Attributes:
        edits: number of edits that were made.
        case_id: id of the case.
        after: one observation per probe of the case, in their order.
        failure: the error that prevented the measurement, or None.
    """

    edits: int
    case_id: str
    after: tuple[Observation | None, ...]
    failure: Failure | None


class DriftSamples(JsonStruct, frozen=True):
    """Values of one drift task, one per sample.

    Attributes:
        task: name of the task.
        metric: ``nll`` in nats per token, or a metric of lm-eval.
    """

    task: str
    metric: str
    higher_is_better: bool
    values: tuple[float, ...]


class DriftLine(JsonStruct, frozen=True, kw_only=True):
    """One drift measurement. Exactly one of ``edits``, ``case_id`` and ``block`` says when it was taken.

    Attributes:
        edits: number of sequential edits before it; 0 is the unedited model.
        case_id: the single edit that was applied.
        block: the batch of edits that was applied.
        tasks: the measured tasks; empty after a failure.
    """

    edits: int | None = None
    case_id: str | None = None
    block: int | None = None
    tasks: tuple[DriftSamples, ...]
    failure: Failure | None


Line = Record | CheckpointLine | DriftLine | Mapping[str, Any]
"""A line of one of a run folder's files; parts of analyses are plain mappings."""
