"""Types of the JSON documents of a run: the manifest, written before the first case, and the result.

Each type mirrors a part of ``benchmark/results/schemas/result.schema.json``; a test keeps the two equal.
"""

from __future__ import annotations

from typing import Any, Literal

from .extra_probes import ExtraProbes
from .records import JsonStruct
from .schema import TaskKind
from .settings import Regime
from .split import Split

SCHEMA_VERSION = 1

IntervalMethod = Literal["wilson", "wilson-effective", "t", "bca", "percentile", "delta", "none"]


class EditorCard(JsonStruct, frozen=True):
    """An editing method as it was run.

    Attributes:
        config: hyper-parameters by name.
        config_source: where they come from.
        prepared: JSON values that the method computed once for the model.
        kind: what the method changes, or ``control``; None in results of version 0.1.
        replays: whether a sequential edit trains on the facts of earlier edits again.
        trains: whether the method was trained on tuning cases before its first edit.
        needs_subject: whether the method cannot edit a request without a subject; False also in earlier results, which
            do not say it.
        training_seconds: seconds that the training took on the machine that did it; None where there was none.
    """

    name: str
    summary: str
    paper: str
    config: dict[str, Any]
    config_source: str
    prepared: dict[str, Any]
    kind: Literal["weights", "context", "memory", "control"] | None = None
    replays: bool = False
    trains: bool = False
    needs_subject: bool = False
    training_seconds: float | None = None


class ModelCard(JsonStruct, frozen=True):
    """Identity of a model.

    Attributes:
        revision: version of the weights, or None when it is unknown.
        weight_hash: sha256 over names and values of all parameters.
        architecture: class name in transformers.
        layers: number of transformer blocks.
        width: hidden size.
        vocabulary: size of the vocabulary.
        parameters: number of scalar weights.
        tokenizer_hash: sha256 of the tokenizer, or None in results of version 0.1.
        config_hash: sha256 of the configuration's computing part, or None in results of version 0.1.
        unused_tensors: tensors of the weights file that the architecture does not have, or None.
    """

    name: str
    revision: str | None
    weight_hash: str
    architecture: str
    layers: int
    width: int
    vocabulary: int
    objective: Literal["causal", "masked"]
    parameters: int
    dtype: str
    tokenizer_hash: str | None = None
    config_hash: str | None = None
    unused_tensors: tuple[str, ...] | None = None


class TaskCard(JsonStruct, frozen=True):
    """Identity and provenance of a task.

    Attributes:
        content_hash: sha256 over all cases and minimal pairs.
        cases_total: number of cases in the task.
    """

    name: str
    version: int
    kind: TaskKind
    title: str
    description: str
    licence: str
    citation: str
    source: str
    relation: str
    criteria: tuple[str, ...]
    content_hash: str
    cases_total: int


class RunProtocol(JsonStruct, frozen=True):
    """How the numbers of a result were taken; see :class:`~.settings.RunSettings` for the settings.

    Attributes:
        cases: number of cases that were run.
        bos: the BOS policy; ``bos_prepended`` is its outcome for the model.
        drift: description of the drift tasks, or None.
        integrity: name of the set of passages, or None in results of version 0.1.
        chat_template: digest of the text that the chat template puts around each prompt; None without a template.
        probes: probes that the run added, see :mod:`.extra_probes`; None without any.
    """

    regime: Regime
    batch_edits: int | None
    checkpoints: tuple[int, ...]
    split: Split
    subset: Literal["lite"] | None
    cases: int
    limit: int | None
    known_only: bool
    known_by: str | None
    bos: str
    bos_prepended: bool
    new_tokens: int
    fluency_tokens: int
    drift: dict[str, Any] | None
    batch_size: int
    integrity: str | None = None
    chat_template: str | None = None
    probes: tuple[ExtraProbes, ...] | None = None


class Manifest(JsonStruct, frozen=True):
    """Everything that is settled before the first case of a run.

    Attributes:
        environment: versions, hardware and the command.
    """

    schema_version: int
    benchmark_version: str
    model: ModelCard
    seed: int
    environment: dict[str, Any]
    editor: EditorCard
    task: TaskCard
    protocol: RunProtocol


class RecordsInfo(JsonStruct, frozen=True):
    """The records file that a result was computed from.

    Attributes:
        failed: number of failed edits.
        failures: their number by exception type.
    """

    file: str
    sha256: str
    cases: int
    failed: int
    failures: dict[str, int]


