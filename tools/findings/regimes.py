"""Blocks about several models and regimes: overview, sequences, cost, failures and compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import median

from knbench.benchmark.core.documents import Result
from knbench.benchmark.results.comparison import KINDS
from knbench.benchmark.results.figures import retention_figure
from knbench.benchmark.scoring.edit_score_estimates import mean_over_checkpoints
from knbench.benchmark.scoring.formatting import format_drift

from .pages import percent, table
from .scores import as_kind
from .store import Results, Setting

MIB = 1 << 20


class Regimes:
    """Blocks about all results.

    Args:
        results: the results by setting.
    """

    def __init__(self, results: dict[Setting, Results]) -> None:
        self.results = results

    def overview(self, model: str) -> str:
        """Edit score of every method in every regime, for facts and phenomena."""
        columns = [
            (setting, kind)
            for setting in sorted(self.results, key=lambda s: (s.regime != "single", s.regime, s.edits))
            for kind in KINDS
            if setting.model == model and self.results[setting].of(as_kind(kind))
        ]
        scored = {column: self.results[column[0]].scored(as_kind(column[1])) for column in columns}
        methods = {m for rows in scored.values() for m in rows}
        order = sorted(methods, key=lambda m: (-max(rows[m].value for rows in scored.values() if m in rows), m))

        def cell(column: tuple[Setting, str], method: str) -> str:
            row = scored[column].get(method)
            return "" if row is None else percent(row.value, row.low, row.high)

        head = ["method", *(f"{setting.name}: {KINDS[kind]}" for setting, kind in columns)]
        return table(head, ([f"`{m}`", *(cell(column, m) for column in columns)] for m in order))

    def sequence(self, model: str, edits: str, task: str) -> str:
        """Sequences of one task: edit score at the end, at once and over the checkpoints, and drift."""
        rows = [self._sequence_row(result) for result in self._sequences(model, int(edits), task)]
        rows.sort(key=lambda row: -row[0])
        drift = list(dict.fromkeys(name for _, _, found in rows for name in found))
        head = ["method", "after the last edit", "at once", "mean over checkpoints", "gain", "preservation"]
        return table([*head, *drift], ([*cells, *(found.get(n, "-") for n in drift)] for _, cells, found in rows))

    def _sequence_row(self, result: Result) -> tuple[float, list[str], dict[str, str]]:
        final, first = result.edit_score, result.immediate_edit_score
        cells = [
            f"`{result.editor.name}`",
            percent(final.value, final.low, final.high) if final else "-",
            percent(first.value, first.low, first.high) if first else "-",
            percent(mean_over_checkpoints(result)),
            percent(final.gain) if final else "-",
            percent(final.preservation) if final else "-",
        ]
        drift = {row.title: f"{row.before} to {row.after}" for row in format_drift(result.drift)}
        return final.value if final else -1.0, cells, drift

    def retention(self, model: str, edits: int, task: str, methods: str) -> str | None:
        """Return the figure of sequences of one task as SVG; None without results of at least two methods."""
        found = {r.editor.name: r for r in self._sequences(model, edits, task)}
        chosen = [found[m] for m in methods.split(",") if m in found]
        return retention_figure(chosen) if len(chosen) > 1 else None

    def _sequences(self, model: str, edits: int, task: str) -> list[Result]:
        results = self.results.get(Setting(model, "sequential", edits))
        return (
            [run.result for group in results.groups if group.task == task for run in group.runs.values()]
            if results
            else []
        )

    def cost(self, model: str) -> str:
        """What single edits cost: time of an edit and of a query, bytes, memory and training."""
        results = self.results.get(Setting(model))
        rows = []
        for method in results.ordered if results else []:
            found = [run.result for run in results.runs(method)]  # type: ignore[union-attr]
            size = _largest(r.cost.bytes_per_fact for r in found)
            added = _median(r.cost.seconds_per_query for r in found)
            training = _largest(r.editor.training_seconds for r in found)
            rows.append(
                [
                    f"`{method}`",
                    found[0].editor.kind or "",
                    _number(_median(r.cost.edit_seconds for r in found)),
                    "" if size is None else f"{size / 1024:.2f}",
                    "" if added is None else f"{added:.3f}",
                    "" if training is None else f"{training / 60:.0f}",
                    _number(_largest(r.cost.peak_memory_mb for r in found), digits=0),
                ]
            )
        head = ["method", "changes", "seconds per edit", "KiB per fact", "seconds added per query"]
        return table([*head, "minutes of training", "peak memory, MiB"], rows, left=2)

    def compute(self) -> str:
        """Time spent on edits and probes per method, over all settings, and the failures."""
        edits: Counter[str] = Counter()
        probes: Counter[str] = Counter()
        cases: Counter[str] = Counter()
        failed: dict[str, Counter[str]] = {}
        for method, records, result in self._measured():
            cases[method] += len(records)
            edits[method] += sum(r.timings.edit_seconds or 0 for r in records)
            probes[method] += sum(r.timings.probe_seconds or 0 for r in records)
            failed.setdefault(method, Counter()).update(result.records.failures)
        rows = [
            [
                f"`{m}`",
                str(cases[m]),
                f"{edits[m] / 60:.0f}",
                f"{probes[m] / 60:.0f}",
                ", ".join(f"{n} {name}" for name, n in failed[m].most_common()) or "0",
            ]
            for m in sorted(cases, key=lambda m: -(edits[m] + probes[m]))
        ]
        total = [f"{sum(found.values()) / 60:.0f}" for found in (edits, probes)]
        if rows:
            rows.append(["all", str(sum(cases.values())), *total, str(sum(sum(f.values()) for f in failed.values()))])
        return table(["method", "cases", "minutes of edits", "minutes of probes", "failed"], rows)

    def _measured(self) -> Iterator[tuple[str, list, Result]]:  # type: ignore[type-arg]
        for results in self.results.values():
            for group in results.groups:
                for method, run in group.runs.items():
                    yield method, list(group.records[method].values()), run.result


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
