"""Figures of analyses as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .figures import MARKERS, PALETTE, style, svg_of

TRACE_ROLES = ("subject first", "subject middle", "subject last", "next", "further", "last")


def analysis_figures(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of an analysis as SVG by file name; none where every part failed, or where a table does."""
    kind, result = document["analysis"], document["result"]
    if kind == "known":
        return {}
    if kind == "localise":
        good = [task for task in result["tasks"] if task["groups"]]
        if not good:
            return {}
        return {
            "measures.svg": _measures(good),
            "layers.svg": _layers(good),
            "overlap.svg": _overlap(result["overlap"]),
        }
    if kind == "suppress":
        return {f"words-{n}.svg": _words(group, result["words"]) for n, group in enumerate(result["groups"], start=1)}
    good = [task for task in result["tasks"] if task["effects"]]
    return {"traces.svg": _traces(good)} if good else {}


def _measures(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Draw |KN|, tau and R1^2 of every task with their intervals, facts in one colour and phenomena in the other."""
    titles = {
        "neurons": "|KN|, neurons found",
        "tau": "\u03c4, share of prompts that agree",
        "r1_squared": "R\u2081\u00b2, likeness",
    }
    with style() as plt:
        figure, axes = plt.subplots(
            1, 3, figsize=(10.5, 1.2 + 0.38 * len(tasks)), sharey=True, squeeze=False, layout="constrained"
        )
        for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
            for place, task in enumerate(tasks):
                found, fact = task[name], task["kind"] == "fact"
                look = {"color": PALETTE[0 if fact else 1], "marker": MARKERS[0 if fact else 1]}
                if found["low"] is not None:
                    axis.plot([found["low"], found["high"]], [place, place], color=look["color"], linewidth=2)
                axis.plot(found["value"], place, markersize=7, linestyle="", **look)
            axis.set_title(title)
            axis.set_xlim(left=0)
            if name != "neurons":
                axis.set_xlim(right=1.02)
        axes[0][0].set_yticks(range(len(tasks)), [task["task"] for task in tasks])
        axes[0][0].invert_yaxis()
        _kinds_legend(plt, figure)
        return svg_of(figure)


def _kinds_legend(plt: Any, figure: Any) -> None:
    handles = [
        plt.Line2D([], [], color=PALETTE[i], marker=MARKERS[i], linestyle="", label=label)
        for i, label in enumerate(("facts", "phenomena"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)


def _layers(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Draw in which layers the neurons of facts and of phenomena lie."""
    layers = len(tasks[0]["layers"])
    with style() as plt:
        figure, axes = plt.subplots(2, 1, figsize=(7.5, 4.6), sharex=True, layout="constrained")
        for number, (axis, kind, title) in enumerate(
            zip(axes, ("fact", "linguistic"), ("facts", "phenomena"), strict=True)
        ):
            counts = [sum(task["layers"][n] for task in tasks if task["kind"] == kind) for n in range(layers)]
            axis.bar(range(layers), counts, color=PALETTE[number])
            axis.set_ylabel(f"neurons of {title}")
            axis.grid(axis="x", visible=False)
        _layer_axis(plt, axes[1])
        return svg_of(figure)


def _layer_axis(plt: Any, axis: Any) -> None:
    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))


def _words(group: Mapping[str, Any], words: Mapping[str, Sequence[str]]) -> str:
    """Draw the relative change of each word; filled where the corrected paired test finds it, open where not."""
    numbers = list(dict.fromkeys(row["frames"] for row in group["words"]))
    flat = [word for members in words.values() for word in members]
    colour = {word: PALETTE[i % len(PALETTE)] for i, members in enumerate(words.values()) for word in members}
    with style() as plt:
        figure, axes = plt.subplots(
            len(numbers), 1, figsize=(8.5, 2.6 * len(numbers)), sharex=True, squeeze=False, layout="constrained"
        )
        for axis, number in zip(axes.flat, numbers, strict=True):
            found = {row["word"]: row for row in group["words"] if row["frames"] == number}
            for place, word in enumerate(flat):
                row = found[word]
                sure = row["p_adjusted"] is not None and row["p_adjusted"] < 0.05
                axis.bar(
                    place, 100 * row["relative_change"], edgecolor=colour[word],
                    color=colour[word] if sure else "white", linewidth=1.5,
                )  # fmt: skip
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_title(f"{number} sentences")
            if max(abs(row["relative_change"]) for row in found.values()) > 3:
                axis.set_yscale("symlog", linthresh=100)  # what was improbable can become a thousand times likelier
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
        return svg_of(figure)


def _overlap(overlap: Mapping[str, Any]) -> str:
    """Draw how many neurons the groups of two tasks share."""
    names, size = overlap["tasks"], len(overlap["tasks"])
    table = [[math.nan if value is None else 100 * value for value in row] for row in overlap["jaccard"]]
    with style() as plt:
        figure, axis = plt.subplots(figsize=(3 + 0.62 * size, 1.8 + 0.5 * size), layout="constrained")
        top = max((value for row in table for value in row if not math.isnan(value)), default=0) or 1
        image = axis.imshow(table, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        for y, row in enumerate(table):
            for x, value in enumerate(row):
                if not math.isnan(value):
                    ink = "white" if value > 0.6 * top else "black"
                    axis.text(x, y, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=9)
        axis.set_xticks(range(size), names, rotation=45, ha="right")
        axis.set_yticks(range(size), names)
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="shared neurons, %")
        return svg_of(figure)


def _traces(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Draw the average indirect effect by role and layer, facts beside phenomena: states, MLPs, attention."""
    titles = {"state": "states", "mlp": "MLP outputs", "attention": "attention outputs"}
    roles = [role for role in TRACE_ROLES if any(role in found for task in tasks for found in task["effects"].values())]
    with style() as plt:
        figure, axes = plt.subplots(
            3, len(tasks), figsize=(2.2 + 4.4 * len(tasks), 3 * (1.0 + 0.32 * len(roles))),
            sharex=True, sharey=True, squeeze=False, layout="constrained",
        )  # fmt: skip
        for column, task in enumerate(tasks):
            for line, (kind, title) in enumerate(titles.items()):
                axis, found = axes[line][column], task["effects"].get(kind, {})
                layers = len(next(iter(found.values()))["effect"])
                table = [found[role]["effect"] if role in found else [math.nan] * layers for role in roles]
                # One scale a panel: a phenomenon's probabilities are far smaller than a fact's.
                top = max(abs(value) for row in table for value in row if not math.isnan(value)) or 1.0
                image = axis.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
                axis.set_yticks(range(len(roles)), roles)
                axis.grid(visible=False)
                axis.set_title(f"{title} put back")
                figure.colorbar(image, ax=axis, label="ΔP" if column == len(tasks) - 1 else None)
            head = f"{task['task']}\nP {task['clean']:.2g}, blurred {task['corrupted']:.2g}"
            axes[0][column].set_title(f"{head}\n\n{titles['state']} put back")
            _layer_axis(plt, axes[2][column])
        return svg_of(figure)
