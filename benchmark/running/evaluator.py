"""The measuring side of a run: holds the model, plans a run, and measures its units one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import torch

from ..core import registry
from ..core.documents import SCHEMA_VERSION, EditorCard, Manifest, RunProtocol
from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.records import to_json
from ..core.schema import Case, EditRequest, JsonObject, Task, digest
from ..core.settings import RunSettings
from ..core.version import __version__
from ..editing import Editor, build_editor, check_disjoint, training_cases
from ..models.language_model import LanguageModel
from ..models.weights import WeightMonitor
from ..probing.base import Prober
from ..probing.baseline import Baselines, check_fluency, select_cases, with_added_probes
from ..probing.drift import make_gauge
from ..probing.prober import make_prober
from .environment import describe_environment
from .model_state import ModelState
from .plan import BLOCK, Plan, RunKey, WorkItem
from .preparation import prepare_editor
from .provenance import describe_editor, describe_model, describe_protocol, describe_task
from .regimes import Emit, Job, run_batch, run_sequential, run_single


def conflicts(cases: Sequence[Case], settings: RunSettings) -> list[str]:
    """Return a sentence for each case whose edit contradicts an earlier one that is applied together with it."""
    size = settings.batch_edits or settings.sequential or 1
    found: list[str] = []
    earlier: dict[tuple[int, str], tuple[Case, EditRequest]] = {}
    for index, case in enumerate(cases):
        for request in case.requests:
            key = index // size, " ".join(request.text.split())
            other, first = earlier.setdefault(key, (case, request))
            if first.target_new != request.target_new:
                found.append(
                    f"cases '{other.id}' and '{case.id}' edit the prompt '{request.text}' together, to "
                    f"'{first.target_new}' and '{request.target_new}'; at most one of the edits can hold"
                )
    return found


class Evaluator:
    """A model with the editors, tasks and settings of a run. Editors are prepared when they are first needed.

    Args:
        lm: the model.
        editors: classes of the methods.
        tasks: the tasks.
        settings: settings of the run.
        reporter: receives progress; may be replaced.
        prober: measures probes; None creates one from the settings.

    Raises:
        KnbenchError: an editor, a setting or a drift task does not fit the model.
    """

    def __init__(
        self,
        lm: LanguageModel,
        editors: Sequence[type[Editor[Any]]],
        tasks: Sequence[Task],
        settings: RunSettings,
        reporter: Reporter,
        prober: Prober | None = None,
    ) -> None:
        self.lm, self.settings, self.reporter = lm, settings, reporter
        lm.use_chat_template(settings.apply_chat_template)
        self._tasks = {task.name: task for task in tasks}
        built = [build_editor(cls, lm, settings.editor_args.get(cls.name), settings.seed) for cls in editors]
        self._editors = {editor.name: (editor, source) for editor, source in built}
        if settings.fluency_tokens and not lm.causal:
            raise KnbenchError(f"'{lm.name}' is a masked model and generates no text; omit --fluency-tokens")
        self._prober = prober or make_prober(
            lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens, free_tokens=settings.fluency_tokens
        )
        self._gauge = make_gauge(lm, settings.drift) if settings.drift else None
        self._weights = WeightMonitor(lm.model)
        self._prepared: dict[str, JsonObject] = {}
        self._baselines = Baselines(self._prober, settings, BLOCK)

    def plan(self, environment: Mapping[str, Any]) -> Plan:
        """Prepare every editor, select the cases, and return the plan of the run.

        Args:
            environment: entries for the manifest's environment besides versions and hardware.

        Raises:
            KnbenchError: a task has no case for this run, or an editor cannot be prepared.
        """
        model = describe_model(self.lm)
        environment = {**describe_environment(str(self.lm.device)), **environment}
        cards = {name: self.card(name) for name in self._editors}
        manifests: dict[RunKey, Manifest] = {}
        cases, warnings = {}, list[str]()
        for name, task in self._tasks.items():
            self.reporter.doing(f"selecting cases of {name}")
            selected = select_cases(self._prober, task, self.settings)
            check_fluency(self._prober, task, selected, self.settings.fluency_tokens)
            cases[name] = [case.id for case in selected]
            self._check_training(selected)
            warnings += [f"task '{name}': {conflict}" for conflict in conflicts(selected, self.settings)]
            protocol = self.protocol(len(cases[name]))
            for editor, card in cards.items():
                manifests[editor, name] = Manifest(
                    schema_version=SCHEMA_VERSION,
                    benchmark_version=__version__,
                    model=model,
                    seed=self.settings.seed,
                    environment=environment,
                    editor=card,
                    task=describe_task(task),
                    protocol=protocol,
                )
        sizes = {name: self.joint_batch_size(name) for name in self._editors}
        return Plan(manifests, cases, sizes, {name: self._digest(name) for name in self._editors}, warnings)

    def _check_training(self, scored: Sequence[Case]) -> None:
        """Check that no editor is scored on a case or a subject that it was trained on."""
        for name, (editor, _) in self._editors.items():
            if editor.trains:
                check_disjoint(name, training_cases(self.lm, registry.tasks()), scored)

    def measure(self, item: WorkItem, emit: Emit) -> None:
        """Measure what is missing of a unit.

        Args:
            item: the unit, its case ids, and the part that was measured before.
            emit: receives each line as soon as it is measured.

        Raises:
            KnbenchError: an editor left the model changed, or its prepared values differ from those of the plan.
        """
        unit, settings = item.unit, self.settings
        if item.digest not in (None, self._digest(unit.editor)):
            raise KnbenchError(
                f"editor '{unit.editor}' has other weights or prepared values here than where the run was planned; "
                "use machines of one kind, with the same versions and threads"
            )
        cases = {index: self._case(unit.task, case_id) for index, case_id in item.case_ids.items()}
        self.reporter.doing(f"unedited model on {unit.task}")
        baseline = self._baselines.of(unit.task, cases)
        self.reporter.doing(f"{unit.editor} on {unit.task}")
        editor, _ = self._editors[unit.editor]
        job = Job(
            unit=unit,
            editor=editor,
            prober=self._prober,
            baseline=baseline,
            completed=item.completed,
            emit=emit,
            seed=settings.seed,
            weights=self._weights,
            state=ModelState(self.lm),
            reporter=self.reporter,
            drift=self._gauge,
            lost=item.lost,
            alone=item.alone,
        )
        if unit.first == 0:
            job.measure_drift(edits=0)
        if settings.sequential:
            run_sequential(job, settings.resolved_checkpoints)
            return
        with job.verified() as verified:
            if settings.batch_edits:
                run_batch(verified, settings.batch_edits)
            else:
                run_single(verified)

    def protocol(self, cases: int) -> RunProtocol:
        """Return the protocol of a run of some number of cases."""
        return describe_protocol(self.lm, self.settings, cases, self._gauge)

    def card(self, name: str) -> EditorCard:
        """Prepare an editor and return its description.

        Raises:
            KnbenchError: it cannot be prepared.
        """
        editor, source = self._editors[name]
        return describe_editor(editor, source, self._prepare(name))

    def joint_batch_size(self, name: str) -> int:
        """Return the number of single edits that an editor computes together."""
        return self._editors[name][0].joint_batch_size

    def _prepare(self, name: str) -> JsonObject:
        if name not in self._prepared:
            editor, _ = self._editors[name]
            self._prepared[name] = prepare_editor(
                editor, self.lm, self.settings.seed, self.reporter, self._weights.fingerprint
            )
        return self._prepared[name]

    def _digest(self, name: str) -> str:
        card = msgspec.structs.replace(self.card(name), training_seconds=None)
        return digest([self._weights.fingerprint, to_json(card)])

    @cached_property
    def _cases(self) -> dict[str, dict[str, Case]]:
        return {name: {case.id: case for case in task.cases} for name, task in self._tasks.items()}

    def _case(self, task: str, case_id: str) -> Case:
        settings = self.settings
        return with_added_probes(self._cases[task][case_id], settings.probes, fluency=bool(settings.fluency_tokens))


@dataclass(frozen=True)
class WorkerDevice:
    """Where an evaluator runs.

    Attributes:
        device: a torch device; ``cuda`` distributes the workers of a machine over its GPUs.
        threads: CPU threads of the process; None keeps torch's default.
    """

    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides what a run measures. It can be pickled if its parts can.

    Attributes:
        load: returns the model on a device.
        editors: classes of the methods.
        tasks: the tasks.
        settings: settings of the run.
        skip_unsupported: whether to skip editors that need a causal model, instead of refusing them, on a masked model.
    """

    load: Callable[[str], LanguageModel]
    editors: Sequence[type[Editor[Any]]]
    tasks: Sequence[Task]
    settings: RunSettings
    skip_unsupported: bool = False

    def build_evaluator(self, worker: WorkerDevice, reporter: Reporter) -> Evaluator:
        """Load the model and return the evaluator.

        Args:
            worker: device and threads; the threads are set for the whole process.
            reporter: receives progress.

        Raises:
            KnbenchError: the model cannot be loaded, or an editor or setting does not fit it.
        """
        reporter.doing("loading")
        if worker.threads:
            torch.set_num_threads(worker.threads)
        lm = self.load(worker.device)
        editors = [cls for cls in self.editors if lm.causal or not (self.skip_unsupported and cls.causal_only)]
        return Evaluator(lm, editors, self.tasks, self.settings, reporter)
