"""Chooses hyper-parameters on a task's tuning cases, which no method is judged by.

Every point of a grid is an ordinary run over the cases of the split ``tune`` (see :mod:`~.core.split`), with
its records in a folder of its own, so that a stopped tuning goes on where it stopped and ``knbench score`` computes
every number again.

The objective is ROME's S, the harmonic mean of reliability, paraphrase and neighbourhood, averaged over the tasks.
Symmetry, synonymous invariance and the other criteria are never looked at: they are what methods are judged by, and a
method tuned on them would be taught to the test.

On few cases S soon is 100 for several points. Ties are broken by the margin, which does not saturate: the mean
magnitude, P(wanted) - P(rival), of the same three criteria, so that a point gains nothing by saying the new answer
louder where that costs the neighbours as much. What is still equal is decided by the share of neighbours whose next
token is as before the edit, and at last by the order of the grid.
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

from .. import __version__
from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.schema import Task, digest
from ..core.settings import RunSettings
from ..core.split import SMALLEST, split_cases
from ..editing import Editor, build_editor, parse_overrides
from ..models.language_model import LanguageModel
from ..results.documents import load_result
from ..results.io import RECORDS, RESULT, read_records
from ..scoring.summary import ROME_SCORE
from .provenance import describe_model
from .runner import run

REPORT = "tuning.json"
SAME = 9  # decimals to which two numbers are compared: their last bits depend on the order of a sum


@dataclass(frozen=True)
class Point:
    """One combination of hyper-parameters.

    Attributes:
        texts: as the user wrote them.
        values: as the editor's config takes them.
    """

    texts: Mapping[str, str]
    values: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """A name for the point's folder that is readable, and safe on every file system.

        >>> Point({}, {"layer": 3, "weight_decay": 1e-3}).folder
        'layer=3,weight_decay=0.001'
        """
        whole = ",".join(f"{name}={value}" for name, value in self.values.items())
        safe = re.sub(r"[^a-z0-9=,._+-]+", "-", whole.casefold())[:100]
        # Where letters were replaced or cut, a digest keeps two points from meeting in one folder.
        return safe if safe == whole else f"{safe}-{digest(whole)[:8]}"


@dataclass(frozen=True)
class Outcome:
    """What a point reached on the tuning cases, averaged over the tasks.

    Attributes:
        score: the objective, ROME's S.
        margin: the first tie-break, the mean magnitude of S's criteria.
        same_token: the second, the share of neighbours whose next token is as before the edit.
        criteria: reliability, paraphrase and neighbourhood.
        seconds: median seconds of an edit.
        failed: edits that failed, over all tasks.
        cases: edits, over all tasks.
        by_task: the same numbers task by task.
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

    def order(self) -> tuple[float, ...]:
        """Return the key that sorts the best first."""
        return tuple(-round(value, SAME) for value in (self.score, self.margin, self.same_token))


def parse_grid(cls: type[Editor[Any]], items: Sequence[str]) -> list[Point]:
    """Turn ``["layer=3,5", "weight_decay=1e-3,0.5"]`` into the points of their product, the last varying fastest.

    Raises:
        KnbenchError: nothing to vary, a field that is unknown or named twice, or a value that does not fit it.
    """
    axes: dict[str, dict[str, Any]] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        texts = [part.strip() for part in text.split(",")]
        if not equals or not name or not all(texts):
            raise KnbenchError(f"--grid '{item}': expected FIELD=VALUE,VALUE..., such as layer=3,5,8")
        if name in axes:
            raise KnbenchError(f"--grid '{item}': '{name}' has a --grid already; name all its values in one")
        axes[name] = {part: _value(cls, name, part) for part in texts}
        if len({repr(value) for value in axes[name].values()}) < len(texts):
            raise KnbenchError(f"--grid '{item}': a value stands there twice")
    if not axes:
        raise KnbenchError("nothing to tune; name a hyper-parameter and its values, such as --grid layer=3,5,8")
    return [
        Point(dict(zip(axes, texts, strict=True)), {name: axes[name][t] for name, t in zip(axes, texts, strict=True)})
        for texts in itertools.product(*axes.values())
    ]


def _value(cls: type[Editor[Any]], name: str, text: str) -> Any:
    try:
        return parse_overrides(cls, {name: text})[name]
    except KnbenchError as error:  # it names the option of ``knbench run``
        raise KnbenchError(str(error).replace(f"--editor-args {cls.name}.", "--grid ", 1)) from error


def check_tasks(tasks: Sequence[Task]) -> None:
    """Make sure that every task can be tuned on.

    Raises:
        KnbenchError: a task has no tuning cases, or does not ask what S is made of.
    """
    for task in tasks:
        cases = task.cases
        held_out = split_cases(task.name, cases, "tune")
        if not held_out:
            raise KnbenchError(
                f"task '{task.name}' has no tuning cases among its {len(cases)}; a task of fewer than {SMALLEST} is "
                "kept whole for testing"
            )
        asked = {probe.criterion for case in held_out for probe in case.probes}
        missing = [criterion for criterion in ROME_SCORE if criterion not in asked]
        if missing:
            raise KnbenchError(f"task '{task.name}' asks nothing about {', '.join(missing)}: it has no S to tune by")


