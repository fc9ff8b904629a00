"""``knbench verify``: measure drawn cases of stored results again on this machine."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core import registry
from ..core.errors import InterruptedRun, KnbenchError
from ..core.files import json_text
from ..core.printable import printable
from ..core.schema import Task
from ..models.devices import check_device
from ..results.repetition import RepeatedLines, differences, repetitions
from ..results.rescoring import read_run_lines
from ..results.runs import Run, find_runs
from ..results.store import read_status
from ..results.trust import mark_verified, trust_of
from ..results.validation import validate
from ..scoring.summary import in_order
from .options import INCLUDE_OPTION, JSON_FLAG, check_installed

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel

EXAMPLES = """
\b
Examples:
  knbench verify results/my-method --cases 3
  knbench verify results/my-method --cases 3 --seed 7 --mark
  knbench verify results --cases 3 --mark --resume
  knbench verify results/my-method --rerun runs/again --mark
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
@click.option(
    "--rerun",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUNS",
    help="Folder with runs of your own. Results that they repeat are compared with them, in all cases and instead of a "
    "new measurement; only tokens and texts that rounding can change are measured. Other results are skipped.",
)
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
    rerun: Sequence[Path],
    resume: bool,
    as_json: bool,
) -> None:
    """Measure randomly drawn cases of stored results again and compare every observation.

    FOLDER is the folder of a method in a results store, or the store. The method must be installed, and the model must
    have the hashes of the results. Before and after the edit, log-probabilities and divergences must agree within a
    tolerance, and ranks, most probable tokens and texts must be equal except for ties. Of a run with batches the
    batches with the drawn cases are run again, and of a sequential run the whole sequence. Results of an earlier
    version of their task are skipped, since its questions are no longer installed.

    Prints the first difference of each case. Exits with status 2 if there is one, if a result cannot be verified, or if
    all are of earlier versions.
    """
    check_installed("torch", "transformers")
    tasks = _tasks(include_path)
    verdict = validate(folder, tasks)
    earlier = {run.result_path: note for run in verdict.results if (note := _earlier_version(run, tasks))}
    runs = sorted((r for r in verdict.results if r.result_path not in earlier), key=lambda run: run.result_path)
    if earlier and not runs and not verdict.problems:
        raise KnbenchError(f"{next(iter(earlier.values()))}; nothing to verify: run the method again")
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    lines = [_Line(None, f"error: {problem}") for problem in verdict.problems]
    if resume:
        status = read_status([folder.resolve().parent, folder] if folder.is_dir() else [folder])
        runs = [run for run in runs if trust_of(run, status).level not in ("spot-checked", "re-run")]
    repeated = {run.result_path: other for run, other in repetitions(runs, find_runs(rerun) if rerun else [])}
    if rerun:
        runs = [run for run in runs if run.result_path in repeated]
    if not as_json:
        for text in (*(line.text for line in lines), *(f"skipped: {note}" for _, note in sorted(earlier.items()))):
            click.echo(text)
        what = "all cases" if rerun else f"{cases} cases of each, seed {seed}"
        click.echo(f"{folder}: {len(runs)} results, {what}")
    check_device(device)
    verifier = _Verifier(tasks, cases, seed, model, device, mark)
    try:
        for run in sorted(runs, key=_model_key):
            line = verifier.line(run, repeated.get(run.result_path))
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


def _earlier_version(run: Run, tasks: Mapping[str, Task]) -> str | None:
    """Return that a result is of an earlier version of its task than the installed one, or None."""
    stored = run.result.task
    task = tasks.get(stored.name)
    if task is None or stored.version >= task.version:
        return None
    return (
        f"{run.result_path}: of version {stored.version} of task '{stored.name}', which is now version {task.version}"
    )


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


class _Verifier:
    """Verifies results, and keeps the model of the last one.

    Args:
        tasks: the installed tasks by name.
        cases: number of cases to draw from each result.
        seed: seed of the draws.
        model: model to load instead of the one that a result names.
        device: a torch device.
        mark: whether to write the outcome to the status file.
    """

    def __init__(
        self, tasks: Mapping[str, Task], cases: int, seed: int, model: str | None, device: str, mark: bool
    ) -> None:
        self._tasks, self._cases, self._seed = tasks, cases, seed
        self._model, self._device, self._mark = model, device, mark
        self._loaded: dict[str, LanguageModel] = {}

    def line(self, run: Run, repeated: Run | None) -> _Line:
        """Verify one result.

        Args:
            run: the result.
            repeated: a run that repeats it; None to measure drawn cases.
        """
        try:
            case_ids, found = self._measured(run, None) if repeated is None else self._compared(run, repeated)
        except KnbenchError as error:
            return _Line(run, f"error: {run.result_path}: cannot be verified: {error}")
        if self._mark:
            mark_verified(run, case_ids, agrees=not found)
        number = f"{len(case_ids)} of {run.result.records.cases} cases"
        if not found:
            which = f" ({', '.join(case_ids)})" if repeated is None else ""
            return _Line(run, f"agrees: {run.result_path}: {number}{which}", case_ids)
        return _Line(run, "\n".join(f"differs: {run.result_path}: {line}" for line in found), case_ids, found)

    def _compared(self, run: Run, repeated: Run) -> tuple[Sequence[str], Sequence[str]]:
        """Return all cases of a result, and how it differs from a run that repeats it.

        Tokens and texts that rounding can change are measured with the model.
        """
        stored = read_run_lines(run.result, run.path)
        again = RepeatedLines.of(read_run_lines(repeated.result, repeated.path))
        case_ids = [record.case_id for record in in_order(stored.records)]
        found = differences(run.result, stored, again, {}, whole=True)
        if not found or not all(difference.may_be_tied for difference in found):
            return case_ids, [printable(difference.text) for difference in found]
        return case_ids, self._measured(run, sorted({difference.case_id for difference in found}))[1]

    def _measured(self, run: Run, case_ids: Sequence[str] | None) -> tuple[Sequence[str], Sequence[str]]:
        """Return the cases that were measured again, and how they differ."""
        from ..running.verification import verify
        from .terminal import ProgressReporter

        name = run.result.task.name
        if name not in self._tasks:
            raise KnbenchError(f"task '{name}' is not installed; install it, or pass --include-path")
        key = _model_key(run)
        if key not in self._loaded:
            self._loaded.clear()
            self._loaded[key] = _load(run, self._model, self._device)
        with ProgressReporter() as reporter:
            lm, task = self._loaded[key], self._tasks[name]
            outcome = verify(run, lm, task, self._cases, self._seed, reporter, case_ids)
        return outcome.case_ids, outcome.differences


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
