"""Measures drawn cases of a stored result again, with the model and the editor that its manifest names.

What is measured depends on the regime:

- of single edits, the drawn cases;
- of batches, all cases of the batches that contain a drawn case;
- of sequential edits, the whole sequence with its checkpoints, because the score is taken after the last edit.

Drift is measured for the same edits, and on the unedited model. Drawn single edits are first measured by themselves. If
a value differs, they are measured in the batches of the original run, which affect rounding and the seeds of edits that
are computed together. If a token or text still differs, the measurement is repeated with noise on the logits, which
shows which tokens are almost equally probable.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.documents import Result, RunProtocol
from ..core.errors import KnbenchError
from ..core.local_paths import public_value
from ..core.printable import printable
from ..core.progress import Reporter
from ..core.records import Observation, to_json
from ..core.schema import Case, Probe, Task, derived_seed
from ..core.settings import DriftSettings, RunSettings
from ..editing import Editor, build_editor, editor_class
from ..models.language_model import LanguageModel
from ..probing.base import Position, Prober, Reference
from ..probing.prober import make_prober
from ..results.repetition import RepeatedLines, differences
from ..results.rescoring import read_run_lines
from ..results.runs import Run
from ..scoring.summary import in_order
from .evaluator import Evaluator
from .plan import Completed, OutputLine, Unit, WorkItem, covered_blocks, unit_size
from .provenance import describe_model, describe_task

PERTURBATIONS = 8
NOISE = 0.02
"""Standard deviation of the noise on logits, in nats, that shows which tokens are almost equally probable."""
_MODEL_FIELDS = (
    "weight_hash",
    "tokenizer_hash",
    "config_hash",
    "architecture",
    "objective",
    "dtype",
    "layers",
    "width",
    "vocabulary",
    "parameters",
)


@dataclass(frozen=True)
class Verification:
    """Outcome of the verification of a stored result.

    Attributes:
        run: the stored result.
        case_ids: ids of the cases that were measured again, in the order of the run.
        differences: one line for each case, checkpoint or drift measurement that differs.
    """

    run: Run
    case_ids: Sequence[str]
    differences: Sequence[str]

    @property
    def whole(self) -> bool:
        """Whether all cases were measured again."""
        return len(self.case_ids) == self.run.result.records.cases


def draw_cases(result: Result, case_ids: Sequence[str], cases: int, seed: int) -> list[str]:
    """Draw cases of a result. Different results have different draws.

    Args:
        result: the result.
        case_ids: ids of all of its cases.
        cases: number of cases to draw; all if there are fewer.
        seed: seed of the draw.
    """
    key = derived_seed(seed, result.editor.name, result.model.weight_hash, result.task.name, result.records.sha256)
    return random.Random(key).sample(list(case_ids), min(cases, len(case_ids)))


def model_difference(lm: LanguageModel, result: Result) -> str | None:
    """Return in which way a model is not that of a result, or None if it is.

    Names and revisions are not compared: the hashes identify a model.
    """
    here = describe_model(lm)
    for name in _MODEL_FIELDS:
        stored, found = getattr(result.model, name), getattr(here, name)
        if stored is not None and stored != found:
            return f"the model '{lm.name}' has {name} {_short(found)}, the result has {_short(stored)}"
    return None


def verify(
    run: Run,
    lm: LanguageModel,
    task: Task,
    cases: int,
    seed: int,
    reporter: Reporter | None = None,
    case_ids: Sequence[str] | None = None,
) -> Verification:
    """Measure drawn cases of a stored result again and compare every observation.

    Args:
        run: the stored result.
        lm: the model that it names.
        task: the task that it names.
        cases: number of cases to draw.
        seed: seed of the draw.
        reporter: receives progress.
        case_ids: ids of the cases to measure instead of drawn ones.

    Raises:
        KnbenchError: the model, the task, the editor or the protocol is not that of the result, or the method fails in
            a way that no record can hold. The result is then neither confirmed nor refuted.
    """
    result, reporter = run.result, reporter or Reporter()
    _check_identity(result, lm, task)
    stored = read_run_lines(result, run.path)
    records = in_order(stored.records)
    unknown = {record.case_id for record in records} - {case.id for case in task.cases}
    if unknown:
        raise KnbenchError(f"case '{printable(min(unknown))}' is not in task '{task.name}'")
    settings = _settings_of(result, lm)
    repetition = _Repetition(result, [record.case_id for record in records], settings, lm, task, reporter)
    drawn = draw_cases(result, repetition.case_ids, cases, seed) if case_ids is None else list(case_ids)
    lines = repetition.measure(drawn, None, exact=False)
    found = differences(result, stored, lines, {})
    if found and result.protocol.regime == "single":
        lines = repetition.measure(drawn, None, exact=True)
        found = differences(result, stored, lines, {})
    if any(difference.may_be_tied for difference in found):
        prober = PerturbedProber(repetition.make_prober())
        lines = repetition.measure(drawn, prober, exact=True)
        found = differences(result, stored, lines, prober.alternatives)
    measured = [case_id for case_id in repetition.case_ids if case_id in lines.records]
    return Verification(run, measured, [printable(difference.text) for difference in found])


class PerturbedProber(Prober):
    """Measures probes like another prober, and again with noise on the logits.

    Attributes:
        alternatives: by observation, the noisy observations of the same probe.
    """

    def __init__(self, inner: Prober) -> None:
        super().__init__(
            inner.lm, batch_size=inner.batch_size, new_tokens=inner.new_tokens, free_tokens=inner.free_tokens
        )
        self._inner = inner
        self.alternatives: dict[Observation, list[Observation]] = {}

    def check(self, case: Case) -> None:
        """Check that the model's tokenizer can encode a case."""
        self._inner.check(case)

    def reference_key(self, probe: Probe) -> Position:
        """Return the key of the distribution that the divergences of a probe compare."""
        return self._inner.reference_key(probe)

    def logprob_bounds(self, prompts: Sequence[str], answers: Sequence[str]) -> list[list[float]]:
        """Return upper bounds of the log-probabilities of answers."""
        return self._inner.logprob_bounds(prompts, answers)

    def _observe(
        self, probes: Sequence[Probe], save_to: Reference | None, compare_to: Reference | None
    ) -> list[Observation]:
        observed = self._inner.observe(probes, save_to=save_to, compare_to=compare_to)
        for number in range(PERTURBATIONS):
            with noisy_logits(self.lm, NOISE, number):
                noisy = self._inner.observe(probes)
            for observation, other in zip(observed, noisy, strict=True):
                self.alternatives.setdefault(observation, []).append(other)
        return observed


