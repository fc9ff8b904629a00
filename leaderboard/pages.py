"""What the pages beside the boards show, as plain values: no markup here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ..benchmark.results.analysis_figures import analysis_figures
from ..benchmark.results.comparison import compare_values, corrected
from ..benchmark.results.figures import retention_figure
from ..benchmark.results.store import slug
from ..benchmark.scoring.criteria import CRITERIA, MEASURES
from .boards import SCORES, task_slug
from .cases import case_anchor
from .cells import bar, cell, number, p_value, signed
from .entries import Entry, Section, notes_of, share_of

SHOWN_MEASURE = "success"
"""What pages show that have room for one measure."""
MOST_COMPARED = 24
"""Methods of a section that are compared each with each; of more, the first ones."""
EXTREMES = 3
"""Best and worst cases that a method's page names."""


def method_page(name: str) -> str:
    """Return the site's path of a method's page."""
    return f"methods/{slug(name)}.html"


def task_page(task: Mapping[str, Any]) -> str:
    """Return the site's path of a task's page; versions have pages of their own."""
    return f"tasks/{slug(task['name'])}-v{task['version']}.html"


def model_page(model: Mapping[str, Any]) -> str:
    """Return the site's path of a model's page; other weights have a page of their own."""
    return f"models/{slug(model['name'])}-{model['weight_hash'][:8]}.html"


def entry_page(section: str, entry: Entry | Mapping[str, Any]) -> str:
    """Return the site's path of a result's page, with every case."""
    result = entry.result if isinstance(entry, Entry) else entry
    task = (result["task"]["name"], result["task"]["version"])
    return f"results/{slug(result['editor']['name'])}/{section}/{slug(task_slug(task))}.html"


def pair_page(section: Section, first: str, second: str) -> str:
    """Return the site's path of the page on which two methods are compared, whichever is named first."""
    a, b = sorted((first, second))
    return f"compare/{section.key}/{slug(a)}--{slug(b)}.html"


# --- a result's page ---------------------------------------------------------------------------------------------


