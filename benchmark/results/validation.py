"""Validation of stored results. Everything in a submission is untrusted text.

Nothing in it is executed or unpickled. Files that do not belong to a result are refused. Every message names the file,
the place as a JSON pointer, and the fix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import KnbenchError
from ..core.records import Observation, ProbeRecord, Record, to_json
from ..core.schema import Task
from ..scoring.criteria import MEASURES
from .audit import check_task
from .documents import comparable, first_difference, load_result, manifest_of, optional_conditions
from .io import RECORDS, read_json
from .json_schema import check
from .rescoring import read_run_lines, score_lines
from .runs import Run
from .store import CARD, CARD_BYTES, REPORTED, STATUS, location_of, read_card, refusal, slug, stored_names
from .submission import mixed_settings

MAX_FILE_BYTES = 1 << 26
"""Maximum size of a file in a submission."""
SUM_TOLERANCE = 1e-3
"""Tolerance for sums of log-probabilities, in nats."""
MIN_AGREEMENT = 0.98
"""Minimum share of equal verdicts between a result and a run by somebody else."""
SAME_MODEL_TOLERANCE = 0.05
"""Maximum difference of a log-probability of the unedited model between machines, in nats."""

NOTES: Mapping[str, str] = {REPORTED: "reported", STATUS: "status"}
"""Files of a store that are not results, with their schemas."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of a validation.

    Attributes:
        results: the valid results.
        problems: one line per problem, with its fix.
        notes: one line per fact that readers of the board are told: limits, failures.
    """

    results: Sequence[Run]
    problems: Sequence[str]
    notes: Sequence[str]


@dataclass
class _Findings:
    """Problems and valid results that were found so far, and the files that belong to something."""

    problems: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    case_ids: dict[Path, frozenset[str]] = field(default_factory=dict)
    claimed: set[Path] = field(default_factory=set)
    unedited: _UneditedAnswers = field(default_factory=lambda: _UneditedAnswers())

    def add(self, error: Exception) -> None:
        self.problems.append(" ".join(str(error).split()))


def validate(folder: Path, tasks: Mapping[str, Task]) -> Verdict:
    """Check everything below a folder of stored results. The records of each result are read once.

    Args:
        folder: a store, or a method's folder in a store.
        tasks: the registered tasks by name; results of other tasks are scored and not compared with a task.

    Raises:
        KnbenchError: the folder does not exist.
    """
    if not folder.is_dir():
        raise KnbenchError(f"'{folder}' is not a directory; make one with: knbench submit RUN --card CARD.md")
    found = _Findings()
    files = sorted(folder.rglob("*"))
    for path in files:
        if path.is_symlink():
            found.problems.append(f"{path}: symbolic links are not followed; copy the file")
            found.claimed.add(path)
    for path in (p for p in files if p.name in NOTES and p.is_file() and p not in found.claimed):
        found.claimed.add(path)
        try:
            _check_note(path)
        except KnbenchError as error:
            found.add(error)
    for path in (p for p in files if p.suffix == ".json" and p not in found.claimed):
        _validate_result(path, files, tasks, found)
    for path in (p for p in files if p.name == CARD and p not in found.claimed):
        found.claimed.add(path)
        try:
            read_card(path)
        except KnbenchError as error:
            found.add(error)
    for method in sorted({run.result_path.parent.parent.parent for run in found.runs}):
        if not (method / CARD).exists():
            found.problems.append(f"{method / CARD}: missing; describe the method in Markdown (knbench submit --card)")
    found.problems += [
        f"{p}: does not belong to a result; delete it" for p in files if p.is_file() and p not in found.claimed
    ]
    if not found.runs and not found.problems:
        found.problems.append(f"{folder}: holds no result; make one with: knbench submit RUN --card CARD.md")
    found.problems += found.unedited.problems
    found.problems += _other_cases(found)
    found.problems += mixed_settings(found.runs)
    return Verdict(found.runs, found.problems, [note for run in found.runs for note in _notes(run, tasks)])


def _validate_result(path: Path, files: Sequence[Path], tasks: Mapping[str, Task], found: _Findings) -> None:
    found.claimed.add(path)
    try:
        run = _read(path)
    except KnbenchError as error:
        found.add(error)
        found.claimed |= {p for p in files if p.name.startswith(path.stem + ".") and p.parent == path.parent}
        return
    found.claimed |= {path.parent / name for name in stored_names(run.result)}
    try:
        records = _check_run(run, tasks)
    except KnbenchError as error:
        found.add(error)
        return
    problem = implausible(str(run.path(RECORDS)), records)
    if problem:
        found.problems.append(problem)
        return
    found.runs.append(run)
    found.case_ids[run.result_path] = frozenset(record.case_id for record in records)
    found.unedited.compare(run, records)


def _check_note(path: Path) -> None:
    """Check a file that is not a result.

    Raises:
        KnbenchError: the file is broken, too large, or in the folder of another method.
    """
    if path.stat().st_size > CARD_BYTES:
        raise KnbenchError(f"{path}: {path.stat().st_size >> 10} kB; at most {CARD_BYTES >> 10} kB are read")
    document = read_json(path)
    check(document, NOTES[path.name], str(path))
    if path.name == REPORTED and slug(document["method"]) != path.parent.name:
        raise KnbenchError(f"{path}: /method is '{document['method']}'; it belongs in the folder of that method")


def _read(path: Path) -> Run:
    """Read a stored result and check its location.

    Raises:
        KnbenchError: the result is broken, too large, limited or not on test cases, or at another location than its
            content demands.
    """
    for part in (path, path.with_name(f"{path.stem}.{RECORDS}.gz")):
        if not part.exists():
            raise KnbenchError(f"{part}: missing; store the result again with: knbench submit")
        if part.stat().st_size > MAX_FILE_BYTES:
            raise KnbenchError(f"{part}: {part.stat().st_size >> 20} MB; at most {MAX_FILE_BYTES >> 20} MB are read")
    result = load_result(path)
    reason = refusal(result)
    if reason is not None:
        raise KnbenchError(f"{path}: {reason}")
    folder, name = location_of(result)
    if path.parent.parts[-len(folder.parts) :] != folder.parts or path.stem != name:
        raise KnbenchError(f"{path}: belongs at {folder / name}.json, by its editor, model, revision and task")
    return Run(path.parent, result, path.stem)


def _check_run(run: Run, tasks: Mapping[str, Task]) -> Sequence[Record]:
    """Recompute a result, compare its records with the task, and return the records.

    Raises:
        KnbenchError: the result differs from its records, or the records from the task.
    """
    manifest = manifest_of(run.result)
    lines = read_run_lines(manifest, run.path)
    place = first_difference(run.result, score_lines(manifest, lines))
    if place is not None:
        raise KnbenchError(f"{run.result_path}: {place} differs from what the records give; store the result again")
    task = tasks.get(run.result.task.name)
    if task is not None:
        check_task(str(run.result_path), run.result, lines.records, task)
    return lines.records


def implausible(where: str, records: Sequence[Record]) -> str | None:
    """Return the first value that no model produces, or None.

    Args:
        where: path of the records, for messages.
        records: the records.
    """
    seen: dict[str, int] = {}
    for number, record in enumerate(records):
        after = json.dumps([to_json(probe.after) for probe in record.probes], sort_keys=True)
        key = hashlib.sha256(after.encode()).hexdigest()
        if record.failure is None and seen.setdefault(key, number) != number:
            return f"{where}: /{number} has exactly the observations of /{seen[key]}; measure each case"
    for number, record in enumerate(records):
        for position, probe in enumerate(record.probes):
            for side, observation in (("before", probe.before), ("after", probe.after)):
                flaw = _impossible(probe, observation) if observation and observation.has_answers else None
                if flaw:
                    return f"{where}: /{number}/probes/{position}/{side}/{flaw}"
    for number, record in enumerate(records):
        changed = record.edit.parameters or record.edit.prefix or record.edit.modules
        if not changed and record.failure is None and _answers_changed(record):
            return f"{where}: /{number}/edit names no parameter, module or text, and yet answers changed"
    return None


def _impossible(probe: ProbeRecord, observation: Observation) -> str | None:
    """Return where an observation contradicts its probe or itself, and how."""
    if bool(probe.rival) != (observation.rival_answer is not None):
        return "rival: the observation has scores of a rival exactly if its probe names one"
    for side, answer in (("target", observation.target), ("rival", observation.rival_answer)):
        if answer is None:
            continue
        if len({len(answer.token_logprobs), len(answer.ranks), len(answer.argmax)}) != 1:
            return f"{side}: token_logprobs, ranks and argmax differ in length"
        if abs(sum(answer.token_logprobs) - answer.logprob) > SUM_TOLERANCE * (1 + abs(answer.logprob)):
            return f"{side}/logprob is not the sum of token_logprobs"
        if observation.top_logprob is not None:
            first, best = answer.token_logprobs[0], observation.top_logprob
            if first > best + SUM_TOLERANCE:
                return f"{side}/token_logprobs/0 is more probable than the most probable token"
            if answer.ranks[0] == 0 and best - first > SUM_TOLERANCE:
                return f"{side}/ranks/0 is 0 for a token that is not the most probable"
    if observation.rival_answer is None:
        return None
    target, rival = observation.target.token_logprobs[0], observation.rival.token_logprobs[0]
    same = target == rival  # both answers may begin with the same token
    if observation.top_logprob is not None and not same and math.exp(target) + math.exp(rival) > 1 + SUM_TOLERANCE:
        return "target/token_logprobs/0 and rival/token_logprobs/0 have a probability of more than 1 together"
    return None


def _answers_changed(record: Record) -> bool:
    """Return whether a log-probability changed by more than rounding."""
    return any(
        abs(after.logprob - before.logprob) > SAME_MODEL_TOLERANCE
        for probe in record.probes
        if probe.before and probe.after and probe.before.has_answers and probe.after.has_answers
        for before, after in (
            (probe.before.target, probe.after.target),
            (probe.before.rival_answer, probe.after.rival_answer),
        )
        if before is not None and after is not None
    )


class _UneditedAnswers:
    """Answers of unedited models, by model and question: results on one model must agree on them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._known: dict[tuple[object, ...], tuple[float, str]] = {}

    def compare(self, run: Run, records: Sequence[Record]) -> None:
        """Compare the unedited answers of a run with those of earlier runs, and note the first difference."""
        model = run.result.model
        about = (
            *(model.weight_hash, model.tokenizer_hash, model.config_hash, model.dtype),
            run.result.protocol.bos_prepended,
        )
        for number, record in enumerate(records):
            for position, probe in enumerate(record.probes):
                if probe.before is None or not probe.before.has_answers:
                    continue
                other = self._disagreement(about, probe, probe.before.target.logprob, str(run.result_path))
                if other:
                    self.problems.append(
                        f"{run.path(RECORDS)}: /{number}/probes/{position}/before differs from {other} for the same "
                        "question to the same unedited model"
                    )
                    return

    def _disagreement(self, about: tuple[object, ...], probe: ProbeRecord, value: float, where: str) -> str | None:
        key = (*about, probe.kind, probe.prompt, probe.suffix, probe.target)
        known, source = self._known.setdefault(key, (value, where))
        return source if abs(known - value) > SAME_MODEL_TOLERANCE * (1 + abs(known) / 20) else None


