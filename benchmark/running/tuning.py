"""Tunes hyper-parameters on a task's tuning cases, which are never used to judge a method.

Every point of the grid is an ordinary run over the cases of the split ``tune`` (see :mod:`~.core.split`), with its own
run folder. An interrupted tuning therefore continues where it stopped, and ``knbench score`` recomputes every number.

The objective is the edit score with the families direct and wording only, averaged over the tasks. The families
inverse and consequence are not used, because they judge the methods: tuning on them would leak the test criteria into
the methods. ROME's S, the harmonic mean of reliability, paraphrase and neighbourhood by one measure (Meng et al. 2022),
can be chosen instead; it often reaches 100 at several points. Ties are broken by

1. the margin, which does not saturate: the mean magnitude, P(wanted) - P(rival), of the three criteria of S. A point
   gains nothing by raising the probability of the new answer at an equal cost to the neighbours;
2. the share of neighbours whose next token is the same as before the edit;
3. the order of the grid.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import KnbenchError
from ..core.local_paths import public_value
from ..core.progress import Reporter
from ..core.records import to_json
from ..core.schema import Task, digest
from ..core.settings import RunSettings
from ..core.split import MIN_SPLIT_CASES, split_cases
from ..core.version import __version__
from ..editing import Editor, build_editor, parse_overrides
from ..models.language_model import LanguageModel
from ..results.io import RECORD, RECORDS, read_lines
from ..results.runs import Run
from ..scoring.edit_score import TUNING_SCORE, case_values, score
from ..scoring.summary import ROME_SCORE, in_order
from .provenance import describe_model
from .runner import run

EDIT_SCORE_OBJECTIVE = "edit_score"
"""Name of the objective that is the edit score without the families that judge the methods."""
REPORT = "tuning.json"
"""File name of the report in a tuning's folder."""
DECIMALS = 9
"""Decimals to which two points are compared, because the last bits of a mean depend on the order of its sum."""


