"""What the pages show, as plain values computed from results: no markup here."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.figures import analysis_figures, retention_figure
from ..benchmark.results import CRITERIA, MEASURES, KnbenchError, Run, comparable

BOARD_MEASURES = ("success", "exact", "token_accuracy", "generated", "magnitude")
"""Measures that have a board of their own; never two in one table."""

COMPOSITE_TITLES = {"score": "S", "extended_score": "S extended"}
COMPOSITE_NOTES = {
    "score": "Harmonic mean of reliability, paraphrase and neighbourhood (ROME's S).",
    "extended_score": "Harmonic mean of S's criteria with symmetry and synonymous invariance, where the task has them.",
}

REGIME_NOTES = {
    "single": "single edits",
    "batch": "batches of {batch_edits} edits",
    "sequential": "after {cases} sequential edits",
}
SPLIT_NOTES = {
    "test": "tuning cases left out",
    "tune": "tuning cases only",
    "all": "tuning cases included",
}


@dataclass(frozen=True)
class Cell:
    """One number of a board: percent for shares, with its interval."""

    text: str
    low: str
    high: str
    width: float | None
    note: str


@dataclass(frozen=True)
class Board:
    """Methods as rows, criteria as columns: one task, model, regime and protocol, and one measure."""

    task: Mapping[str, Any]
    model: Mapping[str, Any]
    protocol: Mapping[str, Any]
    columns: Sequence[tuple[str, str, str]]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def slug(text: str) -> str:
    """Return a file name that is safe anywhere.

    >>> slug("../Org/My Model")
    'org-my-model'
    """
    return re.sub(r"[^a-z0-9._]+", "-", text.casefold()).strip("-.") or "unnamed"


def method_page(name: str) -> str:
    """Return the site's path of a method's page."""
    return f"methods/{slug(name)}.html"


def group_key(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what must agree for two results to stand in one table."""
    return (result["task"]["kind"], *(str(item) for item in comparable(result).items()))


def boards(runs: Sequence[Run], measure: str) -> list[Board]:
    """Return the tables of one measure, facts before phenomena.

    Raises:
        KnbenchError: two results of one method would stand in the same row.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(group_key(run.result), []).append(run)
    return [_board(groups[key], measure) for key in sorted(groups)]


def _board(runs: Sequence[Run], measure: str) -> Board:
    results = [run.result for run in runs]
    seen: dict[str, Run] = {}
    for run in runs:
        name = run.result["editor"]["name"]
        if name in seen:
            raise KnbenchError(
                f"two results of editor '{name}' on task '{run.result['task']['name']}': {seen[name].folder} and "
                f"{run.folder}; name only one of them"
            )
        seen[name] = run
    values = [{r["criterion"]: r for r in result["summary"] if r["measure"] == measure} for result in results]
    present = {criterion for row in values for criterion in row}
    columns = [(c.name, c.title, c.question) for c in CRITERIA.values() if c.name in present]
    columns += [(n, COMPOSITE_TITLES[n], COMPOSITE_NOTES[n]) for n in COMPOSITE_TITLES if n in present]
    rows = []
    for result, found in zip(results, values, strict=True):
        seconds = result["cost"]["edit_seconds"]
        rows.append(
            {
                "name": result["editor"]["name"],
                "summary": result["editor"]["summary"],
                "page": method_page(result["editor"]["name"]),
                "cells": [cell(found.get(name), measure) for name, _, _ in columns],
                "seconds": "" if seconds is None else f"{seconds:.2f}",
                "failed": result["records"]["failed"],
                "sort": _order(found),
                "raw": [found[name] for name, _, _ in columns if name in found],
            }
        )
    rows.sort(key=lambda row: row["sort"])
    first = results[0]
    return Board(first["task"], first["model"], first["protocol"], columns, rows, protocol_notes(first))


def _order(found: Mapping[str, Mapping[str, Any]]) -> tuple[float, ...]:
    """Rank by the extended score, then S, then reliability; a row without the number comes last."""
    return tuple(-found[name]["value"] if name in found else 1.0 for name in ("extended_score", "score", "reliability"))


def cell(row: Mapping[str, Any] | None, measure: str) -> Cell | None:
    """Format one number of a summary."""
    if row is None:
        return None
    share = MEASURES[measure].share
    note = f"{row['cases']} cases, {row['probes']} probes"
    if row["low"] is None:
        return Cell(number(row["value"], share), "", "", bar(row["value"], share), f"{note}; no interval can be given")
    names = {
        "wilson": "Wilson",
        "wilson-effective": "Wilson with the effective number of cases",
        "t": "Student's t",
        "bca": "BCa bootstrap",
        "percentile": "bootstrap",
        "delta": "delta method",
    }
    note += f"; 95% interval, {names[row['interval']]} over cases"
    return Cell(
        number(row["value"], share),
        number(row["low"], share),
        number(row["high"], share),
        bar(row["value"], share),
        note,
    )


def number(value: float, share: bool) -> str:
    """Return a share as percent with one decimal, another quantity with three."""
    return (f"{100 * value:.1f}" if share else f"{value:.3f}").replace("-", "\N{MINUS SIGN}")


def bar(value: float, share: bool) -> float | None:
    """Return the length of a cell's bar in percent, None for what is no share."""
    return round(100 * min(1.0, max(0.0, value)), 1) if share else None


