"""Options, execution and output that ``knbench localise``, ``suppress`` and ``trace`` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InterruptedRun, KnbenchError
from ..core.files import json_text, write_text
from ..core.schema import Case, Task, derived_seed
from ..models.catalogue import DEFAULT_MODEL, check_model_name
from ..models.devices import DEVICE_HELP, check_device
from .options import DATA_OPTION, INCLUDE_OPTION, JSON_FLAG, TASKS_HELP, chosen_tasks

if TYPE_CHECKING:
    from ..analyses.base import AnalysisPart
    from ..models.language_model import LanguageModel

GROUP_PROMPTS_OPTION = click.option(
    "--prompts", type=click.IntRange(min=2), default=9, show_default=True, help="Number of prompts per group."
)


def analysis_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that the analysis commands share. Their values are the fields of :class:`AnalysisOptions`."""
    options = (
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Model, as for knbench run."),
        click.option("--tasks", required=True, help=TASKS_HELP),
        INCLUDE_OPTION,
        DATA_OPTION,
        click.option("--all-cases", is_flag=True, help="Include cases whose true answer the model does not prefer."),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random choices."),
        click.option("--device", default="auto", show_default=True, help=DEVICE_HELP),
        click.option(
            "--output",
            "--output_path",
            type=click.Path(path_type=Path),
            help="Folder for analysis.json and figures. [default: analyses/COMMAND-MODEL]",
        ),
        JSON_FLAG,
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class AnalysisOptions:
    """Values of the shared options."""

    model: str
    tasks: str
    include_path: Sequence[Path]
    data: Sequence[str]
    all_cases: bool
    seed: int
    device: str
    output: Path | None
    as_json: bool

    def resolve_tasks(self) -> list[Task]:
        """Return the tasks, after a check of the model name and the device.

        Raises:
            KnbenchError: the model or a task is unknown, or the device is not available.
        """
        check_model_name(self.model)
        tasks = chosen_tasks(self.tasks, self.include_path, self.data)
        check_device(self.device)
        return tasks

    def select_cases(self, lm: LanguageModel, task: Task) -> list[Case]:
        """Return the cases of a task that the model knows, or all with ``--all-cases``, in an order given by the seed.

        Cases without a true answer are left out.

        Raises:
            KnbenchError: the model knows no case, or no case has a true answer.
        """
        from ..probing.known import KnowledgeCache, known_cases
        from ..probing.prober import make_prober

        known = known_cases(KnowledgeCache.of(make_prober(lm, batch_size=64)), task)
        answered = [case for case in task.cases if case.request.target_true]
        if not answered:
            raise KnbenchError(f"no case of task '{task.name}' has a true answer, which the analysis needs")
        cases = [case for case in answered if self.all_cases or known.get(case.id, {}).get("success")]
        if not cases:
            raise KnbenchError(f"'{lm.name}' knows no case of task '{task.name}'; add --all-cases to use all cases")
        return sorted(cases, key=lambda case: derived_seed(self.seed, "analysis", task.name, case.id))


def no_groups_error(task: Task, prompts: int) -> KnbenchError:
    """Return the error for a task that has too few known prompts for a group."""
    return KnbenchError(f"task '{task.name}' has no group of {prompts} known prompts; lower --prompts")


def run_command(
    name: str,
    options: AnalysisOptions,
    tasks: Sequence[Task],
    settings: Mapping[str, Any],
    plan: Callable[[LanguageModel], Sequence[AnalysisPart]],
    summarise: Callable[[LanguageModel, Sequence[Mapping[str, Any]]], Mapping[str, Any]],
    show: Callable[[Mapping[str, Any]], None],
) -> None:
    """Load the model, run or continue the analysis, write its figures and print the result.

    Args:
        name: name of the analysis.
        options: values of the shared options.
        tasks: the tasks.
        settings: settings that affect the numbers.
        plan: returns the parts of the analysis for a model.
        summarise: computes the result from the lines of all parts.
        show: prints the tables of an analysis document. It is not called with ``--json``.

    Raises:
        KnbenchError: the model cannot be loaded, or the output folder contains another analysis.
        InterruptedRun: the user pressed Ctrl-C.
    """
    from ..analyses.base import run_analysis
    from ..models.loading import load_model
    from ..results.analysis_figures import analysis_figures
    from ..results.io import PARTS
    from ..running.provenance import describe_model
    from .progress import open_reporter

    lm = load_model(options.model, device=check_device(options.device))
    folder = options.output or Path("analyses") / f"{name}-{lm.name.replace('/', '--')}"
    manifest_settings = {
        **settings,
        "tasks": {task.name: {"version": task.version, "content": task.content_hash()} for task in tasks},
    }
    try:
        with open_reporter() as reporter:
            reporter.doing("selecting prompts")
            parts = plan(lm)
            document = run_analysis(
                name,
                lm,
                describe_model(lm),
                manifest_settings,
                parts,
                lambda rows: summarise(lm, rows),
                folder,
                reporter,
            )
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; finished parts are saved: start the same command to continue") from None
    for file, svg in analysis_figures(document).items():
        write_text(folder / file, svg)
    if options.as_json:
        click.echo(json_text(document), nl=False)
        return
    show(document)
    counts = document["parts"]
    if counts["failed"]:
        click.echo(f"{counts['failed']} of {counts['count']} parts failed; the reasons are in {folder / PARTS}")
    click.echo(f"Analysis and figures: {folder}")
