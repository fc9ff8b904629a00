"""Which cases a run takes, and what the unedited model says to them: what every edit is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import KnbenchError
from ..core.schema import SLOT, Case, EditRequest, Probe, Task
from ..core.settings import RunSettings
from ..core.split import SMALLEST, lite_cases, split_cases
from .causal import Observation, Prober, Reference
from .known import KnowledgeCache, known_cases, readable_cases


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
    observations: dict[str, Sequence[Observation]]
    unreadable: Mapping[str, str]
    reference: Reference


def select_cases(prober: Prober, task: Task, settings: RunSettings) -> Selection:
    """Choose the cases of a task that are run: of its split, the known ones if so wished, those of the subset or limit.

    Raises:
        KnbenchError: no case is left.
    """
    _, unreadable = readable_cases(prober, task)
    cases: Sequence[Case] = split_cases(task.name, task.cases, settings.split)
    if task.cases and not cases:
        raise KnbenchError(
            f"task '{task.name}' has no {settings.split} cases; a task of fewer than {SMALLEST} cases is not split"
        )
    if settings.known_only:
        known = known_cases(KnowledgeCache.of(prober), task)
        cases = [case for case in cases if known.get(case.id, {}).get(settings.known_by)]
    cases = lite_cases(task.name, cases) if settings.subset == "lite" else cases[: settings.limit]
    if settings.sequential:
        if 0 < len(cases) < settings.sequential:
            raise KnbenchError(f"task '{task.name}' has {len(cases)} cases for {settings.sequential} sequential edits")
        cases = cases[: settings.sequential]
    if settings.batch_edits:
        if 0 < len(cases) < settings.batch_edits:
            raise KnbenchError(f"task '{task.name}' has {len(cases)} cases for batches of {settings.batch_edits}")
        cases = cases[: len(cases) - len(cases) % settings.batch_edits]  # a smaller batch would be another regime
    if not task.cases:
        raise KnbenchError(
            f"task '{task.name}' has no pair that an edit could be keyed on; score it with: knbench known"
        )
    if not cases:
        raise KnbenchError(
            f"task '{task.name}': the model knows none of its cases (split: {settings.split}); run without --known-only"
        )
    if settings.fluency_tokens:
        cases = [dataclasses.replace(case, probes=(*case.probes, fluency_probe(case.request))) for case in cases]
    return Selection(cases, unreadable)


def fluency_probe(request: EditRequest) -> Probe:
    """Let the model write on after the subject, as the edited prompt leads up to it."""
    lead = request.prompt[: request.prompt.index(SLOT)] + request.subject
    return Probe("fluency", "generation", lead, "", "", "unchanged", suffix="")


class Baselines:
    """What the unedited model says, measured when asked for, block by block.

    What was asked for last is kept, for the next editor on the same cases: memory does not grow with a task.
    """

    def __init__(self, prober: Prober, settings: RunSettings, block_size: int) -> None:
        self._prober, self._settings, self._size = prober, settings, block_size
        self._blocks: dict[tuple[str, int], Baseline] = {}

    def of(self, task: str, selection: Selection, indices: range) -> Baseline:
        """Return what it says to some of a task's cases; ``cases`` are all selected ones, the others untouched."""
        cases = list(selection.cases)
        size = self._size
        numbers = range(indices.start // size, -(-indices.stop // size))
        places = {(task, n): slice(n * size, (n + 1) * size) for n in numbers}
        self._blocks = {key: block for key, block in self._blocks.items() if key in places}
        for key, place in places.items():
            if key not in self._blocks:
                part = Selection(cases[place], selection.unreadable)
                self._blocks[key] = measure_baseline(self._prober, part, self._settings)
        whole = Baseline(cases, {}, selection.unreadable, Reference())
        for key, place in places.items():
            cases[place] = self._blocks[key].cases
            whole.observations.update(self._blocks[key].observations)
            whole.reference.distributions.update(self._blocks[key].reference.distributions)
        return whole


def measure_baseline(prober: Prober, selection: Selection, settings: RunSettings) -> Baseline:
    """Measure the unedited model on all probes of the selected cases, in shared batches."""
    readable = [case for case in selection.cases if case.id not in selection.unreadable]
    reference = Reference()
    seen = iter(prober.observe([probe for case in readable for probe in case.probes], remember=reference))
    table = {case.id: [(probe, next(seen)) for probe in case.probes] for case in readable}
    if settings.known_only:
        table = {
            case_id: [(p, o) for p, o in pairs if p.expect != "unchanged" or _knows(p, o)]
            for case_id, pairs in table.items()
        }
    cases = [
        dataclasses.replace(case, probes=tuple(p for p, _ in table[case.id])) if case.id in table else case
        for case in selection.cases
    ]
    observations: dict[str, Sequence[Observation]] = {
        case_id: [o for _, o in pairs] for case_id, pairs in table.items()
    }
    return Baseline(cases, observations, selection.unreadable, reference)


def _knows(probe: Probe, seen: Observation) -> bool:
    return probe.kind == "generation" or bool(seen["target"]["logprob"] > seen["rival"]["logprob"])
