"""Selects the cases of a run and measures the unedited model on them, the baseline of every edit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import KnbenchError
from ..core.extra_probes import ExtraProbes, extra_probes
from ..core.records import Observation
from ..core.schema import SLOT, Case, EditRequest, Probe, Task
from ..core.settings import RunSettings
from ..core.split import MIN_SPLIT_CASES, lite_cases, split_cases
from ..scoring.answers import begins_with
from ..scoring.criteria import MEASURES
from .base import Prober, Reference
from .distributions import StoredDistributions
from .known import KnowledgeCache, known_cases, readable_cases
from .passages import PassageReference, integrity_probe


@dataclass(frozen=True)
class Baseline:
    """Observations of the unedited model on a task's probes, measured once for all editors.

    Attributes:
        cases: cases by their index in the run. Probes whose conditions the model does not fulfil are removed and, with
            ``known_only``, the ``unchanged`` probes that it answers wrongly.
        observations: one observation per probe of the case, in the order of its probes, by case id. Unreadable cases
            have no entry.
        unreadable: error messages of the cases that the tokenizer cannot encode, by case id.
        reference: log-probabilities in nats of shape (vocabulary,) of the first token, for the ``unchanged``
            completion probes; ``kl`` is measured against them.
        seconds: mean time to measure a case of its block, by case id.
    """

    cases: Mapping[int, Case]
    observations: Mapping[str, Sequence[Observation]]
    unreadable: Mapping[str, str]
    reference: Reference
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def select_cases(prober: Prober, task: Task, settings: RunSettings) -> Sequence[Case]:
    """Select the cases of a task for a run.

    The filters apply in this order: split, knowledge of the model (``known_only``), lite subset, limit, number of
    sequential edits, whole batches. Cases that the model's tokenizer cannot encode are selected, too; a run records
    them as failed.

    Args:
        prober: measures the model's knowledge.
        task: the task.
        settings: the run's settings.

    Raises:
        KnbenchError: no case remains, or fewer than the sequential edits or the batch size require.
    """
    cases: Sequence[Case] = split_cases(task.name, task.cases, settings.split)
    if task.cases and not cases:
        raise KnbenchError(
            f"task '{task.name}' has no {settings.split} cases; "
            f"a task of fewer than {MIN_SPLIT_CASES} cases is not split"
        )
    if settings.known_only:
        known = known_cases(KnowledgeCache.of(prober), task)
        cases = [case for case in cases if known.get(case.id, {}).get(settings.known_by)]
    cases = lite_cases(task.name, cases) if settings.subset == "lite" else cases
    cases = cases[: settings.limit]
    if settings.sequential:
        if 0 < len(cases) < settings.sequential:
            raise KnbenchError(f"task '{task.name}' has {len(cases)} cases for {settings.sequential} sequential edits")
        cases = cases[: settings.sequential]
    if settings.batch_edits:
        if 0 < len(cases) < settings.batch_edits:
            raise KnbenchError(f"task '{task.name}' has {len(cases)} cases for batches of {settings.batch_edits}")
        cases = cases[: len(cases) - len(cases) % settings.batch_edits]  # a smaller last batch is another regime
    if not task.cases:
        raise KnbenchError(
            f"task '{task.name}' has minimal pairs but no edit requests; measure its pairs with: knbench known"
        )
    if not cases:
        raise KnbenchError(
            f"task '{task.name}': the model knows none of its cases (split: {settings.split}); run without --known-only"
        )
    return cases


def with_added_probes(case: Case, extra: Sequence[ExtraProbes] = (), *, fluency: bool) -> Case:
    """Return a case with the probes that a run adds: ``extra`` ones, ``integrity``, and ``fluency`` if measured."""
    added = (fluency_probe(case.request), integrity_probe()) if fluency else (integrity_probe(),)
    return dataclasses.replace(case, probes=(*case.probes, *extra_probes(case, extra), *added))


def fluency_probe(request: EditRequest) -> Probe:
    """Return the probe that samples text after the edited prompt, cut behind its subject if it has one."""
    before, slot, _ = request.prompt.partition(SLOT)
    lead = before + request.subject if slot else request.prompt
    return Probe("fluency", "generation", lead, "", "", "unchanged", suffix="")


def check_fluency(prober: Prober, task: Task, cases: Sequence[Case], tokens: int) -> None:
    """Check that the text of the fluency criterion fits the model's positions after every prompt of some cases.

    Cases whose edit prompt alone exceeds the positions are not considered; a run records them as failed.

    Raises:
        KnbenchError: it does not fit; names the task and the largest number of tokens that does.
    """
    if prober.positions is None or not tokens:
        return
    lengths = [len(prober.lm.encode(prober.lm.asked(fluency_probe(case.request).prompt)).ids) for case in cases]
    longest = max((n for n in lengths if n <= prober.positions), default=0)
    if longest + tokens - 1 > prober.positions:
        largest = prober.positions - longest + 1
        raise KnbenchError(
            f"--fluency-tokens {tokens}: '{prober.lm.name}' has {prober.positions} positions, and the longest prompt "
            f"of task '{task.name}' has {longest} tokens; use at most {largest}"
        )


RESIDENT_BLOCKS = 8
"""Largest number of blocks whose distributions are kept in memory: about 13 MB a block with 49,152 tokens."""


class Baselines:
    """Lazily measures the unedited model in blocks of cases and caches the blocks of the last request.

    The next editor on the same cases reads the cached blocks. Memory does not grow with the size of a task. The
    distributions of a request of more than :data:`RESIDENT_BLOCKS` blocks, which a long sequence of edits makes, are
    kept in a temporary file.

    Args:
        prober: measures the model, which must be unedited at each call of :meth:`of`.
        settings: the run's settings.
        block_size: cases per block.
    """

    def __init__(self, prober: Prober, settings: RunSettings, block_size: int) -> None:
        self._prober, self._settings, self._size = prober, settings, block_size
        self._blocks: dict[tuple[str, int], Baseline] = {}
        self._passages = PassageReference()

    def of(self, task: str, cases: Mapping[int, Case]) -> Baseline:
        """Return the baseline of some blocks of a task.

        Args:
            task: name of the task, which is the key of the cache together with the number of the block.
            cases: all cases of these blocks, by their index in the run.

        Raises:
            KnbenchError: the model's probabilities are NaN, or a causal model assigns probability 0 to an answer.
        """
        blocks: dict[tuple[str, int], dict[int, Case]] = {}
        for index, case in cases.items():
            blocks.setdefault((task, index // self._size), {})[index] = case
        self._blocks = {key: block for key, block in self._blocks.items() if key in blocks}
        stored = StoredDistributions() if len(blocks) > RESIDENT_BLOCKS else None
        for key, members in blocks.items():
            if key not in self._blocks:
                try:
                    self._blocks[key] = measure_baseline(self._prober, members, self._settings, self._passages)
                except FloatingPointError as error:
                    first, last = min(members), max(members)
                    raise KnbenchError(
                        f"the unedited model '{self._prober.lm.name}' cannot be measured on task '{task}', cases "
                        f"{first + 1} to {last + 1}: {error}; use another --dtype or another model"
                    ) from error
            if stored is not None:
                stored.absorb(self._blocks[key].reference.distributions)
                self._blocks[key] = dataclasses.replace(self._blocks[key], reference=Reference(stored, self._passages))
        measured = [self._blocks[key] for key in blocks]
        return Baseline(
            cases={index: case for block in measured for index, case in block.cases.items()},
            observations={case_id: found for block in measured for case_id, found in block.observations.items()},
            unreadable={case_id: reason for block in measured for case_id, reason in block.unreadable.items()},
            seconds={case_id: value for block in measured for case_id, value in block.seconds.items()},
            reference=Reference(
                {k: v for block in measured for k, v in block.reference.distributions.items()}
                if stored is None
                else stored,
                self._passages,
            ),
        )


def measure_baseline(
    prober: Prober, cases: Mapping[int, Case], settings: RunSettings, passages: PassageReference | None = None
) -> Baseline:
    """Measure the unedited model on all probes of some cases, in shared batches.

    Args:
        prober: measures the model, which must be unedited.
        cases: the cases by their index in the run.
        settings: with ``known_only``, ``unchanged`` probes that the model answers wrongly are removed.
        passages: receives the predictions for the passages, unless it has them.

    Raises:
        FloatingPointError: the model's probabilities are NaN, or a causal model assigns probability 0 to an answer.
    """
    readable, unreadable = readable_cases(prober, list(cases.values()))
    readable = fulfilled(prober, readable)
    reference = Reference(passages=passages or PassageReference())
    start = time.perf_counter()
    measured = iter(prober.observe([probe for case in readable for probe in case.probes], save_to=reference))
    seconds = (time.perf_counter() - start) / max(len(readable), 1)
    table = {case.id: [(probe, next(measured)) for probe in case.probes] for case in readable}
    if settings.known_only:
        table = {
            case_id: [(p, o) for p, o in pairs if p.expect != "unchanged" or _answers_correctly(p, o)]
            for case_id, pairs in table.items()
        }
    kept = {
        index: dataclasses.replace(case, probes=tuple(p for p, _ in table[case.id])) if case.id in table else case
        for index, case in cases.items()
    }
    return Baseline(
        cases=kept,
        observations={case_id: [o for _, o in pairs] for case_id, pairs in table.items()},
        unreadable=unreadable,
        reference=reference,
        seconds=dict.fromkeys(table, seconds),
    )


def fulfilled(prober: Prober, cases: Sequence[Case]) -> list[Case]:
    """Return the cases without the probes that have a condition which the model does not fulfil.

    A condition is fulfilled if the greedy continuation of its prompt begins with one of its answers. A condition that
    the tokenizer cannot encode is not fulfilled.
    """
    conditions = list(dict.fromkeys((c.prompt, c.answers) for case in cases for c in case.conditions))
    asked = {c: _question(*c) for c in conditions}
    readable = {c: probe for c, probe in asked.items() if _is_readable(prober, probe)}
    observations = prober.observe(list(readable.values())) if readable else []
    known = {
        c: begins_with(observation.generated or "", c[1]) for c, observation in zip(readable, observations, strict=True)
    }
    kept = []
    for case in cases:
        dropped = {n for c in case.conditions if not known.get((c.prompt, c.answers)) for n in c.probes}
        probes = tuple(probe for n, probe in enumerate(case.probes) if n not in dropped)
        kept.append(dataclasses.replace(case, probes=probes, conditions=()) if case.conditions else case)
    return kept


def _question(prompt: str, answers: Sequence[str]) -> Probe:
    return Probe("condition", "completion", prompt, answers[0], "", "new", tuple(answers[1:]))


def _is_readable(prober: Prober, probe: Probe) -> bool:
    request = EditRequest(probe.prompt, "", probe.target, "")
    return bool(readable_cases(prober, [Case("condition", request, (probe,))])[0])


def _answers_correctly(probe: Probe, observation: Observation) -> bool:
    """Return whether the model answers an ``unchanged`` probe correctly; texts have no wrong answer.

    The target must be more probable than the rival. Without a rival, or where one of the two begins the other, each
    token of the target must be the most probable one.
    """
    if probe.kind in ("generation", "passages"):
        return True
    preferred = MEASURES["success"].of(probe, observation, observation)
    return not any(observation.target.ranks) if preferred is None else bool(preferred)