def entry_view(result: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """Return all numbers of a result, its settings and machine, and its curve.

    Args:
        result: the result.
        stem: the path of its page without the suffix, for its figure.
    """
    figure = f"figures/{slug(stem)}.svg" if "curve" in result else ""
    return {
        "result": result,
        "hyper_parameters": flat(result["editor"]["config"]),
        "environment": flat(result["environment"]),
        "summary": _summary_table(result),
        "figure": figure,
        "files": {figure: retention_figure([result])} if figure else {},
        "drift": drift_rows(result),
    }


def drift_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (task, before, after, difference) of everything that drift was measured on, after the last edit."""
    rows = []
    for task in result.get("drift", {"tasks": []})["tasks"]:
        for point in task["points"][-1:]:
            before, after = task["before"], task["before"] + point["difference"]
            name = task["task"].removeprefix("knbench_").replace("_", " ")
            if task["metric"] == "nll":
                before, after = math.exp(before), math.exp(min(after, 50))
                name = "perplexity (difference in nats per token)"
            interval = "" if point["low"] is None else f" [{point['low']:+.3f}, {point['high']:+.3f}]"
            rows.append((name, f"{before:.3f}", f"{after:.3f}", f"{point['difference']:+.3f}{interval}"))
    return rows


def perplexity_drift(entries: Sequence[Entry]) -> float | None:
    """Return the mean change of perplexity over results, in nats per token; None where it was not measured."""
    found = [
        task["points"][-1]["difference"]
        for entry in entries
        for task in entry.result.get("drift", {"tasks": []})["tasks"]
        if task["metric"] == "nll" and task["points"]
    ]
    return sum(found) / len(found) if found else None


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as rows; what is None is left out."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += flat(item, f"{prefix}{key} ")
        elif item is not None:
            rows.append((prefix + key, str(item)))
    return rows


def _summary_table(result: Mapping[str, Any]) -> dict[str, Any]:
    """Criteria as rows, measures as columns."""
    found = {(row["criterion"], row["measure"]): row for row in result["summary"]}
    titles = {**{c.name: c.title for c in CRITERIA.values()}, **SCORES}
    measures = [m for m in MEASURES.values() if any((c, m.name) in found for c in titles)]
    return {
        "measures": [(m.title, m.definition) for m in measures],
        "rows": [
            (title, [cell(found.get((name, m.name)), m.name) for m in measures])
            for name, title in titles.items()
            if any((name, m.name) in found for m in measures)
        ],
    }


# --- a method's page ---------------------------------------------------------------------------------------------


def method_view(
    name: str, sections: Sequence[Section], cases: Sequence[Mapping[str, Any]], card: str, reported: Sequence[Any]
) -> dict[str, Any]:
    """Return a method's card, all of its results, its best and worst cases, and what papers report of it.

    Args:
        name: the method.
        sections: all sections.
        cases: of its cases that have one a ``score``, with the ``page`` that shows them.
        card: its description as safe HTML, or nothing.
        reported: numbers from papers.
    """
    mine = [(section, entry) for section in sections for entry in section.of(name)]
    ordered = sorted(cases, key=lambda case: (case["score"], case["page"], case["anchor"]))
    return {
        "name": name,
        "card": card,
        "editor": mine[0][1].result["editor"] if mine else {"name": name, "summary": "", "paper": ""},
        "configs": _configs(mine),
        "sections": [
            {
                "section": section,
                "notes": notes_of(section),
                "rows": [_entry_row(section, entry) for entry in section.of(name)],
                "others": [
                    m for m in section.methods[:MOST_COMPARED] if m != name and name in section.methods[:MOST_COMPARED]
                ],
            }
            for section in sections
            if name in section.methods
        ],
        "best": ordered[::-1][:EXTREMES],
        "worst": ordered[:EXTREMES],
        "reported": reported,
    }


def _configs(mine: Sequence[tuple[Section, Entry]]) -> list[dict[str, Any]]:
    """Return the hyper-parameters that were used, with the models they were used on."""
    found: dict[str, dict[str, Any]] = {}
    for _, entry in mine:
        editor, model = entry.result["editor"], entry.result["model"]["name"]
        key = json.dumps([editor["config"], editor["config_source"]], sort_keys=True)
        item = found.setdefault(
            key,
            {
                "values": flat(editor["config"]), "source": editor["config_source"], "models": [],
                "version": entry.result["benchmark_version"], "machines": [],
            },
        )  # fmt: skip
        machine = machine_of(entry.result["environment"])
        if machine and machine not in item["machines"]:
            item["machines"].append(machine)
        if model not in item["models"]:
            item["models"].append(model)
    return list(found.values())


def machine_of(environment: Mapping[str, Any]) -> str:
    """Say in a few words what a result was measured on.

    >>> machine_of({"processor": "EPYC", "threads": 2, "device": "cpu", "packages": {"torch": "2.13"}})
    'EPYC, 2 threads, torch 2.13'
    """
    device = environment.get("device", "cpu")
    threads = environment.get("threads")
    words = [environment.get("processor") if device == "cpu" else device]
    words += [f"{threads} thread{'s' if threads != 1 else ''}"] if threads and device == "cpu" else []
    torch = environment.get("packages", {}).get("torch")
    return ", ".join(filter(None, [*words, f"torch {torch}" if torch else ""]))


def _entry_row(section: Section, entry: Entry) -> dict[str, Any]:
    return {
        "task": entry.result["task"],
        "page": entry_page(section.key, entry),
        "badges": entry.badges,
        "cells": [
            cell(_found(entry.result, criterion, SHOWN_MEASURE), SHOWN_MEASURE)
            for criterion in ("reliability", "score", "extended_score")
        ],
        "seconds": entry.result["cost"]["edit_seconds"],
        "failed": entry.result["records"]["failed"],
        "cases": entry.result["records"]["cases"],
    }


def _found(result: Mapping[str, Any], criterion: str, measure: str) -> Mapping[str, Any] | None:
    rows = result["summary"]
    return next((row for row in rows if (row["criterion"], row["measure"]) == (criterion, measure)), None)


# --- comparing two methods ---------------------------------------------------------------------------------------


def pairs_of(section: Section) -> list[tuple[str, str]]:
    """Return the pairs of methods that have a page of their own."""
    return list(combinations(section.methods[:MOST_COMPARED], 2))


def pair_view(section: Section, first: str, second: str) -> dict[str, Any]:
    """Return two methods side by side on the cases that both were run on: paired tests, and where they differ."""
    share = share_of(SHOWN_MEASURE)
    rows: list[dict[str, Any]] = []
    cases = []
    for task in section.tasks():
        members = section.entries[task]
        if {first, second} <= set(members):
            a, b = (members[name].values[SHOWN_MEASURE] for name in (first, second))
            rows += compare_values(task[0], a, b)
            cases += [
                {"task": task[0], "criterion": CRITERIA[c].title, "case": i, "a": number(a[c][i], share),
                 "b": number(b[c][i], share), "page": f"{entry_page(section.key, members[first])}#{case_anchor(i)}"}
                for c in a if c in b for i in a[c] if i in b[c] and a[c][i] != b[c][i]
            ]  # fmt: skip
    corrected(rows)
    return {
        "a": first,
        "b": second,
        "rows": [
            {
                "task": row["task"],
                "criterion": CRITERIA[row["criterion"]].title,
                "cases": row["cases"],
                "a": number(row["a"], share),
                "b": number(row["b"], share),
                "difference": signed(row["difference"], share),
                "interval": ""
                if row["low"] is None
                else f"[{signed(row['low'], share)}, {signed(row['high'], share)}]",
                "p": p_value(row["p"]),
                "p_adjusted": p_value(row["p_adjusted"]),
                "sure": row["p_adjusted"] is not None and row["p_adjusted"] < 0.05,
                "ahead": "a" if row["difference"] > 0 else "b" if row["difference"] < 0 else "",
                "wins": f"{row['wins']} / {row['losses']} / {row['ties']}",
                "mcnemar": ""
                if row["p_mcnemar"] is None
                else f"{row['only_a']} : {row['only_b']}, p {p_value(row['p_mcnemar'])}",
            }
            for row in rows
        ],
        "cases": cases,
    }


# --- a model's page ----------------------------------------------------------------------------------------------

ANALYSIS_TITLES = {
    "known": ("What it knew before any edit", "knbench known"),
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


def model_view(
    model: Mapping[str, Any], sections: Sequence[Section], analyses: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a model's provenance, what it knew before any edit, its boards, and the figures of its analyses."""
    chapters, files, stem = [], {}, slug(model_page(model).removesuffix(".html"))
    for document in analyses:
        title, command = ANALYSIS_TITLES[document["analysis"]]
        groups = [group["key"] for group in document["result"].get("groups", ())]
        named = {f"words-{n}.svg": f"Change of each word: {key}." for n, key in enumerate(groups, start=1)}
        figures = []
        for file, svg in analysis_figures(document).items():
            path = f"figures/{stem}-{document['analysis']}-{file}"
            files[path] = svg
            figures.append((FIGURE_NOTES.get(file) or named[file], path))
        known = _known_rows(document, sections) if document["analysis"] == "known" else []
        chapters.append(
            {"title": title, "command": command, "figures": figures, "known": known,
             "json": json.dumps(document, indent=1)}
        )  # fmt: skip
    return {
        "model": model,
        "facts": flat({k: v for k, v in model.items() if k not in ("name", "weight_hash")}),
        "sections": [(section, notes_of(section)) for section in sections],
        "known_columns": KNOWN_COLUMNS,
        "unedited": _unedited_rows(sections),
        "methods": [(name, method_page(name)) for name in sorted({m for s in sections for m in s.methods})],
        "chapters": chapters,
        "files": files,
    }


KNOWN_COLUMNS = (
    ("success", "Preferred", "The true answer is more probable than the new one"),
    ("exact", "Exact", "Every token of the true answer is the most probable one"),
    ("generated", "Generated", "The greedy continuation begins with the true answer"),
    ("ranked_first", "Ranked first", "The true answer is the most probable of all answers that the task has"),
    ("sentences", "Sentences", "Of a minimal pair the grammatical sentence is the more probable one, as in BLiMP"),
)


def _known_rows(document: Mapping[str, Any], sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return what a model knows of each task; only those with results have a page to point to."""
    pages = {task for section in sections for task in section.tasks()}
    return [
        {
            "task": {"kind": row["kind"], "title": row["title"], "name": row["task"], "version": row["version"]},
            "has_page": (row["task"], row["version"]) in pages,
            "cases": row["cases"],
            "values": [None if row[name] is None else (number(row[name], True), bar(row[name], True))
                       for name, _, _ in KNOWN_COLUMNS],
        }
        for row in sorted(document["result"]["tasks"], key=lambda row: (row["kind"], row["task"]))
    ]  # fmt: skip


def _unedited_rows(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return one row per task: of several regimes that of the most cases, since none of them is edited."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for section in sections:
        for task in section.tasks():
            row = _unedited(section, task)
            if task not in rows or row["run"] > rows[task]["run"]:
                rows[task] = row
    return list(rows.values())


def _unedited(section: Section, task: tuple[str, int]) -> dict[str, Any]:
    """Return what the model did on a task before any edit, as the editor that does nothing shows it."""
    members = section.entries[task]
    about = next(iter(members.values())).result
    control = members.get("none")
    criteria = ("reliability", "paraphrase", "symmetry", "synonym")
    return {
        "task": about["task"],
        "run": about["records"]["cases"],
        "cases": f"{about['records']['cases']} of {about['task']['cases_total']}",
        "cells": [cell(_found(control.result, c, SHOWN_MEASURE), SHOWN_MEASURE) if control else None for c in criteria],
    }


# --- a task's page -----------------------------------------------------------------------------------------------


def task_view(task: tuple[str, int], sections: Sequence[Section], example: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's definition, one case of it as an example, and every result on it."""
    mine = [section for section in sections if task in section.entries]
    return {
        "task": next(iter(mine[0].entries[task].values())).result["task"],
        "example": example,
        "sections": [
            {
                "section": section,
                "notes": notes_of(section),
                "rows": [
                    {"method": name, **_entry_row(section, entry)}
                    for name, entry in sorted(section.entries[task].items())
                ],
            }
            for section in mine
        ],
    }
