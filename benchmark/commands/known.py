"""``knbench known``: measure a model's knowledge of tasks before any edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InterruptedRun
from ..core.files import json_text
from ..models.catalogue import DEFAULT_MODEL, check_model_name
from ..models.devices import DEVICE_HELP, check_device
from .options import CHAT_OPTION, DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, TASKS_HELP, chosen_tasks

if TYPE_CHECKING:
    from ..core.progress import Reporter
    from ..core.schema import Task
    from ..models.language_model import LanguageModel
    from ..probing.known import KnowledgeCache

COLUMNS = ("task", "kind", "cases", "success", "exact", "generated", "ranked_first", "sentences")


@click.command(
    "known",
    epilog="\b\nExamples:\n  knbench known --tasks all\n  knbench known --model gpt2 --tasks capital\n"
    "  knbench known --tasks all --output analyses/known-smollm2-135m\n",
)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Catalogue name, hub id, folder or GGUF file.")
@click.option("--tasks", required=True, help=TASKS_HELP)
@click.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows per probing batch.")
@CHAT_OPTION
@INCLUDE_OPTION
@DATA_OPTION
@click.option(
    "--output",
    "--output_path",
    type=click.Path(path_type=Path),
    help="Folder for analysis.json. A site built with it shows the table on the model's page.",
)
@JSON_FLAG
def known_command(
    model: str,
    tasks: str,
    device: str,
    batch_size: int,
    apply_chat_template: bool,
    include_path: Sequence[Path],
    data: Sequence[str],
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a model's knowledge of tasks before any edit.

    The table shows shares of cases in which the true answer is more probable than the new one (success), each of its
    tokens is the most probable (exact), the model generates it (generated), or it ranks first among all answers of the
    task (ranked_first). For minimal pairs it shows the share in which the grammatical sentence is more probable
    (sentences). Results are cached per model and task.
    """
    check_model_name(model)
    rows = measure_knowledge(
        model, chosen_tasks(tasks, include_path, data), device, batch_size, output, apply_chat_template
    )
    if as_json:
        click.echo(json_text(rows), nl=False)
        return
    from .terminal import print_table

    cells = [[f"{v:.3f}" if isinstance(v, float) else v for v in (row[c] for c in COLUMNS)] for row in rows]
    print_table(f"known to {model} before any edit", COLUMNS, cells)
    if output:
        click.echo(f"Analysis: {output}")


def measure_knowledge(
    model: str,
    tasks: Sequence[Task],
    device: str = "auto",
    batch_size: int = 64,
    output: Path | None = None,
    apply_chat_template: bool = False,
) -> list[dict[str, Any]]:
    """Return one row per task. If ``output`` is given, also write an analysis to that folder.

    Raises:
        KnbenchError: the device is not available, the model cannot be loaded, or the folder contains another analysis.
        InterruptedRun: the user pressed Ctrl-C.
    """
    device = check_device(device)
    from ..models.loading import load_model
    from ..probing.known import KnowledgeCache, knowledge
    from ..probing.prober import make_prober
    from .progress import open_reporter

    lm = load_model(model, device=device)
    lm.use_chat_template(apply_chat_template)
    cache = KnowledgeCache.of(make_prober(lm, batch_size=batch_size))
    try:
        with open_reporter() as reporter:
            if output:
                return run_as_analysis(lm, cache, tasks, output, reporter)
            reporter.begin(len(tasks))
            rows = []
            for task in tasks:
                reporter.doing(task.name)
                rows.append(knowledge(cache, task))
                reporter.advance()
            return rows
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; finished tasks are saved: start the same command to continue") from None


def run_as_analysis(
    lm: LanguageModel, cache: KnowledgeCache, tasks: Sequence[Task], folder: Path, reporter: Reporter
) -> list[dict[str, Any]]:
    """Measure the tasks as parts of a resumable analysis. Failed tasks are reported on stderr."""
    from ..analyses.base import AnalysisPart, run_analysis
    from ..core.schema import digest
    from ..probing.known import knowledge
    from ..results.io import PARTS
    from ..running.provenance import describe_model

    versions = {task.name: {"version": task.version, "content": task.content_hash()} for task in tasks}
    parts = [AnalysisPart(task.name, task.name, task.kind, partial(knowledge, cache, task)) for task in tasks]
    titles = {task.name: task.title for task in tasks}

    def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        good = [{c: row[c] for c in COLUMNS} for row in rows if row["failure"] is None]
        return {"tasks": [{**r, "title": titles[r["task"]], "version": versions[r["task"]]["version"]} for r in good]}

    settings = {"tasks": versions, **({"chat_template": digest(list(lm.chat))[:12]} if lm.chat else {})}
    document = run_analysis("known", lm, describe_model(lm), settings, parts, summarise, folder, reporter)
    failed = document["parts"]["failed"]
    if failed:
        click.echo(
            f"{failed} of {document['parts']['count']} tasks failed; the reasons are in {folder / PARTS}", err=True
        )
    return list(document["result"]["tasks"])