class Cost(JsonStruct, frozen=True):
    """Cost of the edits of a result.

    Attributes:
        edit_seconds: median seconds of an edit; None where nothing was measured.
        probe_seconds: median seconds of the probes of a case after its edit, or None.
        peak_memory_mb: peak memory in MiB, or None.
        bytes_per_fact: bytes beside the weights per fact that is kept there, after the last edit; None without facts
            beside the weights, and in earlier results.
        seconds_per_query: median seconds that a probe takes longer than on the unedited model, for methods beside the
            weights; None for others, and in earlier results.
    """

    edit_seconds: float | None
    probe_seconds: float | None
    peak_memory_mb: float | None
    bytes_per_fact: float | None = None
    seconds_per_query: float | None = None


class SummaryRow(JsonStruct, frozen=True):
    """One criterion, or composite score, by one measure.

    Attributes:
        low: lower end of the 95% interval, or None.
        high: upper end of the 95% interval, or None.
        interval: method of the interval.
        cases: number of cases that the value is a mean over.
        probes: number of probes in these cases.
        parts: criteria that a composite score consists of.
    """

    criterion: str
    measure: str
    value: float
    low: float | None
    high: float | None
    interval: IntervalMethod
    cases: int
    probes: int
    parts: tuple[str, ...] | None = None


class EditScore(JsonStruct, frozen=True):
    """The edit score of a task, between 0 and 1, and its parts; see :mod:`~..scoring.edit_score`.

    Attributes:
        value: gain times preservation.
        low: lower end of the 95% interval, or None.
        high: upper end of the 95% interval, or None.
        gain: mean over families.
        preservation: geometric mean over criteria.
        families: gain by family of target criteria.
        kept: preservation by criterion.
        without_headroom: target criteria that the unedited model already fulfils, which are left out.
        cases: number of cases.
    """

    value: float
    low: float | None
    high: float | None
    gain: float
    preservation: float
    families: dict[str, float]
    kept: dict[str, float]
    without_headroom: tuple[str, ...]
    cases: int


class EffectRow(JsonStruct, frozen=True):
    """Mean probability of a word, or of all words in a role, before and after edits, with its tests."""

    criterion: str
    role: Literal["target", "rival"]
    word: str | None
    cases: int
    before: float
    after: float
    relative_change: float
    p_paired: float | None
    p_unpaired: float | None
    p_adjusted: float | None


class CheckpointsInfo(JsonStruct, frozen=True):
    """The checkpoints file that a sequential result was computed from."""

    file: str
    sha256: str
    lines: int


class CurvePoint(JsonStruct, frozen=True):
    """Summaries over the first ``edits`` cases of a sequential run.

    Attributes:
        immediate: each case right after its own edit.
        now: all of them after the last of the ``edits``.
        edit_score: of ``now``; None where it is undefined.
    """

    edits: int
    immediate: tuple[SummaryRow, ...]
    now: tuple[SummaryRow, ...]
    edit_score: EditScore | None = None


class DriftPoint(JsonStruct, frozen=True):
    """Difference of a drift task to the unedited model.

    Attributes:
        edits: number of sequential edits; None for the mean over single edits or batches.
        over: number of samples or edits that the mean is over.
    """

    edits: int | None
    difference: float
    low: float | None
    high: float | None
    interval: IntervalMethod
    over: int


class DriftTask(JsonStruct, frozen=True):
    """One drift task of a result.

    Attributes:
        before: mean over samples on the unedited model.
    """

    task: str
    metric: str
    higher_is_better: bool
    samples: int
    before: float
    points: tuple[DriftPoint, ...]


class DriftInfo(JsonStruct, frozen=True):
    """Drift of a result, with the file that it was computed from.

    Attributes:
        failed: number of measurements that failed.
    """

    file: str
    sha256: str
    failed: int
    tasks: tuple[DriftTask, ...]


class Result(Manifest, frozen=True, kw_only=True):
    """One editing method on one model and one task.

    Attributes:
        summary: of all cases; in a sequential run, after the last edit.
        effect: of linguistic tasks, how edits change the probability of words.
        checkpoints: of sequential runs.
        immediate: of sequential runs, the summary of each case right after its own edit.
        curve: of sequential runs, summaries at every checkpoint.
        drift: where it was measured.
        edit_score: of ``summary``; None where it is undefined, and in results of version 0.1.
        immediate_edit_score: of ``immediate``.
    """

    records: RecordsInfo
    cost: Cost
    summary: tuple[SummaryRow, ...]
    effect: tuple[EffectRow, ...] | None = None
    checkpoints: CheckpointsInfo | None = None
    immediate: tuple[SummaryRow, ...] | None = None
    curve: tuple[CurvePoint, ...] | None = None
    drift: DriftInfo | None = None
    edit_score: EditScore | None = None
    immediate_edit_score: EditScore | None = None
