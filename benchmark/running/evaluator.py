"""The side of a run that holds the model: it plans a run, and measures units of it one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import __version__
from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import JsonObject, Task, derived_seed, digest
from ..core.settings import RunSettings
from ..editing import Editor, build_editor
from ..models.language_model import LanguageModel
from ..probing.baseline import Baselines, Selection, select_cases
from ..probing.drift import make_gauge
from ..probing.masked import make_prober
from ..results.documents import SCHEMA_VERSION
from .environment import describe_environment
from .plan import BLOCK, Plan, RunKey, WorkItem
from .provenance import describe_editor, describe_model, describe_protocol
from .regimes import Emit, Job, run_batch, run_sequential, run_single, seeded


class Evaluator:
    """A model with editors, tasks and settings laid out.

    Editors are made ready when they are first needed.

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
    ) -> None:
        self.lm, self.settings, self.reporter = lm, settings, reporter
        self._tasks = {task.name: task for task in tasks}
        built = [build_editor(cls, lm, settings.editor_args.get(cls.name), settings.seed) for cls in editors]
        self._editors = {editor.name: (editor, source) for editor, source in built}
        if settings.fluency_tokens and not lm.causal:
            raise KnbenchError(f"'{lm.name}' is a masked model and writes no text; leave out --fluency-tokens")
        self._prober = make_prober(
            lm, batch_size=settings.batch_size, new_tokens=settings.new_tokens, free_tokens=settings.fluency_tokens
        )
        self._gauge = make_gauge(lm, settings.drift) if settings.drift else None
        self._fingerprint = lm.fingerprint()
        self._prepared: dict[str, JsonObject] = {}
        self._selections: dict[str, Selection] = {}
        self._baselines = Baselines(self._prober, settings, BLOCK)

    def plan(self, environment: Mapping[str, Any]) -> Plan:
        """Make every editor ready, choose the cases, and say what the run comes to.

        Args:
            environment: what a result shall tell of its making besides versions and machine.

        Raises:
            KnbenchError: a task has no case for this run.
        """
        common = {
            "schema_version": SCHEMA_VERSION,
            "benchmark_version": __version__,
            "model": describe_model(self.lm),
            "seed": self.settings.seed,
            "environment": {**describe_environment(str(self.lm.device)), **environment},
        }
        cards = {
            name: describe_editor(editor, source, self._prepare(name))
            for name, (editor, source) in self._editors.items()
        }
        manifests: dict[RunKey, Mapping[str, Any]] = {}
        cases = {}
        for name, task in self._tasks.items():
            chosen = self._select(name).cases
            cases[name] = [case.id for case in chosen]
            about = {
                "task": {**task.card(), "content_hash": task.content_hash(), "cases_total": len(task.cases)},
                "protocol": describe_protocol(self.lm, self.settings, len(chosen), self._gauge),
            }
            for editor, card in cards.items():
                manifests[editor, name] = {**common, "editor": card, **about}
        joint_batch_size = {name: editor.joint_batch_size for name, (editor, _) in self._editors.items()}
        return Plan(manifests, cases, joint_batch_size, {name: self._origin(name) for name in self._editors})

    def measure(self, order: WorkItem, emit: Emit) -> None:
        """Measure what of a unit is missing.

        Args:
            order: the unit, and what of it there is.
            tell: takes each line as soon as it is measured.

        Raises:
            KnbenchError: an editor left the model changed, or what it prepared here is not what it prepared where the
                run was planned.
        """
        unit, settings = order.unit, self.settings
        if order.origin not in (None, self._origin(unit.editor)):
            raise KnbenchError(
                f"editor '{unit.editor}' has other weights or prepared something else here than where the run was "
                "planned; use machines of one kind, with the same versions and threads"
            )
        selection = self._select(unit.task)
        self.reporter.doing(f"unedited model on {unit.task}")
        baseline = self._baselines.of(unit.task, selection, unit.indices)
        self.reporter.doing(f"{unit.editor} on {unit.task}")
        editor, _ = self._editors[unit.editor]
        job = Job(
            unit, editor, self._prober, baseline, order.written, emit, settings.seed, self._fingerprint,
            self.reporter, self._gauge,
        )  # fmt: skip
        if unit.first == 0:
            job.note_drift(edits=0)
        if settings.sequential:
            run_sequential(job, settings.stops)
        elif settings.batch_edits:
            run_batch(job, settings.batch_edits)
        else:
            run_single(job)

    def _prepare(self, name: str) -> JsonObject:
        if name not in self._prepared:
            self.reporter.doing(f"preparing {name}")
            editor, _ = self._editors[name]
            try:
                with seeded(derived_seed(self.settings.seed, name, "prepare")):
                    self._prepared[name] = editor.prepare(self.lm, self.reporter)
            except (KnbenchError, OSError):
                raise
            except Exception as error:
                why = (str(error).strip().splitlines() or [""])[0]
                raise KnbenchError(f"editor '{name}' cannot be prepared: {type(error).__name__}: {why}") from error
        return self._prepared[name]

    def _origin(self, name: str) -> str:
        editor, source = self._editors[name]
        return digest([self._fingerprint, describe_editor(editor, source, self._prepare(name))])

    def _select(self, name: str) -> Selection:
        if name not in self._selections:
            self.reporter.doing(f"selecting cases of {name}")
            self._selections[name] = select_cases(self._prober, self._tasks[name], self.settings)
        return self._selections[name]


@dataclass(frozen=True)
class WorkerDevice:
    """Where a workbench is laid out.

    Attributes:
        device: a torch device; ``cuda`` is dealt out among the workers of a machine.
        threads: of the process; None leaves it to torch.
    """

    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class RunSpec:
    """All that decides what is measured; can be pickled where its parts can.

    Attributes:
        load: gives the model on a device.
        leave_out: editors that need a causal model are left out, not refused, where the model is a masked one.
    """

    load: Callable[[str], LanguageModel]
    editors: Sequence[type[Editor[Any]]]
    tasks: Sequence[Task]
    settings: RunSettings
    leave_out: bool = False

    def build_evaluator(self, post: WorkerDevice, reporter: Reporter) -> Evaluator:
        """Load the model and return the workbench.

        Args:
            post: where; the threads are set for the whole process.
            reporter: told how far it is.

        Raises:
            KnbenchError: the model cannot be loaded, or something does not fit it.
        """
        reporter.doing("loading")
        if post.threads:
            torch.set_num_threads(post.threads)
        lm = self.load(post.device)
        editors = [cls for cls in self.editors if lm.causal or not (self.leave_out and cls.causal_only)]
        return Evaluator(lm, editors, self.tasks, self.settings, reporter)
