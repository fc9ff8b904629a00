"""Blocks about single edits: scores, their parts, their variants, and the scores of the literature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from knbench.benchmark.core.schema import TaskKind
from knbench.benchmark.results.comparison import KINDS, RankedMethod, overall, rank_methods
from knbench.benchmark.results.edit_scores import ScoredMethod, format_rank
from knbench.benchmark.results.sensitivity import orders
from knbench.benchmark.scoring.criteria import CRITERIA
from knbench.benchmark.scoring.edit_score import FAMILIES, PRESERVATION, case_values, score
from knbench.benchmark.scoring.edit_score_estimates import interval

from .pages import percent, table
from .store import BY_PREFERENCE, WITHOUT_SPECIFICITY, Results, Setting, separated

SCORES = {"score": "S", "extended_score": "S extended"}


class SingleEdits:
    """Blocks about the single edits of a model.

    Args:
        results: all results by setting.
        model: name of the model.
    """

    def __init__(self, results: dict[Setting, Results], model: str) -> None:
        self.all = results
        self.results = results.get(Setting(model)) or Results(Setting(model), ())

    def gains(self, kind: str) -> str:
        """Edit score, its parts and its families, for facts or phenomena."""
        scored = self.results.scored(as_kind(kind))
        families = [f for f in FAMILIES if any(f in row.families for row in scored.values())]
        kept = [c for c in PRESERVATION if any(c in row.kept for row in scored.values())]
        head = ["rank", "method", "edit score", "gain", "preservation", *families, *kept]
        return table(
            head,
            (
                [
                    format_rank(row),
                    f"`{row.method}`",
                    percent(row.value, row.low, row.high),
                    percent(row.gain),
                    percent(row.preservation),
                    *(percent(row.families.get(f)) for f in families),
                    *(percent(row.kept.get(c)) for c in kept),
                ]
                for row in scored.values()
            ),
            left=2,
        )

    def literature(self, kind: str) -> str:
        """Edit score beside S and S extended by preference, each with the interval of its rank."""
        chosen = as_kind(kind)
        scored = self.results.scored(chosen)
        others = {name: self.composite(chosen, name) for name in SCORES}

        def cells(method: str) -> list[str]:
            found = []
            for rows in others.values():
                row = rows.get(method)
                found += ["-", "-"] if row is None else [percent(row.value, row.low, row.high), span(row)]
            return found

        head = ["method", "edit score", "rank", *(text for title in SCORES.values() for text in (title, "rank"))]
        return table(
            head,
            (
                [f"`{row.method}`", percent(row.value, row.low, row.high), format_rank(row), *cells(row.method)]
                for row in scored.values()
            ),
        )

    def composite(self, kind: TaskKind, name: str, measure: str = "success") -> dict[str, RankedMethod]:
        """Return a score of the literature with the intervals of its ranks, by method."""
        return {row.editor: row for row in rank_methods(self.results.by_measure(kind, measure), name)}

    def constant(self, task: str = "") -> str:
        """What a constant on one logit reaches: scores of phenomena with and without specificity."""
        groups = [g for g in self.results.of("linguistic") if task in ("", g.task)]
        part = Results(self.results.setting, groups)
        kinds = [part.scored("linguistic", name) for name in ("", WITHOUT_SPECIFICITY, BY_PREFERENCE)]
        s = {row.editor: row for row in rank_methods(part.by_measure("linguistic", "success"), "score", ranked=False)}
        head = ["method", "S", "edit score without specificity", "by preference and KL alone", "edit score"]
        head += ["specificity kept"]
        rows = []
        for method, row in kinds[0].items():
            found: Sequence[ScoredMethod] = [kinds[1][method], kinds[2][method], row]
            rows.append(
                [
                    f"`{method}`",
                    percent(s[method].value, s[method].low, s[method].high) if method in s else "-",
                    *(percent(each.value, each.low, each.high) for each in found),
                    percent(row.kept.get("specificity")),
                ]
            )
        return table(head, rows)

    def sensitivity(self, kind: str = "all") -> str:
        """The order of methods under variants of the edit score: rank correlations and the first five methods."""
        chosen = None if kind == "all" else as_kind(kind)
        groups = self.results.of(chosen)
        complete = self.results.complete(chosen)
        if not complete:
            return ""
        kept = [
            replace(
                g,
                runs={m: g.runs[m] for m in complete},
                records={m: g.records[m] for m in complete},
            )
            for g in groups
        ]
        found = orders(kept)
        return table(
            ["variant", "Spearman", "Kendall", "first five methods"],
            (
                [
                    row.variant,
                    "" if n == 0 or row.spearman is None else f"{row.spearman:.2f}",
                    "" if n == 0 or row.kendall is None else f"{row.kendall:.2f}",
                    ", ".join(f"`{m}` {percent(v)}" for m, v in list(row.scores.items())[:5]),
                ]
                for n, row in enumerate(found)
            ),
        )

    def criteria(self, kind: str, measure: str, methods: str = "", only: str = "") -> str:
        """Means of criteria by one measure over the tasks of a kind, in the order of the edit score."""
        chosen = as_kind(kind)
        complete = self.results.complete(chosen)
        groups = [
            replace(g, runs={m: g.runs[m] for m in complete}, records={m: g.records[m] for m in complete})
            for g in self.results.of(chosen)
        ]
        rows = overall(groups, measure) if complete else []
        names = [c for c in CRITERIA if any(row.criterion == c for row in rows) and only in ("", *_listed(only, c))]
        shown = _chosen(methods, list(self.results.scored(chosen)))
        cells = {(row.editor, row.criterion): percent(row.value, row.low, row.high) for row in rows}
        return table(["method", *names], ([f"`{m}`", *(cells.get((m, c), "-") for c in names)] for m in shown if rows))

    def family(self, name: str) -> str:
        """Gain of one family with its interval, for facts and for phenomena."""
        by_kind = {kind: self.results.drawn(kind) for kind in KINDS}
        methods = sorted({m for found in by_kind.values() for m in found})

        def cell(kind: str, method: str) -> tuple[float, str]:
            found = by_kind[kind].get(method)
            if found is None or name not in found.observed.families:
                return -1.0, "-"
            value = float(found.observed.families[name])
            return value, percent(value, *interval(found.drawn.families[name]))

        rows = [(cell("fact", m), cell("linguistic", m), m) for m in methods]
        rows.sort(key=lambda row: (-row[0][0], -row[1][0], row[2]))
        return table(
            ["method", *(f"{title}: {name}" for title in KINDS.values())],
            ([f"`{m}`", fact[1], phenomenon[1]] for fact, phenomenon, m in rows),
        )

    def power(self) -> str:
        """How many pairs of methods the data tell apart."""
        rows = []
        for kind, title in (*KINDS.items(), (None, "both")):
            different, pairs, half = separated(self.results, None if kind is None else as_kind(kind))
            if pairs:
                rows.append([title, f"{different} of {pairs}", percent(different / pairs), f"{100 * half:.1f}"])
        return table(["tasks", "pairs told apart", "percent", "median half-width of a difference, points"], rows)

    def worked(self, task: str, methods: str) -> str:
        """One case of a task, criterion by criterion: the case whose score by the first method is its median."""
        (group,) = [g for g in self.results.groups if g.task == task] or (None,)
        names = methods.split(",")
        if group is None or not set(names) <= set(group.runs):
            return ""
        values = group.case_values
        alone = {i: score(values[names[0]].select([i])) for i in values[names[0]].case_ids}
        order = sorted((float(found.value), i) for i, found in alone.items() if found is not None)
        case = order[len(order) // 2][1]
        request = group.records[names[0]][case].request
        title = f"{request.prompt.format(request.subject)} **{request.target_new}** (before: {request.target_true})"
        rows, ends = [], {}
        for method in names:
            one = case_values([group.records[method][case]], group.kind)
            found = score(one)
            if found is None:
                return ""
            ends[method] = found
            for c in one.before:
                rows.append((list(CRITERIA).index(c), c, method, f"{one.before[c][0]:.2f} to {one.after[c][0]:.2f}"))
            for c in one.kept:
                rows.append((list(CRITERIA).index(c), f"{c} (kept)", method, f"{one.kept[c][0]:.2f}"))
        labels = [label for _, label in sorted({(n, label) for n, label, _, _ in rows})]
        cells = {(label, method): text for _, label, method, text in rows}
        body = [[label, *(cells.get((label, m), "-") for m in names)] for label in labels]
        body += [["**gain**", *(f"{float(ends[m].gain):.2f}" for m in names)]]
        body += [["**preservation**", *(f"{float(ends[m].preservation):.2f}" for m in names)]]
        body += [["**edit score**", *(f"{100 * float(ends[m].value):.0f}" for m in names)]]
        return f"{title}\n\n" + table(["criterion", *(f"`{m}`" for m in names)], body)


def as_kind(name: str) -> TaskKind:
    """Return a kind of tasks by its name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in KINDS:
        raise ValueError(f"'{name}' is none of {', '.join(KINDS)}")
    return cast(TaskKind, name)


def span(row: RankedMethod) -> str:
    """Return the interval of a rank as text."""
    return str(row.best) if row.best == row.worst else f"{row.best}-{row.worst}"


def _listed(only: str, criterion: str) -> tuple[str, ...]:
    return (only,) if criterion in only.split(",") else ()


def _chosen(methods: str, present: Sequence[str]) -> list[str]:
    return [m for m in methods.split(",") if m in present] if methods else list(present)