@contextmanager
def noisy_logits(lm: LanguageModel, scale: float, seed: int) -> Iterator[None]:
    """Add noise to the output of the model's head: ``with noisy_logits(lm, 0.02, 0): ...``.

    Args:
        lm: the model.
        scale: standard deviation, in nats.
        seed: seed of the noise. The global random state is not used.
    """
    generator = torch.Generator().manual_seed(seed)

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator) * scale
        return output + noise.to(output.device, output.dtype)

    handle = lm.head.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class _Repetition:
    """Measures cases of a result again."""

    result: Result
    case_ids: Sequence[str]
    settings: RunSettings
    lm: LanguageModel
    task: Task
    reporter: Reporter

    def make_prober(self) -> Prober:
        """Return the usual prober of the run."""
        s = self.settings
        return make_prober(self.lm, batch_size=s.batch_size, new_tokens=s.new_tokens, free_tokens=s.fluency_tokens)

    def measure(self, drawn: Sequence[str], prober: Prober | None, *, exact: bool) -> RepeatedLines:
        """Measure the drawn cases, and those that are edited with them.

        Args:
            drawn: ids of the drawn cases.
            prober: measures probes; None for the usual one.
            exact: whether drawn single edits are computed and measured in the batches of the original run.
        """
        name = self.result.editor.name
        classes: list[type[Editor[Any]]] = [editor_class(name)]
        evaluator = Evaluator(self.lm, classes, [self.task], self.settings, self.reporter, prober)
        _check_editor(evaluator, self.result)
        _check_protocol(evaluator.protocol(len(self.case_ids)), self.result.protocol)
        lines = RepeatedLines()

        def emit(output: object) -> None:
            if isinstance(output, OutputLine):  # other messages are for the workers of a run
                lines.add(output.line)

        for item in self._items(evaluator.joint_batch_size(name), drawn, exact=exact):
            evaluator.measure(item, emit)
        return lines

    def _items(self, joint: int, drawn: Sequence[str], *, exact: bool) -> Iterator[WorkItem]:
        if self.settings.regime == "single" and not exact:
            unit = Unit(self.result.editor.name, self.task.name, 0, len(drawn))
            yield WorkItem(unit, dict(enumerate(drawn)), Completed({}))
            return
        for unit, skipped in self._units(joint, drawn):
            indices = covered_blocks(unit.indices, len(self.case_ids))
            ids = {index: self.case_ids[index] for index in indices}
            yield WorkItem(unit, ids, Completed({"records": skipped}))

    def _units(self, joint: int, drawn: Sequence[str]) -> Iterator[tuple[Unit, set[str]]]:
        """Yield the units of the run that contain drawn cases, with the cases that need no measurement."""
        ids, wanted = self.case_ids, set(drawn)
        batch = self.settings.batch_edits
        size = unit_size(len(ids), (self.settings.sequential and len(ids)) or batch or joint)
        for first in range(0, len(ids), size):
            unit = Unit(self.result.editor.name, self.task.name, first, min(first + size, len(ids)))
            members = [ids[index] for index in unit.indices]
            kept = wanted
            if self.settings.sequential:
                kept = set(members)
            elif batch:
                chunks = [members[start : start + batch] for start in range(0, len(members), batch)]
                kept = {case_id for chunk in chunks if wanted & set(chunk) for case_id in chunk}
            if kept & set(members) or (first == 0 and self.settings.drift):
                yield unit, set(members) - kept