def _other_cases(found: _Findings) -> Iterator[str]:
    """Yield the results that have other cases than a result with the same settings."""
    first_with: dict[str, tuple[frozenset[str], Path]] = {}
    for run in found.runs:
        ids = found.case_ids[run.result_path]
        settings = json.dumps({**comparable(run.result), **optional_conditions(run.result)}, sort_keys=True)
        first, where = first_with.setdefault(settings, (ids, run.result_path))
        if ids != first:
            yield f"{run.result_path}: has other cases than {where}, which has the same settings; run them all"


def disagreement(run: Run, again: Run) -> str | None:
    """Return why another run does not confirm a result, or None if it does.

    Machines round differently, which may change a few verdicts: at least :data:`MIN_AGREEMENT` of them must be equal.
    """
    verdicts, others = _verdicts(run), _verdicts(again)
    if verdicts.keys() != others.keys():
        return "it has other probes"
    share = sum(value == others[key] for key, value in verdicts.items()) / max(1, len(verdicts))
    if share >= MIN_AGREEMENT:
        return None
    return f"only {share:.1%} of the verdicts are equal; at least {MIN_AGREEMENT:.0%} must be"


def _verdicts(run: Run) -> dict[tuple[str, int], float | None]:
    return {
        (record.case_id, number): MEASURES["success"].of(probe, probe.before, probe.after or probe.before)
        for record in run.records()
        for number, probe in enumerate(record.probes)
        if probe.before is not None and probe.before.has_answers
    }


def _notes(run: Run, tasks: Mapping[str, Task]) -> list[str]:
    """Return what readers of the board are told about a result."""
    task, records = run.result.task.name, run.result.records
    notes = []
    if task not in tasks:
        notes.append(f"{run.result_path}: task '{task}' is not installed; the questions were not checked")
    if records.failed:
        notes.append(f"{run.result_path}: {records.failed} of {records.cases} edits failed; counted as no edit")
    return notes