def protocol_notes(result: Mapping[str, Any]) -> list[str]:
    """Say in words how a table's numbers were taken."""
    protocol, model = result["protocol"], result["model"]
    notes = [
        REGIME_NOTES[protocol["regime"]].format(**protocol),
        f"{protocol['cases']} of {result['task']['cases_total']} cases",
    ]
    notes.append(SPLIT_NOTES[protocol.get("split", "all")])  # results from before the split were taken on all cases
    if protocol.get("subset") == "lite":
        notes.append("lite: a fixed draw of them")
    if protocol["limit"]:
        notes.append(f"limited to {protocol['limit']}")
    if protocol["known_only"]:
        notes.append("only what the unedited model gets right")
    notes.append("BOS first" if protocol["bos_prepended"] else "no BOS")
    notes += [model["dtype"], f"seed {result['seed']}"]
    return notes


# --- a method's page ---------------------------------------------------------------------------------------------


def method_view(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return a method's card and, for each of its results, every case with what the model said before and after."""
    mine = sorted((run for run in runs if run.result["editor"]["name"] == name), key=lambda r: group_key(r.result))
    figures = {
        number: (f"figures/{slug(name)}-{number}.svg", retention_figure([run.result]))
        for number, run in enumerate(mine, start=1)
        if "curve" in run.result
    }
    return {
        "name": name,
        "files": dict(figures.values()),
        "editor": mine[0].result["editor"],
        "results": [
            {
                "result": run.result,
                "notes": protocol_notes(run.result),
                "hyper_parameters": _flat(run.result["editor"]["config"]),
                "environment": _flat(run.result["environment"]),
                "summary": _summary_table(run.result),
                "cases": [case_view(record) for record in sorted(run.records(), key=lambda r: r["index"])],
                "figure": figures[number][0] if number in figures else "",
                "drift": drift_rows(run.result),
            }
            for number, run in enumerate(mine, start=1)
        ],
    }


def drift_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (task, before, after, difference) of everything that drift was measured on, after the last edit."""
    rows = []
    for task in result.get("drift", {"tasks": []})["tasks"]:
        for point in task["points"][-1:]:
            before, after = task["before"], task["before"] + point["difference"]
            name = task["task"].removeprefix("knbench_").replace("_", " ")
            if task["metric"] == "nll":
                before, after, name = (
                    math.exp(before),
                    math.exp(min(after, 50)),
                    "perplexity (difference in nats per token)",
                )
            interval = "" if point["low"] is None else f" [{point['low']:+.3f}, {point['high']:+.3f}]"
            rows.append((name, f"{before:.3f}", f"{after:.3f}", f"{point['difference']:+.3f}{interval}"))
    return rows


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(item, f"{prefix}{key} ")
        elif item is not None:
            rows.append((prefix + key, str(item)))
    return rows


def _summary_table(result: Mapping[str, Any]) -> dict[str, Any]:
    """Criteria as rows, measures as columns."""
    found = {(row["criterion"], row["measure"]): row for row in result["summary"]}
    titles = {**{c.name: c.title for c in CRITERIA.values()}, **COMPOSITE_TITLES}
    measures = [m for m in MEASURES.values() if any((c, m.name) in found for c in titles)]
    return {
        "measures": [(m.title, m.definition) for m in measures],
        "rows": [
            (title, [cell(found.get((name, m.name)), m.name) for m in measures])
            for name, title in titles.items()
            if any((name, m.name) in found for m in measures)
        ],
    }


def board_csv(board: Board, measure: str) -> str:
    """Return a table's numbers as CSV: one line per method and criterion, with intervals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "model", "method", "criterion", "measure", "value", "low", "high", "cases", "probes"])
    task, model = board.task["name"], board.model["name"]
    for row in board.rows:
        for found in row["raw"]:
            numbers = [found[key] for key in ("value", "low", "high", "cases", "probes")]
            # A leading quote keeps a spreadsheet from running a name as a formula.
            name = f"'{row['name']}" if row["name"][:1] in "=+-@" else row["name"]
            writer.writerow(
                [task, model, name, found["criterion"], measure, *("" if n is None else n for n in numbers)]
            )
    return out.getvalue()


# --- a model's page ----------------------------------------------------------------------------------------------


def model_page(model: Mapping[str, Any]) -> str:
    """Return the site's path of a model's page; other weights have a page of their own."""
    return f"models/{slug(model['name'])}-{model['weight_hash'][:8]}.html"


ANALYSIS_TITLES = {
    "localise": ("Where facts and grammar seem to sit", "knbench localise"),
    "suppress": ("What silencing neurons does", "knbench suppress"),
    "trace": ("Which states carry the answer", "knbench trace"),
}
FIGURE_NOTES = {
    "measures.svg": "How many knowledge neurons are found, which share of the prompts had to agree, and how alike the "
    "prompts' attributions are; means over groups of prompts with 95% intervals.",
    "layers.svg": "In which layers the neurons lie.",
    "overlap.svg": "Neurons that groups of two tasks share, in percent of those that either has.",
    "traces.svg": "Probability of the answer that comes back when what was blurred is put back, by layer and role.",
}


def model_view(model: Mapping[str, Any], runs: Sequence[Run], analyses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a model's provenance, the results on it, and the figures of its analyses."""
    sections, files, stem = [], {}, slug(model_page(model).removesuffix(".html"))
    for document in analyses:
        title, command = ANALYSIS_TITLES[document["analysis"]]
        groups = [group["key"] for group in document["result"].get("groups", ())]
        named = {f"words-{n}.svg": f"Change of each word: {key}." for n, key in enumerate(groups, start=1)}
        figures = []
        for file, svg in analysis_figures(document).items():
            path = f"figures/{stem}-{document['analysis']}-{file}"
            files[path] = svg
            figures.append((FIGURE_NOTES.get(file) or named[file], path))
        sections.append(
            {"title": title, "command": command, "figures": figures, "json": json.dumps(document, indent=1)}
        )
    methods = sorted({run.result["editor"]["name"] for run in runs})
    tasks = {task_page(run.result["task"]): run.result["task"]["title"] for run in runs}
    return {
        "model": model,
        "facts": _flat({k: v for k, v in model.items() if k not in ("name", "weight_hash")}),
        "methods": [(name, method_page(name)) for name in methods],
        "tasks": sorted((title, path) for path, title in tasks.items()),
        "sections": sections,
        "files": files,
    }


# --- a task's page -----------------------------------------------------------------------------------------------


def task_page(task: Mapping[str, Any]) -> str:
    """Return the site's path of a task's page; versions have pages of their own."""
    return f"tasks/{slug(task['name'])}-v{task['version']}.html"


def task_view(runs: Sequence[Run]) -> dict[str, Any]:
    """Return a task's definition, one case of it as an example, and every result on it."""
    first = runs[0]
    record = min(first.records(), key=lambda r: r["index"])
    return {
        "task": first.result["task"],
        "example": case_view(record),
        "rows": [
            {
                "name": run.result["editor"]["name"],
                "page": method_page(run.result["editor"]["name"]),
                "model": run.result["model"]["name"],
                "notes": protocol_notes(run.result),
                "cells": [
                    cell(_found(run.result, criterion, "success"), "success")
                    for criterion in ("reliability", "score", "extended_score")
                ],
            }
            for run in sorted(runs, key=lambda run: run.result["editor"]["name"])
        ],
    }


def _found(result: Mapping[str, Any], criterion: str, measure: str) -> Mapping[str, Any] | None:
    rows = result["summary"]
    return next((row for row in rows if (row["criterion"], row["measure"]) == (criterion, measure)), None)


def case_view(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return one case for the drill-down."""
    request = record["request"]
    probes = [probe_view(probe) for probe in record["probes"]]
    return {
        "id": record["case_id"],
        "edit": request["prompt"].replace("{}", request["subject"], 1),
        "new": request["target_new"],
        "true": request["target_true"],
        "failure": record["failure"],
        "seconds": record["timings"].get("edit_seconds"),
        "probes": probes,
        "marks": _marks(probes),
    }


def _marks(probes: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return (criterion, passed, asked) per criterion."""
    counts: dict[str, list[int]] = {}
    for probe in probes:
        if probe["passed"] is not None:
            tally = counts.setdefault(probe["criterion"], [0, 0])
            tally[0] += probe["passed"]
            tally[1] += 1
    return [(criterion, passed, asked) for criterion, (passed, asked) in counts.items()]


def probe_view(probe: Mapping[str, Any]) -> dict[str, Any]:
    """Return one probe with both answers, and whether it passes by ``success``."""
    after = probe["after"]
    value = None if after is None else MEASURES["success"].of(probe, probe["before"], after)
    passed = None if value is None else bool(value)
    wanted = {"new": "shall say", "unchanged": "shall still say", "gone": "shall no longer say"}[probe["expect"]]
    return {
        "criterion": CRITERIA[probe["criterion"]].title if probe["criterion"] in CRITERIA else probe["criterion"],
        "kind": probe["kind"],
        "prompt": probe["prompt"],
        "target": probe["target"],
        "rival": probe["rival"],
        "wanted": wanted,
        "passed": passed,
        "before": _said(probe["before"]),
        "after": _said(after),
    }


def _said(observation: Mapping[str, Any] | None) -> dict[str, str] | None:
    if observation is None:
        return None
    if "text" in observation:
        return {"text": observation["text"].strip() or "(nothing)", "target": "", "rival": ""}
    return {
        "text": observation["generated"].strip() or "(nothing)" if "generated" in observation else "",
        "target": _probability(observation["target"]["logprob"]),
        "rival": _probability(observation["rival"]["logprob"]),
    }


def _probability(logprob: float) -> str:
    """Return a probability in as few digits as tell something; a sentence's as its logarithm.

    >>> _probability(-0.01), _probability(-5.0), _probability(-50.0)
    ('0.990', '0.0067', 'e^-50.0')
    """
    if logprob < -25:
        return f"e^{logprob:.1f}"
    p = math.exp(logprob)
    return f"{p:.3f}" if p >= 0.01 else f"{p:.1e}" if p < 0.001 else f"{p:.4f}"