def _check_identity(result: Result, lm: LanguageModel, task: Task) -> None:
    """Check that the model and the task are those of a result.

    Raises:
        KnbenchError: one is not.
    """
    if difference := model_difference(lm, result):
        raise KnbenchError(f"{difference}; pass the model that was edited with --model")
    here = describe_task(task)
    if (here.version, here.content_hash) != (result.task.version, result.task.content_hash):
        raise KnbenchError(
            f"task '{task.name}' is version {here.version} here with content {_short(here.content_hash)}, the result "
            f"has version {result.task.version} with content {_short(result.task.content_hash)}; run the method again"
        )


def _settings_of(result: Result, lm: LanguageModel) -> RunSettings:
    """Return the settings of the run that gave a result."""
    protocol = result.protocol
    drift = protocol.drift and DriftSettings(tuple(protocol.drift["tasks"]), protocol.drift["limit"])
    return RunSettings(
        split=protocol.split,
        subset=protocol.subset or "full",
        limit=protocol.limit,
        seed=result.seed,
        known_only=protocol.known_only,
        known_by=protocol.known_by or "success",
        batch_size=protocol.batch_size,
        new_tokens=protocol.new_tokens,
        fluency_tokens=protocol.fluency_tokens,
        apply_chat_template=protocol.chat_template is not None,
        probes=protocol.probes or (),
        batch_edits=protocol.batch_edits,
        sequential=protocol.cases if protocol.regime == "sequential" else None,
        checkpoints=protocol.checkpoints if protocol.regime == "sequential" else None,
        drift=drift or None,
        editor_args={result.editor.name: _overrides(result, lm)},
    )


def _overrides(result: Result, lm: LanguageModel) -> dict[str, str]:
    """Return the hyper-parameters of a result that differ from those that its editor has for the model, as text."""
    editor, _ = build_editor(editor_class(result.editor.name), lm, None, result.seed)
    usual = public_value(to_json(dataclasses.asdict(editor.config)))
    stored = to_json(result.editor.config)
    return {name: _text(value) for name, value in stored.items() if name not in usual or usual[name] != value}


def _text(value: Any) -> str:
    """Return a hyper-parameter as it is written on the command line.

    >>> _text([4, 5]), _text(None), _text(True), _text(0.5)
    ('4|5', 'none', 'true', '0.5')
    """
    if isinstance(value, list | tuple):
        return "|".join(map(_text, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def _check_editor(evaluator: Evaluator, result: Result) -> None:
    """Check that an editor has the hyper-parameters of a result. Prepared values act on the observations.

    Raises:
        KnbenchError: it does not.
    """
    here, stored = evaluator.card(result.editor.name), result.editor
    first, second = to_json(stored.config), to_json(here.config)
    for name in sorted({*first, *second}):
        if name not in first or name not in second or first[name] != second[name]:
            values = (_short(config[name]) if name in config else "missing" for config in (first, second))
            raise KnbenchError("hyper-parameter {} is {} in the result and {} here".format(name, *values))
    if (stored.kind or here.kind, stored.replays) != (here.kind, here.replays):
        raise KnbenchError(
            f"the editor is of kind '{here.kind}' (replays: {here.replays}) here, and of kind '{stored.kind}' "
            f"(replays: {stored.replays}) in the result"
        )


def _check_protocol(here: RunProtocol, stored: RunProtocol) -> None:
    """Check that a protocol is that of a result. Results of version 0.1 lack the passages.

    Raises:
        KnbenchError: it is not; names the setting.
    """
    for name in RunProtocol.__struct_fields__:
        first, second = to_json(getattr(stored, name)), to_json(getattr(here, name))
        if first != second and not (name == "integrity" and first is None):
            raise KnbenchError(f"{name} of the protocol is {_short(first)} in the result and {_short(second)} here")


def _short(value: object) -> str:
    text = printable(str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
