"""``knbench verify``: measure drawn cases of stored results again on this machine."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core import registry
from ..core.errors import InterruptedRun, KnbenchError
from ..core.files import json_text
from ..core.schema import Task
from ..results.runs import Run
from ..results.store import read_status
from ..results.trust import mark_verified, trust_of
from ..results.validation import validate
from .options import INCLUDE_OPTION, JSON_FLAG, check_device, check_installed

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel

EXAMPLES = """
\b
Examples:
  knbench verify results/my-method --cases 3
  knbench verify results/my-method --cases 3 --seed 7 --mark
  knbench verify results --cases 3 --mark --resume
"""


@click.command("verify", epilog=EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of cases to draw from each result. All cases of a result make it re-run.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Seed of the draw, to repeat a verification. [default: a random number]"
)
@click.option("--model", help="Model to load instead of the one that the results name, for example its folder.")
@click.option("--device", default="cpu", show_default=True, help="Torch device: cpu, cuda, cuda:1, mps.")
@INCLUDE_OPTION
@click.option("--mark", is_flag=True, help="Write the outcome of each result to status.json at the top of the store.")
@click.option("--resume", is_flag=True, help="Skip results that are marked as spot-checked or re-run.")
@JSON_FLAG
def verify_command(
    folder: Path,
    cases: int,
    seed: int | None,
    model: str | None,
    device: str,
    include_path: Sequence[Path],
    mark: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Measure randomly drawn cases of stored results again and compare every observation.

    FOLDER is the folder of a method in a results store, or the store. The method must be installed, and the model must
    have the hashes of the results. Before and after the edit, log-probabilities and divergences must agree within a
    tolerance, and ranks, most probable tokens and texts must be equal except for ties. Of a run with batches the
    batches with the drawn cases are run again, and of a sequential run the whole sequence.

    Prints the first difference of each case. Exits with status 2 if there is one, or if a result cannot be verified.
    """
    check_installed("torch", "transformers")
    tasks = _tasks(include_path)
    verdict = validate(folder, tasks)
    runs = sorted(verdict.results, key=lambda run: run.result_path)
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    lines = [_Line(None, f"error: {problem}") for problem in verdict.problems]
    if resume:
        status = read_status([folder.resolve().parent, folder] if folder.is_dir() else [folder])
        runs = [run for run in runs if trust_of(run, status).level not in ("spot-checked", "re-run")]
    if not as_json:
        for line in lines:
            click.echo(line.text)
        click.echo(f"{folder}: {len(runs)} results, {cases} cases of each, seed {seed}")
    check_device(device)
    try:
        loaded: dict[str, LanguageModel] = {}
        for run in sorted(runs, key=_model_key):
            line = _verified(run, tasks, cases, seed, model, device, loaded, mark=mark)
            lines.append(line)
            if not as_json:
                click.echo(line.text)
    except KeyboardInterrupt:
        raise InterruptedRun("interrupted; marked results are kept: continue with --mark --resume") from None
    bad = [line for line in lines if not line.agrees]
    if as_json:
        click.echo(json_text({"seed": seed, "results": [line.document for line in lines if line.run]}), nl=False)
    if bad:
        raise KnbenchError(f"{folder}: {len(bad)} of {len(lines)} results differ or cannot be verified")


class _Line:
    """Outcome of one result.

    Attributes:
        run: the result; None for a problem of validation.
        text: the outcome in one line, and one line for each difference.
        case_ids: cases that were measured again.
        differences: lines of the differences.
        agrees: whether every observation agrees.
    """

    def __init__(
        self, run: Run | None, text: str, case_ids: Sequence[str] = (), differences: Sequence[str] = ()
    ) -> None:
        self.run, self.text, self.case_ids, self.differences = run, text, case_ids, differences
        self.agrees = bool(case_ids) and not differences

    @property
    def document(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return {
            "result": str(self.run.result_path) if self.run else None,
            "agrees": self.agrees,
            "cases": list(self.case_ids),
            "differences": list(self.differences),
            "error": None if self.case_ids else self.text,
        }


def _verified(
    run: Run,
    tasks: dict[str, Task],
    cases: int,
    seed: int,
    model: str | None,
    device: str,
    loaded: dict[str, LanguageModel],
    *,
    mark: bool,
) -> _Line:
    """Verify one result. ``loaded`` holds the model of the last one."""
    from ..running.verification import verify
    from .terminal import ProgressReporter

    path, name = run.result_path, run.result.task.name
    try:
        if name not in tasks:
            raise KnbenchError(f"task '{name}' is not installed; install it, or pass --include-path")
        key = _model_key(run)
        if key not in loaded:
            loaded.clear()
            loaded[key] = _load(run, model, device)
        with ProgressReporter() as reporter:
            outcome = verify(run, loaded[key], tasks[name], cases, seed, reporter)
    except KnbenchError as error:
        return _Line(run, f"error: {path}: cannot be verified: {error}")
    if mark:
        mark_verified(run, outcome.case_ids, agrees=not outcome.differences)
    number = f"{len(outcome.case_ids)} of {run.result.records.cases} cases"
    if not outcome.differences:
        return _Line(run, f"agrees: {path}: {number} ({', '.join(outcome.case_ids)})", outcome.case_ids)
    text = "\n".join(f"differs: {path}: {difference}" for difference in outcome.differences)
    return _Line(run, text, outcome.case_ids, outcome.differences)


def _load(run: Run, name: str | None, device: str) -> LanguageModel:
    """Load the model of a result.

    Raises:
        KnbenchError: it cannot be loaded.
    """
    from ..models.loading import load_model

    card, bos = run.result.model, run.result.protocol.bos
    return load_model(
        name or card.name, device, dtype=card.dtype, revision=None if name else card.revision, bos=_bos(bos)
    )


def _bos(policy: str) -> Any:
    """Return the BOS policy of a result.

    Raises:
        KnbenchError: the policy is unknown.
    """
    if policy not in ("auto", "always", "never"):
        raise KnbenchError(f"the BOS policy '{policy}' is unknown")
    return policy


def _model_key(run: Run) -> str:
    """Return a key that results share if one loaded model serves both."""
    card = run.result.model
    return json.dumps([card.name, card.revision, card.dtype, run.result.protocol.bos, card.weight_hash])


def _tasks(include: Sequence[Path]) -> dict[str, Task]:
    """Return the registered tasks, and those of additional folders, by name."""
    return dict(registry.tasks(include))