def tune(
    lm: LanguageModel,
    cls: type[Editor[Any]],
    tasks: Sequence[Task],
    points: Sequence[Point],
    output: Path,
    settings: RunSettings,
    *,
    measure: str = "success",
    reporter: Reporter | None = None,
) -> list[Outcome]:
    """Run the editor at every point over the tuning cases, and return what each reached, best first.

    Args:
        lm: the model, loaded once for all points.
        cls: the editor.
        tasks: what it is tuned on.
        points: its hyper-parameters, see :func:`parse_grid`.
        output: where each point's run gets a folder; what is already there is not measured again.
        settings: of the runs; their split and the editor's hyper-parameters are set here.
        measure: what S is taken by.
        reporter: is told of all points as of one run.

    Raises:
        KnbenchError: a task or a point that cannot be run, told before anything is; or a folder of another run.
    """
    check_tasks(tasks)
    for point in points:
        build_editor(cls, lm, point.texts, settings.seed)
    over_all = _OverPoints(reporter or Reporter(), len(points))
    outcomes = []
    for number, point in enumerate(points, start=1):
        over_all.label = f"{number}/{len(points)}"
        here = dataclasses.replace(settings, split="tune", editor_args={cls.name: point.texts})
        folders = run(lm, [cls], tasks, output / point.folder, here, over_all)
        outcomes.append(outcome(point, [load_result(folder / RESULT) for folder in folders], measure))
    return sorted(outcomes, key=Outcome.order)


class _OverPoints(Reporter):
    """Tells of all points' runs as of one, so that the time left is that of the whole grid."""

    def __init__(self, inner: Reporter, points: int) -> None:
        self._inner, self._points, self._begun = inner, points, False
        self.label = ""

    def begin(self, total: int) -> None:
        """Announce all points' cases with the first's: each has the same ones."""
        if not self._begun:
            self._inner.begin(total * self._points)
            self._begun = True

    def doing(self, what: str) -> None:
        """Name the point too."""
        self._inner.doing(f"{self.label} {what}")

    def advance(self, count: int = 1) -> None:
        """Pass on."""
        self._inner.advance(count)

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Pass on."""
        with self._inner.stage(what, total) as step:
            yield step


def outcome(point: Point, results: Sequence[Mapping[str, Any]], measure: str) -> Outcome:
    """Average what a point reached over its tasks, from the summaries of their results.

    Raises:
        KnbenchError: a task has no S by this measure.
    """
    by_task = {result["task"]["name"]: _reached(result, measure) for result in results}
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


def _reached(result: Mapping[str, Any], measure: str) -> dict[str, Any]:
    found = {
        (row["criterion"], row["measure"]): float(row["value"])
        for row in result["summary"]
        if row["criterion"] in ("score", *ROME_SCORE)
    }
    if ("score", measure) not in found:
        raise KnbenchError(
            f"task '{result['task']['name']}' has no S by '{measure}': no tuning case is asked about all of "
            f"{', '.join(ROME_SCORE)} in that measure"
        )
    magnitudes = [found[criterion, "magnitude"] for criterion in ROME_SCORE if (criterion, "magnitude") in found]
    return {
        "score": found["score", measure],
        **{criterion: found[criterion, measure] for criterion in ROME_SCORE},
        # A task of sentences has neither, at any point of the grid: zero there decides nothing.
        "margin": _mean(magnitudes) if magnitudes else 0.0,
        "same_token": found.get(("neighbourhood", "exact"), 0.0),
        "seconds": result["cost"]["edit_seconds"],
        "failed": result["records"]["failed"],
        "cases": result["records"]["cases"],
    }


def _mean(values: Iterator[float] | Sequence[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


# --- what is handed on -------------------------------------------------------------------------------------------


def published_entry(lm: LanguageModel, cls: type[Editor[Any]], best: Outcome, command: str) -> dict[str, Any] | None:
    """Return the best point in the form of ``editors/published.yaml``; None where no edit of it did anything.

    The values are those that a config does not have by itself, so that the entry stands for itself, whatever was
    published for the model before.
    """
    if best.score <= 0 or best.failed == best.cases:
        return None
    editor, _ = build_editor(cls, lm, best.point.texts)
    values = {
        field.name: _plain(getattr(editor.config, field.name))
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
    """Return an entry as YAML, one line for a shape and one for the values."""
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
    """Return everything about a finished tuning as plain JSON values: what was run, on which cases, every point."""
    first = output / outcomes[0].point.folder / cls.name
    used = {
        task.name: [r["case_id"] for r in sorted(read_records(first / task.name / RECORDS), key=lambda r: r["index"])]
        for task in tasks
    }
    return {
        "benchmark_version": __version__,
        "command": command,
        "editor": cls.name,
        "model": describe_model(lm),
        "split": "tune",
        "known_only": settings.known_only,
        "limit": settings.limit,
        "seed": settings.seed,
        "measure": measure,
        "tasks": [
            {"name": t.name, "version": t.version, "content_hash": t.content_hash(), "cases": used[t.name]}
            for t in tasks
        ],
        "points": [
            {
                "folder": o.point.folder,
                "values": {name: _plain(value) for name, value in o.point.values.items()},
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


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