@dataclass(frozen=True)
class Point:
    """One combination of hyper-parameters.

    Attributes:
        texts: the values as the user wrote them, by field name.
        values: the values converted for the editor's config, by field name.
    """

    texts: Mapping[str, str]
    values: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Name of the point's folder: readable, and valid on every file system.

        >>> Point({}, {"layer": 3, "weight_decay": 1e-3}).folder
        'layer=3,weight_decay=0.001'
        """
        name = ",".join(f"{field}={value}" for field, value in self.values.items())
        safe = re.sub(r"[^a-z0-9=,._+-]+", "-", name.casefold())[:100]
        # Replacing or cutting characters can give two points the same name, which the digest distinguishes.
        return safe if safe == name else f"{safe}-{digest(name)[:8]}"


@dataclass(frozen=True)
class Outcome:
    """The results of a point on the tuning cases, averaged over the tasks.

    Attributes:
        point: the hyper-parameters.
        score: the objective, between 0 and 1.
        margin: the first tie-break, the mean magnitude of reliability, paraphrase and neighbourhood, between -1 and 1.
        same_token: the second tie-break, the share of neighbours whose next token is the same as before the edit.
        criteria: reliability, paraphrase and neighbourhood, between 0 and 1, by name. With the edit score as
            objective, they are by success.
        seconds: median seconds per edit, or None if every edit failed.
        failed: number of failed edits over all tasks.
        cases: number of edits over all tasks.
        by_task: the same numbers for each task, by name.
    """

    point: Point
    score: float
    margin: float
    same_token: float
    criteria: Mapping[str, float]
    seconds: float | None
    failed: int
    cases: int
    by_task: Mapping[str, Mapping[str, Any]]

    def sort_key(self) -> tuple[float, ...]:
        """Return a key that sorts the best outcome first."""
        return tuple(-round(value, DECIMALS) for value in (self.score, self.margin, self.same_token))


def parse_grid(cls: type[Editor[Any]], items: Sequence[str]) -> list[Point]:
    """Return the Cartesian product of ``["layer=3,5", "weight_decay=1e-3,0.5"]``; the last field varies fastest.

    Args:
        cls: the editor, whose config has the fields.
        items: one ``FIELD=VALUE,VALUE...`` per field.

    Raises:
        KnbenchError: there is no field, a field is unknown or occurs twice, or a value is invalid or occurs twice.
    """
    axes: dict[str, dict[str, Any]] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        texts = [part.strip() for part in text.split(",")]
        if not equals or not name or not all(texts):
            raise KnbenchError(f"--grid '{item}': expected FIELD=VALUE,VALUE..., for example layer=3,5,8")
        if name in axes:
            raise KnbenchError(f"--grid '{item}': '{name}' already has a --grid; list all its values in one")
        axes[name] = {part: _value(cls, name, part) for part in texts}
        if len({repr(value) for value in axes[name].values()}) < len(texts):
            raise KnbenchError(f"--grid '{item}': a value occurs twice")
    if not axes:
        raise KnbenchError("no hyper-parameter to tune; add --grid FIELD=VALUE,..., for example --grid layer=3,5,8")
    return [
        Point(dict(zip(axes, texts, strict=True)), {name: axes[name][t] for name, t in zip(axes, texts, strict=True)})
        for texts in itertools.product(*axes.values())
    ]


def _value(cls: type[Editor[Any]], name: str, text: str) -> Any:
    try:
        return parse_overrides(cls, {name: text})[name]
    except KnbenchError as error:  # its message names the option of ``knbench run``
        raise KnbenchError(str(error).replace(f"--editor-args {cls.name}.", "--grid ", 1)) from error


def check_tasks(tasks: Sequence[Task]) -> None:
    """Check that every task can be used for tuning.

    Raises:
        KnbenchError: a task has no tuning cases, or no probe of reliability, paraphrase or neighbourhood.
    """
    for task in tasks:
        cases = task.cases
        held_out = split_cases(task.name, cases, "tune")
        if not held_out:
            raise KnbenchError(
                f"task '{task.name}' has no tuning cases among its {len(cases)}; "
                f"a task of fewer than {MIN_SPLIT_CASES} cases has test cases only; choose another task"
            )
        probed = {probe.criterion for case in held_out for probe in case.probes}
        missing = [criterion for criterion in ROME_SCORE if criterion not in probed]
        if missing:
            raise KnbenchError(
                f"task '{task.name}' has no probes for {', '.join(missing)}, which tuning needs; choose another task"
            )


def tune(
    lm: LanguageModel,
    cls: type[Editor[Any]],
    tasks: Sequence[Task],
    points: Sequence[Point],
    output: Path,
    settings: RunSettings,
    *,
    measure: str = EDIT_SCORE_OBJECTIVE,
    reporter: Reporter | None = None,
) -> list[Outcome]:
    """Run the editor at every point over the tuning cases, and return the outcomes, best first.

    Args:
        lm: the model, which all points share.
        cls: the editor.
        tasks: the tasks whose tuning cases are run.
        points: the hyper-parameters; see :func:`parse_grid`.
        output: folder with one run folder per point. Existing records of the same run are not measured again.
        settings: settings of the runs. ``split`` and the editor's ``editor_args`` are overridden.
        measure: ``edit_score``, or the measure that S is computed by.
        reporter: receives the progress of all points as that of one run.

    Raises:
        KnbenchError: a task or a point is invalid, which is reported before anything runs; or a folder contains
            another run.
    """
    check_tasks(tasks)
    for point in points:
        build_editor(cls, lm, point.texts, settings.seed)
    grid_reporter = _GridReporter(reporter or Reporter(), len(points))
    outcomes = []
    for number, point in enumerate(points, start=1):
        grid_reporter.label = f"{number}/{len(points)}"
        point_settings = dataclasses.replace(settings, split="tune", editor_args={cls.name: point.texts})
        runs = run(lm, [cls], tasks, output / point.folder, point_settings, grid_reporter)
        outcomes.append(average_results(point, runs, measure))
    return sorted(outcomes, key=Outcome.sort_key)


class _GridReporter(Reporter):
    """Reports the runs of all points as one run, whose remaining time is that of the whole grid."""

    def __init__(self, inner: Reporter, points: int) -> None:
        self._inner, self._points, self._started = inner, points, False
        self.label = ""

    def begin(self, total: int) -> None:
        """Announce the cases of all points when the first point begins; all points have the same cases."""
        if not self._started:
            self._inner.begin(total * self._points)
            self._started = True

    def doing(self, what: str) -> None:
        """Forward the stage, with the point's number."""
        self._inner.doing(f"{self.label} {what}")

    def advance(self, count: int = 1) -> None:
        """Forward the number of finished cases."""
        self._inner.advance(count)

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Forward the stage."""
        with self._inner.stage(what, total) as step:
            yield step


def average_results(point: Point, runs: Sequence[Run], measure: str) -> Outcome:
    """Average the results of a point over its tasks.

    Args:
        point: the hyper-parameters.
        runs: one finished run per task.
        measure: ``edit_score``, or the measure that S is computed by.

    Raises:
        KnbenchError: a task has no edit score, or no S by this measure.
    """
    by_task = {run.result.task.name: _task_numbers(run, measure) for run in runs}
    rows = list(by_task.values())
    times = [row["seconds"] for row in rows if row["seconds"] is not None]
    return Outcome(
        point,
        score=_mean(row["score"] for row in rows),
        margin=_mean(row["margin"] for row in rows),
        same_token=_mean(row["same_token"] for row in rows),
        criteria={criterion: _mean(row[criterion] for row in rows) for criterion in ROME_SCORE},
        seconds=_mean(times) if times else None,
        failed=sum(row["failed"] for row in rows),
        cases=sum(row["cases"] for row in rows),
        by_task=by_task,
    )


def _task_numbers(run: Run, objective: str) -> dict[str, Any]:
    result, measure = run.result, "success" if objective == EDIT_SCORE_OBJECTIVE else objective
    values = {
        (row.criterion, row.measure): row.value for row in result.summary if row.criterion in ("score", *ROME_SCORE)
    }
    if ("score", measure) not in values:
        raise KnbenchError(
            f"task '{result.task.name}' has no S by '{measure}': no tuning case has values of that measure for "
            f"all of {', '.join(ROME_SCORE)}; choose another --measure or task"
        )
    magnitudes = [values[criterion, "magnitude"] for criterion in ROME_SCORE if (criterion, "magnitude") in values]
    return {
        "score": values["score", measure] if objective == measure else _tuning_score(run),
        **{criterion: values[criterion, measure] for criterion in ROME_SCORE},
        # A task of minimal pairs has neither at any point of the grid, where 0 breaks no tie.
        "margin": _mean(magnitudes) if magnitudes else 0.0,
        "same_token": values.get(("neighbourhood", "exact"), 0.0),
        "seconds": result.cost.edit_seconds,
        "failed": result.records.failed,
        "cases": result.records.cases,
    }


def _tuning_score(run: Run) -> float:
    found = score(case_values(run.final_records(), run.result.task.kind, TUNING_SCORE))
    if found is None:
        raise KnbenchError(
            f"task '{run.result.task.name}' has no edit score: the unedited model already fulfils reliability and "
            "paraphrase; choose another task"
        )
    return float(found.value)


def _mean(values: Iterator[float] | Sequence[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


# --- report ------------------------------------------------------------------------------------------------------


def published_entry(lm: LanguageModel, cls: type[Editor[Any]], best: Outcome, command: str) -> dict[str, Any] | None:
    """Return the best point in the format of ``editors/published.yaml``.

    The values are those of the tuned fields and of all other fields that have no default or differ from it. The entry
    therefore gives the same config regardless of the values that were published for the model before.

    Args:
        lm: the model, whose architecture and shape identify the entry.
        cls: the editor.
        best: the outcome of the best point.
        command: the command line, which becomes the entry's source.

    Returns:
        The entry, or None if the objective is 0 or every edit failed.
    """
    if best.score <= 0 or best.failed == best.cases:
        return None
    editor, _ = build_editor(cls, lm, best.point.texts)
    values = {
        field.name: public_value(getattr(editor.config, field.name))
        for field in dataclasses.fields(cls.Config)
        if field.name in best.point.values
        or field.default is dataclasses.MISSING
        or getattr(editor.config, field.name) != field.default
    }
    name = lm.name.rsplit("/", 1)[-1].casefold()
    source = f"tuned by this project: {command} ({best.cases} held-out cases)"
    return {
        "shapes": {name: dict(lm.shape)},
        "editors": {cls.name: [{"model": name, "source": source, "values": values}]},
    }


def yaml_block(entry: Mapping[str, Any]) -> str:
    """Return an entry as YAML, with the shape on one line and the values on one line."""
    text: str = yaml.safe_dump(entry, default_flow_style=None, sort_keys=False, allow_unicode=True, width=10**6)
    return text


def report(
    lm: LanguageModel,
    cls: type[Editor[Any]],
    tasks: Sequence[Task],
    outcomes: Sequence[Outcome],
    output: Path,
    settings: RunSettings,
    *,
    measure: str,
    command: str,
) -> dict[str, Any]:
    """Return the report of a finished tuning as plain JSON values.

    Args:
        lm: the model.
        cls: the editor.
        tasks: the tasks.
        outcomes: the outcomes, best first; see :func:`tune`.
        output: the folder of the runs, from whose records the case ids are read.
        settings: the settings that :func:`tune` received.
        measure: ``edit_score``, or the measure that S was computed by.
        command: the command line.

    Returns:
        The versions and settings, the tasks with the ids of their tuning cases, the outcome of every point, and the
        entry of :func:`published_entry` as ``published``.
    """
    first = output / outcomes[0].point.folder / cls.name
    case_ids = {
        task.name: [record.case_id for record in in_order(read_lines(first / task.name / RECORDS, RECORD))]
        for task in tasks
    }
    return {
        "benchmark_version": __version__,
        "command": command,
        "editor": cls.name,
        "model": to_json(describe_model(lm)),
        "split": "tune",
        "known_only": settings.known_only,
        "limit": settings.limit,
        "seed": settings.seed,
        "measure": measure,
        "tasks": [
            {"name": t.name, "version": t.version, "content_hash": t.content_hash(), "cases": case_ids[t.name]}
            for t in tasks
        ],
        "points": [
            {
                "folder": o.point.folder,
                "values": {name: public_value(value) for name, value in o.point.values.items()},
                "score": o.score,
                "margin": o.margin,
                "same_token": o.same_token,
                **o.criteria,
                "seconds": o.seconds,
                "failed": o.failed,
                "cases": o.cases,
                "tasks": o.by_task,
            }
            for o in outcomes
        ],
        "published": published_entry(lm, cls, outcomes[0], command),
    }
