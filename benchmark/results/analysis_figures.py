"""Figures of analyses as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.schema import JsonObject
from .figures import MARKERS, PALETTE, plot_style, to_svg

TRACE_ROLES = ("subject first", "subject middle", "subject last", "next", "further", "last")


def analysis_figures(document: JsonObject) -> dict[str, str]:
    """Draw the figures of an analysis.

    Args:
        document: content of an ``analysis.json``.

    Returns:
        SVG text by file name. Empty for ``known``, which is shown as a table, and if every part of the analysis failed.
    """
    kind, result = document["analysis"], document["result"]
    if kind == "known":
        return {}
    if kind == "localise":
        tasks = [task for task in result["tasks"] if task["groups"]]
        if not tasks:
            return {}
        return {
            "measures.svg": _measures(tasks),
            "layers.svg": _layers(tasks),
            "overlap.svg": _overlap(result["overlap"]),
        }
    if kind == "suppress":
        return {f"words-{n}.svg": _words(group, result["words"]) for n, group in enumerate(result["groups"], start=1)}
    tasks = [task for task in result["tasks"] if task["effects"]]
    return {"traces.svg": _traces(tasks)} if tasks else {}


def _measures(tasks: Sequence[JsonObject]) -> str:
    """Draw |KN|, tau and R1^2 of every task with 95% intervals. Facts and phenomena have different colours."""
    titles = {
        "neurons": "|KN|, neurons found",
        "tau": "\u03c4, share of prompts that agree",
        "r1_squared": "R\u2081\u00b2, similarity",
    }
    with plot_style() as plt:
        figure, axes = plt.subplots(
            1, 3, figsize=(10.5, 1.2 + 0.38 * len(tasks)), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
            for y, task in enumerate(tasks):
                estimate, series = task[name], 0 if task["kind"] == "fact" else 1
                colour = PALETTE[series]
                if estimate["low"] is not None:
                    axis.plot([estimate["low"], estimate["high"]], [y, y], color=colour, linewidth=2)
                axis.plot(estimate["value"], y, markersize=7, linestyle="", color=colour, marker=MARKERS[series])
            axis.set_title(title)
            axis.set_xlim(left=0)
            if name != "neurons":
                axis.set_xlim(right=1.02)
        axes[0][0].set_yticks(range(len(tasks)), [task["task"] for task in tasks])
        axes[0][0].invert_yaxis()
        _kinds_legend(plt, figure)
        return to_svg(figure)


def _kinds_legend(plt: Any, figure: Any) -> None:
    handles = [
        plt.Line2D([], [], color=PALETTE[i], marker=MARKERS[i], linestyle="", label=label)
        for i, label in enumerate(("facts", "phenomena"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)


def _layers(tasks: Sequence[JsonObject]) -> str:
    """Draw the number of neurons in each layer, facts above phenomena."""
    layers = len(tasks[0]["layers"])
    with plot_style() as plt:
        figure, axes = plt.subplots(2, 1, figsize=(7.5, 4.6), sharex=True, layout="constrained")
        for number, (axis, kind, title) in enumerate(
            zip(axes, ("fact", "linguistic"), ("facts", "phenomena"), strict=True)
        ):
            counts = [sum(task["layers"][n] for task in tasks if task["kind"] == kind) for n in range(layers)]
            axis.bar(range(layers), counts, color=PALETTE[number])
            axis.set_ylabel(f"neurons of {title}")
            axis.grid(axis="x", visible=False)
        _layer_axis(plt, axes[1])
        return to_svg(figure)


def _layer_axis(plt: Any, axis: Any) -> None:
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))


def _words(group: JsonObject, words: Mapping[str, Sequence[str]]) -> str:
    """Draw the relative change of each word. A bar is filled if the corrected paired test is significant."""
    numbers = list(dict.fromkeys(row["frames"] for row in group["words"]))
    flat = [word for members in words.values() for word in members]
    colour = {word: PALETTE[i % len(PALETTE)] for i, members in enumerate(words.values()) for word in members}
    with plot_style() as plt:
        figure, axes = plt.subplots(
            len(numbers), 1, figsize=(8.5, 2.6 * len(numbers)), sharex=True, squeeze=False, layout="constrained"
        )
        for axis, number in zip(axes.flat, numbers, strict=True):
            rows = {row["word"]: row for row in group["words"] if row["frames"] == number}
            for x, word in enumerate(flat):
                row = rows[word]
                significant = row["p_adjusted"] is not None and row["p_adjusted"] < 0.05
                axis.bar(
                    x, 100 * row["relative_change"], edgecolor=colour[word],
                    color=colour[word] if significant else "white", linewidth=1.5,
                )  # fmt: skip
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_title(f"{number} sentences")
            if max(abs(row["relative_change"]) for row in rows.values()) > 3:
                axis.set_yscale("symlog", linthresh=100)  # improbable words can become 1000 times more probable
                axis.yaxis.set_major_formatter(plt.FuncFormatter(lambda value, _: f"{value:+,.0f}"))
            axis.set_ylabel("change of probability, %")
            axis.grid(axis="x", visible=False)
            axis.set_xticks(range(len(flat)), flat, rotation=45, ha="right")
        handles = [
            plt.Rectangle((0, 0), 1, 1, color=PALETTE[i % len(PALETTE)], label=name) for i, name in enumerate(words)
        ]
        handles += [
            plt.Rectangle((0, 0), 1, 1, facecolor=face, edgecolor="black", label=label)
            for face, label in (("grey", "p < .05"), ("white", "not significant"))
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
        return to_svg(figure)


def _overlap(overlap: JsonObject) -> str:
    """Draw the Jaccard index of the neurons of each pair of tasks, in percent."""
    names, size = overlap["tasks"], len(overlap["tasks"])
    table = [[math.nan if value is None else 100 * value for value in row] for row in overlap["jaccard"]]
    with plot_style() as plt:
        figure, axis = plt.subplots(figsize=(3 + 0.62 * size, 1.8 + 0.5 * size), layout="constrained")
        largest = max((value for row in table for value in row if not math.isnan(value)), default=0) or 1
        image = axis.imshow(table, cmap="Blues", vmin=0, vmax=largest, aspect="auto", interpolation="nearest")
        for y, row in enumerate(table):
            for x, value in enumerate(row):
                if not math.isnan(value):
                    text_colour = "white" if value > 0.6 * largest else "black"
                    axis.text(x, y, f"{value:.0f}", ha="center", va="center", color=text_colour, fontsize=9)
        axis.set_xticks(range(size), names, rotation=45, ha="right")
        axis.set_yticks(range(size), names)
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="shared neurons, %")
        return to_svg(figure)


def _traces(tasks: Sequence[JsonObject]) -> str:
    """Draw the average indirect effect by token role and layer, one column per task.

    The rows restore hidden states, MLP outputs and attention outputs.
    """
    titles = {"state": "states", "mlp": "MLP outputs", "attention": "attention outputs"}
    effects = [by_role for task in tasks for by_role in task["effects"].values()]
    roles = [role for role in TRACE_ROLES if any(role in by_role for by_role in effects)]
    with plot_style() as plt:
        figure, axes = plt.subplots(
            3, len(tasks), figsize=(2.2 + 4.4 * len(tasks), 3 * (1.0 + 0.32 * len(roles))),
            sharex=True, sharey=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for column, task in enumerate(tasks):
            for row_number, (kind, title) in enumerate(titles.items()):
                axis, by_role = axes[row_number][column], task["effects"].get(kind, {})
                layers = len(next(iter(by_role.values()))["effect"])
                table = [by_role[role]["effect"] if role in by_role else [math.nan] * layers for role in roles]
                # Each panel has its own scale: probabilities of phenomena are much smaller than those of facts.
                largest = max(abs(value) for row in table for value in row if not math.isnan(value)) or 1.0
                image = axis.imshow(
                    table, aspect="auto", cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest"
                )
                axis.set_yticks(range(len(roles)), roles)
                axis.grid(visible=False)
                axis.set_title(f"{title} restored")
                figure.colorbar(image, ax=axis, label="ΔP" if column == len(tasks) - 1 else None)
            heading = f"{task['task']}\nP {task['clean']:.2g}, corrupted {task['corrupted']:.2g}"
            axes[0][column].set_title(f"{heading}\n\n{titles['state']} restored")
            _layer_axis(plt, axes[2][column])
        return to_svg(figure)
