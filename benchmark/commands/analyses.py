"""``knbench localise``, ``suppress`` and ``trace``: what a model's neurons have to do with facts and with grammar."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InterruptedRun, KnbenchError
from ..core.files import json_text, write_text
from ..core.schema import Case, Task, derived_seed
from ..models.loading import DEFAULT_MODEL, check_model_name
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, TASKS_HELP, check_device, chosen_tasks

if TYPE_CHECKING:
    from ..analyses.base import AnalysisPart
    from ..models.language_model import LanguageModel


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what the three commands have in common."""
    for option in reversed(
        (
            click.option("--model", default=DEFAULT_MODEL, show_default=True, help="As for knbench run."),
            click.option("--tasks", required=True, help=TASKS_HELP),
            INCLUDE_OPTION,
            DATA_OPTION,
            click.option("--all-cases", is_flag=True, help="Also cases whose true answer the model does not prefer."),
            click.option("--seed", type=int, default=0, show_default=True, help="Decides every random choice."),
            click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps."),
            click.option(
                "--output",
                "--output_path",
                type=click.Path(path_type=Path),
                help="Folder for analysis.json and figures. [default: analyses/COMMAND-MODEL]",
            ),
            JSON_FLAG,
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Shared:
    """What the three commands are told alike."""

    model: str
    tasks: str
    include_path: Sequence[Path]
    data: Sequence[str]
    all_cases: bool
    seed: int
    device: str
    output: Path | None
    as_json: bool

    def chosen(self) -> list[Task]:
        """Return the tasks, once model name and device are known to be right."""
        check_model_name(self.model)
        chosen = chosen_tasks(self.tasks, self.include_path, self.data)
        check_device(self.device)
        return chosen

    def cases(self, lm: LanguageModel, task: Task) -> list[Case]:
        """Return a task's cases that the model knows, in an order that the seed decides.

        Raises:
            KnbenchError: it knows none.
        """
        from ..probing.known import KnowledgeCache, known_cases
        from ..probing.masked import make_prober

        known = known_cases(KnowledgeCache.of(make_prober(lm, batch_size=64)), task)
        cases = [case for case in task.cases if self.all_cases or known.get(case.id, {}).get("success")]
        if not cases:
            raise KnbenchError(f"'{lm.name}' knows no case of task '{task.name}'; take all with --all-cases")
        return sorted(cases, key=lambda case: derived_seed(self.seed, "analysis", task.name, case.id))


def _run(
    name: str,
    shared: Shared,
    tasks: Sequence[Task],
    settings: Mapping[str, Any],
    plan: Callable[[LanguageModel], Sequence[AnalysisPart]],
    summarise: Callable[[LanguageModel, Sequence[Mapping[str, Any]]], Mapping[str, Any]],
) -> tuple[dict[str, Any], Path]:
    """Load the model, do the analysis or go on with it, and write its figures."""
    from ..analyses.base import analyse
    from ..models.loading import load_model
    from ..results.analysis_figures import analysis_figures
    from ..running.provenance import describe_model
    from .terminal import ProgressReporter

    lm = load_model(shared.model, device=shared.device)
    folder = shared.output or Path("analyses") / f"{name}-{lm.name.replace('/', '--')}"
    about = {
        **settings,
        "tasks": {task.name: {"version": task.version, "content": task.content_hash()} for task in tasks},
    }
    try:
        with ProgressReporter() as reporter:
            reporter.doing("choosing prompts")
            parts = plan(lm)
            document = analyse(
                name, lm, describe_model(lm), about, parts, lambda rows: summarise(lm, rows), folder, reporter
            )
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; what was found is kept: start the same command to continue") from None
    for file, svg in analysis_figures(document).items():
        write_text(folder / file, svg)
    return document, folder


def _finish(document: Mapping[str, Any], folder: Path, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json_text(document), nl=False)
        return
    show()
    failed = document["parts"]["failed"]
    if failed:
        click.echo(
            f"{failed} of {document['parts']['count']} parts failed; the reasons are in {folder / 'parts.jsonl'}"
        )
    click.echo(f"Analysis and figures: {folder}")


@click.command(
    "localise",
    epilog="\b\nExamples:\n  knbench localise --tasks capital,anaphor-gender\n"
    "  knbench localise --model toy-bert --tasks det-noun-agreement --groups 4\n",
)
@shared_options
@click.option("--groups", type=click.IntRange(min=1), default=5, show_default=True, help="Groups of a task at most.")
@click.option("--prompts", type=click.IntRange(min=2), default=9, show_default=True, help="Prompts of each group.")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Points of the integral.")
@click.option(
    "--threshold", type=float, default=0.2, show_default=True, help="Share of a prompt's largest attribution."
)
def localise_command(
    groups: int,
    prompts: int,
    steps: int,
    threshold: float,
    **common: Any,
) -> None:
    """Find the knowledge neurons of relations and of paradigms, and measure how well localised they are.

    For each group of prompts that ask for the same thing: how many neurons are found, which share of the prompts had to
    agree (tau), and how alike their attributions are (R1^2). Starting a stopped command again continues it.
    """
    shared = Shared(**common)
    chosen = shared.chosen()
    from dataclasses import asdict

    from ..analyses.base import AnalysisPart
    from ..analyses.localisation import LocaliseSettings, PromptGroup, groups_of, localise, overlap, summarise_groups
    from ..models.attribution import Integral, Search

    try:
        settings = LocaliseSettings(prompts, groups, shared.seed, Integral(steps), Search(threshold))
    except ValueError as error:
        raise KnbenchError(str(error)) from None

    def plan(lm: LanguageModel) -> list[AnalysisPart]:
        def part(task: Task, group: PromptGroup) -> AnalysisPart:
            return AnalysisPart(
                f"{task.name}: {group.name}", task.name, task.kind, lambda: localise(lm, group, settings)
            )

        found = []
        for task in chosen:
            members = groups_of(task, shared.cases(lm, task), settings)
            if not members:
                raise KnbenchError(f"task '{task.name}' has no group of {prompts} known prompts; lower --prompts")
            found += [part(task, group) for group in members]
        return found

    document, folder = _run(
        "localise", shared, chosen, {**asdict(settings), "all_cases": shared.all_cases}, plan,
        lambda lm, rows: {"tasks": summarise_groups(rows, lm.n_layers), "overlap": overlap(rows)},
    )  # fmt: skip

    def show() -> None:
        from .terminal import print_table

        def cell(row: Mapping[str, Any], name: str, digits: int) -> str:
            if name not in row:
                return "-"
            found = row[name]
            interval = "" if found["low"] is None else f" [{found['low']:.{digits}f}-{found['high']:.{digits}f}]"
            return f"{found['value']:.{digits}f}{interval}"

        table = [
            [r["task"], r["kind"], r["groups"], r["prompts"], cell(r, "neurons", 1), cell(r, "tau", 2),
             cell(r, "r1_squared", 2), max(range(len(r["layers"])), key=r["layers"].__getitem__)]
            for r in document["result"]["tasks"]
        ]  # fmt: skip
        header = ["task", "kind", "groups", "prompts", "|KN|", "tau", "R1^2", "fullest layer"]
        print_table(f"knowledge neurons of {document['model']['name']}", header, table)

    _finish(document, folder, shared.as_json, show)


@click.command(
    "suppress",
    epilog="\b\nExamples:\n  knbench suppress --tasks det-noun-agreement --neurons found --corpus stdlib\n"
    "  knbench suppress --tasks anaphor-gender --words reflexives --neurons 12:304,17:1021 --operation enhance\n",
)
@shared_options
@click.option(
    "--neurons",
    default="found",
    show_default=True,
    help="LAYER:INDEX, comma-separated; or 'found': those that localise finds, group by group.",
)
@click.option("--operation", type=click.Choice(["suppress", "enhance"]), default="suppress", show_default=True)
@click.option(
    "--words",
    default="determiners",
    show_default=True,
    help="The class: determiners, reflexives, or spelt out, such as singular=this|that,plural=these|those.",
)
@click.option("--limit", type=click.IntRange(min=2), default=40, show_default=True, help="Sentences at most.")
@click.option("--groups", type=click.IntRange(min=1), default=4, show_default=True, help="Groups to find neurons for.")
@click.option("--prompts", type=click.IntRange(min=2), default=9, show_default=True, help="Prompts of each group.")
@click.option("--corpus", help="Text file for the question of frequency; 'stdlib' is Python's own docstrings.")
def suppress_command(
    neurons: str,
    operation: str,
    words: str,
    limit: int,
    groups: int,
    prompts: int,
    corpus: str | None,
    **common: Any,
) -> None:
    """Silence (or enhance) neurons and compare the distribution over a class of words.

    The relative change of each word with a paired test, the share of categorical predictions that flip, and whether the
    change follows how often a word stands before singular or plural nouns. A stopped one goes on when called again.
    """
    shared = Shared(**common)
    chosen = shared.chosen()
    from ..analyses.base import AnalysisPart
    from ..analyses.localisation import LocaliseSettings, PromptGroup, groups_of, localise
    from ..analyses.suppression import (
        class_probabilities,
        corpus_words,
        follows_frequency,
        frames_of,
        noun_counts,
        word_class,
    )
    from ..analyses.suppression import suppress as suppress_neurons

    members = word_class(words)
    given = _read_neurons(neurons)
    text = corpus_words(corpus) if corpus else None
    how = LocaliseSettings(prompts, groups, shared.seed)

    def plan(lm: LanguageModel) -> list[AnalysisPart]:
        found = []
        for task in chosen:
            cases = shared.cases(lm, task)
            frames = frames_of(cases, members)[:limit]
            before: dict[str, Any] = {}

            def unedited(task: Task = task, frames: Any = frames, before: dict[str, Any] = before) -> Any:
                if task.name not in before:
                    before[task.name] = class_probabilities(lm, frames, members)
                return before[task.name]

            def work(group: PromptGroup | None, frames: Any = frames, unedited: Any = unedited) -> Mapping[str, Any]:
                located = [(n[0], n[1]) for n in localise(lm, group, how)["neurons"]] if group else given or []
                if not located:
                    raise ValueError("no neuron reaches the thresholds")
                return suppress_neurons(lm, located, operation, frames, members, unedited)  # type: ignore[arg-type]

            searched = [None] if given else groups_of(task, cases, how)
            if not searched:
                raise KnbenchError(f"task '{task.name}' has no group of {prompts} known prompts; lower --prompts")
            for group in searched:
                key = f"{task.name}: {group.name if group else neurons}"
                found.append(AnalysisPart(key, task.name, task.kind, partial(work, group)))
        return found

    def summarise(_lm: LanguageModel, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {"words": {name: list(group) for name, group in members.items()}, "groups": []}
        counts = noun_counts(text, [w for group in members.values() for w in group]) if text else None
        for row in rows:
            if row["failure"] is None:
                kept = {
                    k: row[k] for k in ("key", "task", "neurons", "words", "flipped", "right_before", "right_after")
                }
                frequency = follows_frequency(row["words"], counts) if counts else None
                result["groups"].append({**kept, "frequency": frequency})
        return result

    settings = {
        "neurons": neurons, "operation": operation, "words": {k: list(v) for k, v in members.items()}, "limit": limit,
        "groups": groups, "prompts": prompts, "seed": shared.seed, "all_cases": shared.all_cases, "corpus": corpus,
    }  # fmt: skip
    document, folder = _run("suppress", shared, chosen, settings, plan, summarise)

    def show() -> None:
        from .terminal import print_table

        for group in document["result"]["groups"]:
            flips = {name: 100 * group["flipped"][name] for name in ("value", "low", "high")}
            table = [
                [r["frames"], r["word"], r["cases"], f"{r['before']:.4f}", f"{r['after']:.4f}",
                 f"{100 * r['relative_change']:+.1f}%", _p(r["p_adjusted"]), _p(r["p_unpaired"])]
                for r in group["words"]
            ]  # fmt: skip
            header = ["sentences", "word", "n", "before", "after", "relative change", "p paired, adj.", "p unpaired"]
            located = ", ".join(f"{layer}:{i}" for layer, i in group["neurons"])
            print_table(f"{group['key']} ({operation} {located})", header, table)
            click.echo(
                f"Predictions that flip: {flips['value']:.0f}% [{flips['low']:.0f}-{flips['high']:.0f}]"
                f" of {group['flipped']['frames']}; right: {100 * group['right_before']:.0f}% before,"
                f" {100 * group['right_after']:.0f}% after"
            )
            for number, found in ((group["frequency"] or {}).get("correlation") or {}).items():
                if found["rho"] is not None:
                    click.echo(
                        f"Change against leaning to plural nouns, {number} sentences: rho {found['rho']:+.2f}"
                        f" (p {_p(found['p'])}, {found['words']} words)"
                    )

    _finish(document, folder, shared.as_json, show)


def _p(value: float | None) -> str:
    return "" if value is None else "<.001" if value < 0.001 else f"{value:.3f}"


def _read_neurons(text: str) -> list[tuple[int, int]] | None:
    """Read ``12:304,17:1021``; None for ``found``.

    Raises:
        KnbenchError: not of that form.
    """
    if text == "found":
        return None
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+):(\d+)\s*", part)
        if match is None:
            raise KnbenchError(f"--neurons '{part}': expected 'found' or LAYER:INDEX, such as 12:304")
        found.append((int(match[1]), int(match[2])))
    return found


@click.command(
    "trace",
    epilog="\b\nExamples:\n  knbench trace --tasks capital,det-noun-agreement --limit 20\n",
)
@shared_options
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Prompts of a task at most.")
@click.option("--samples", type=click.IntRange(min=1), default=10, show_default=True, help="Draws of the noise.")
@click.option("--noise", type=float, default=3.0, show_default=True, help="In standard deviations of the embeddings.")
@click.option("--window", type=click.IntRange(min=1), default=10, show_default=True, help="Layers put back together.")
def trace_command(
    limit: int,
    samples: int,
    noise: float,
    window: int,
    **common: Any,
) -> None:
    """Trace which states carry an answer from the subject, or from a grammatical cue, to the end of the prompt.

    The subject's embeddings are blurred; single states, and windows of MLP and of attention outputs, are put back; what
    comes back of the answer's probability is averaged over prompts by the role of the token. Starting a stopped command
    again continues it.
    """
    shared = Shared(**common)
    chosen = shared.chosen()
    from dataclasses import asdict

    from ..analyses.base import AnalysisPart
    from ..analyses.tracing import TraceSettings, by_role, subject_noise, summarise_traces, trace

    try:
        settings = TraceSettings(samples, noise, window, shared.seed)
    except ValueError as error:
        raise KnbenchError(str(error)) from None

    def plan(lm: LanguageModel) -> list[AnalysisPart]:
        if not lm.causal:
            raise KnbenchError(f"tracing needs a causal model; '{lm.name}' is a masked one")
        found = []
        for task in chosen:
            scale = subject_noise(lm, task, settings.noise)

            def work(case: Case, scale: float = scale) -> dict[str, Any]:
                traced = trace(lm, case.request, scale, settings)
                return {
                    "prompt": case.request.text,
                    "subject": case.request.subject,
                    "answer": case.request.target_true,
                    "clean": traced.clean,
                    "corrupted": traced.corrupted,
                    "effects": by_role(traced),
                }

            for case in shared.cases(lm, task)[:limit]:
                key = f"{task.name}: {case.id}"
                found.append(AnalysisPart(key, task.name, task.kind, partial(work, case)))
        return found

    document, folder = _run(
        "trace", shared, chosen, {**asdict(settings), "limit": limit, "all_cases": shared.all_cases}, plan,
        lambda _lm, rows: {"tasks": summarise_traces(rows)},
    )  # fmt: skip

    def show() -> None:
        from .terminal import print_table

        def peak(row: Mapping[str, Any], kind: str) -> str:
            found = row["peaks"].get(kind)
            return f"{found['effect']:+.2g} at {found['role']}, layer {found['layer']}" if found else "-"

        table = [
            [r["task"], r["kind"], r["prompts"], f"{r['clean']:.2g}", f"{r['corrupted']:.2g}",
             peak(r, "state"), peak(r, "mlp"), peak(r, "attention")]
            for r in document["result"]["tasks"]
            if r["prompts"]
        ]  # fmt: skip
        header = ["task", "kind", "prompts", "P clean", "P blurred", "states peak", "MLPs peak", "attention peaks"]
        print_table(f"causal traces of {document['model']['name']}", header, table)

    _finish(document, folder, shared.as_json, show)
