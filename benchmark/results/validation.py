"""Whether a stored result can be believed: everything in a submission is somebody else's text.

Nothing in it is run or unpickled; files that do not belong to a result are refused; each complaint names the file, the
place as a JSON pointer, and what to mend.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..core.schema import Task
from ..scoring.criteria import MEASURES
from .audit import check_task
from .documents import comparable, differing, load_result, manifest_of
from .io import RECORDS, read_json, read_records
from .json_schema import check
from .rescoring import score_files
from .runs import Run
from .store import CARD, CARD_BYTES, REPORTED, STATUS, place_of, read_card, slug, stored_names

FILE_BYTES = 1 << 26
"""Size of a file in a submission at most."""
CLOSE = 1e-3
"""By how much sums of log-probabilities may differ for rounding."""
AGREEING = 0.98
"""Share of verdicts that a run by somebody else must have the same."""
SAME_MODEL = 0.05
"""By how much two runs on the same unedited model may differ in a log-probability, on other machines."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What validation found.

    Attributes:
        results: the results that are as they should be.
        problems: what to mend, one line each.
        notes: what a reader of the board is told: limits, failures.
    """

    results: Sequence[Run]
    problems: Sequence[str]
    notes: Sequence[str]


def validate(folder: Path, tasks: Mapping[str, Task]) -> Verdict:
    """Check everything below a folder of stored results.

    Args:
        folder: a store, or a method's folder in one.
        tasks: the registered tasks by name; results of others are scored and not compared with a task.

    Raises:
        KnbenchError: there is no such folder.
    """
    if not folder.is_dir():
        raise KnbenchError(f"'{folder}' is no folder; make one with: knbench submit RUN --card CARD.md")
    problems, notes = [], []
    good: list[Run] = []
    claimed: set[Path] = set()
    files = sorted(folder.rglob("*"))
    for path in files:
        if path.is_symlink():
            problems.append(f"{path}: links are not followed; copy the file")
            claimed.add(path)
    for path in (p for p in files if p.name in NOTES and p.is_file() and p not in claimed):
        claimed.add(path)
        try:
            _check_note(path)
        except KnbenchError as error:
            problems.append(_line(error))
    for path in (p for p in files if p.suffix == ".json" and p not in claimed):
        claimed.add(path)
        try:
            run = _read(path)
        except KnbenchError as error:
            problems.append(_line(error))
            claimed |= {p for p in files if p.name.startswith(path.stem + ".") and p.parent == path.parent}
            continue
        claimed |= {path.parent / name for name in stored_names(run.result)}
        found = list(_flaws(run, tasks))
        problems += found
        if not found:
            good.append(run)
            notes += _notes(run)
    for path in (p for p in files if p.name == CARD and p not in claimed):
        claimed.add(path)
        try:
            read_card(path)
        except KnbenchError as error:
            problems.append(_line(error))
    for method in sorted({run.where.parent.parent.parent for run in good}):
        if not (method / CARD).exists():
            problems.append(f"{method / CARD}: missing; say in Markdown what the method does (knbench submit --card)")
    problems += [f"{p}: does not belong to a result; delete it" for p in files if p.is_file() and p not in claimed]
    if not good and not problems:
        problems.append(f"{folder}: holds no result; make one with: knbench submit RUN --card CARD.md")
    problems += [*_disagreements(good), *_other_cases(good)]
    return Verdict(good, problems, notes)


NOTES: Mapping[str, str] = {REPORTED: "reported", STATUS: "status"}
"""Files of a store that are no results, and their schemas."""


def _check_note(path: Path) -> None:
    """Make sure of a file that is no result.

    Raises:
        KnbenchError: it is broken, too large, or of another method than its folder.
    """
    if path.stat().st_size > CARD_BYTES:
        raise KnbenchError(f"{path}: has {path.stat().st_size >> 10} kB; at most {CARD_BYTES >> 10} are read")
    document = read_json(path)
    check(document, NOTES[path.name], str(path))
    if path.name == REPORTED and slug(document["method"]) != path.parent.name:
        raise KnbenchError(f"{path}: /method is '{document['method']}'; it belongs in the folder of that method")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read(path: Path) -> Run:
    """Read a stored result and make sure that it stands where it belongs.

    Raises:
        KnbenchError: it is broken, too large, or elsewhere.
    """
    for part in (path, path.with_name(f"{path.stem}.{RECORDS}.gz")):
        if not part.exists():
            raise KnbenchError(f"{part}: missing; store the result again with: knbench submit")
        if part.stat().st_size > FILE_BYTES:
            raise KnbenchError(f"{part}: has {part.stat().st_size >> 20} MB; at most {FILE_BYTES >> 20} are read")
    result = load_result(path)
    folder, name = place_of(result)
    if path.parent.parts[-len(folder.parts) :] != folder.parts or path.stem != name:
        raise KnbenchError(f"{path}: belongs at {folder / name}.json, by its editor, model, revision and task")
    return Run(path.parent, result, path.stem)


def _flaws(run: Run, tasks: Mapping[str, Task]) -> Iterator[str]:
    """Yield what is wrong with a result: its score, its task, its records."""
    try:
        again = score_files(manifest_of(run.result), run.path)
        place = differing(run.result, again)
        if place is not None:
            yield f"{run.where}: {place} is not what the records give; store the result again"
            return
        records = read_records(run.path(RECORDS))
        task = tasks.get(run.result["task"]["name"])
        if task is not None:
            check_task(str(run.where), run.result, records, task)
    except KnbenchError as error:
        yield _line(error)
        return
    yield from _implausible(str(run.path(RECORDS)), records)


def _implausible(where: str, records: Sequence[Row]) -> Iterator[str]:
    """Yield the first of each kind of thing that no model says."""
    seen: dict[str, int] = {}
    for number, record in enumerate(records):
        after = json.dumps([probe["after"] for probe in record["probes"]], sort_keys=True)
        key = hashlib.sha256(after.encode()).hexdigest()
        if record["failure"] is None and seen.setdefault(key, number) != number:
            yield f"{where}: /{number} has the observations of /{seen[key]}, digit by digit; measure each case"
            return
    for number, record in enumerate(records):
        for place, probe in enumerate(record["probes"]):
            for side in ("before", "after"):
                flaw = _impossible(probe[side]) if probe[side] and "target" in probe[side] else None
                if flaw:
                    yield f"{where}: /{number}/probes/{place}/{side}/{flaw}"
                    return
    for number, record in enumerate(records):
        edit = record["edit"]
        touched = edit["parameters"] or edit["prefix"] or edit.get("modules")
        if not touched and record["failure"] is None and _moved(record):
            yield f"{where}: /{number}/edit names no parameter, module or text, and yet answers changed"
            return


def _impossible(seen: Row) -> str | None:
    """Return where an observation contradicts itself, and how."""
    for side in ("target", "rival"):
        answer = seen[side]
        lengths = {len(answer["token_logprobs"]), len(answer["ranks"]), len(answer["argmax"])}
        if len(lengths) != 1:
            return f"{side}: token_logprobs, ranks and argmax are not of one length"
        if abs(sum(answer["token_logprobs"]) - answer["logprob"]) > CLOSE * (1 + abs(answer["logprob"])):
            return f"{side}/logprob is not the sum of token_logprobs"
        if "top_logprob" in seen:
            first, best = answer["token_logprobs"][0], seen["top_logprob"]
            if first > best + CLOSE:
                return f"{side}/token_logprobs/0 is more probable than the most probable token"
            if answer["ranks"][0] == 0 and best - first > CLOSE:
                return f"{side}/ranks/0 is 0 for a token that is not the most probable"
    first, second = (seen[side]["token_logprobs"][0] for side in ("target", "rival"))
    same = first == second  # both answers may begin with the same token
    if "top_logprob" in seen and not same and math.exp(first) + math.exp(second) > 1 + CLOSE:
        return "target/token_logprobs/0 and rival/token_logprobs/0 have more than all the probability"
    return None


def _moved(record: Row) -> bool:
    """Whether a log-probability changed by more than rounding."""
    return any(
        abs(probe["after"][side]["logprob"] - probe["before"][side]["logprob"]) > SAME_MODEL
        for probe in record["probes"]
        if probe["before"] and probe["after"] and "target" in probe["before"]
        for side in ("target", "rival")
    )


def _disagreements(runs: Sequence[Run]) -> list[str]:
    """Return where two results say different things of the same unedited model."""
    said: dict[tuple[Any, ...], tuple[float, str]] = {}
    problems = []
    for run in runs:
        model, protocol = run.result["model"], run.result["protocol"]
        about = (model["weight_hash"], model["dtype"], protocol["bos_prepended"])
        for number, record in enumerate(run.records()):
            differing = next(
                (
                    (place, other)
                    for place, probe in enumerate(record["probes"])
                    if probe["before"] and "target" in probe["before"]
                    for other in [_first_said(said, about, probe, str(run.where))]
                    if other
                ),
                None,
            )
            if differing:
                place, other = differing
                problems.append(
                    f"{run.path(RECORDS)}: /{number}/probes/{place}/before is not what {other} has for the same "
                    "question to the same unedited model"
                )
                break
    return problems


def _other_cases(runs: Sequence[Run]) -> Iterator[str]:
    """Yield which results were taken on other cases than others that were taken in the same way."""
    seen: dict[str, tuple[frozenset[str], str]] = {}
    for run in runs:
        ids = frozenset(record["case_id"] for record in run.records())
        first, where = seen.setdefault(json.dumps(comparable(run.result), sort_keys=True), (ids, str(run.where)))
        if ids != first:
            yield f"{run.where}: is not on the cases of {where}, which was taken in the same way; run them all"


def agrees(run: Run, again: Run) -> str | None:
    """Return why another run of the same does not bear a result out, or None where it does.

    Machines round differently, so a few verdicts may differ: at least :data:`AGREEING` of them must be the same.
    """
    verdicts = [_verdicts(found) for found in (run, again)]
    if verdicts[0].keys() != verdicts[1].keys():
        return "it has other probes"
    same = sum(value == verdicts[1][key] for key, value in verdicts[0].items())
    share = same / max(1, len(verdicts[0]))
    return None if share >= AGREEING else f"only {share:.1%} of the verdicts are the same, {AGREEING:.0%} should be"


def _verdicts(run: Run) -> dict[tuple[str, int], float | None]:
    found: dict[tuple[str, int], float | None] = {}
    for record in run.records():
        for number, probe in enumerate(record["probes"]):
            if probe["before"] is not None and "target" in probe["before"]:
                after = probe["after"] or probe["before"]
                found[record["case_id"], number] = MEASURES["success"].of(probe, probe["before"], after)
    return found


def _first_said(
    said: dict[tuple[Any, ...], tuple[float, str]], about: tuple[Any, ...], probe: Row, where: str
) -> str | None:
    """Return which earlier result disagrees about an unedited answer, and note this one where it is the first."""
    key = (*about, probe["kind"], probe["prompt"], probe["suffix"], probe["target"])
    value = probe["before"]["target"]["logprob"]
    known, source = said.setdefault(key, (value, where))
    return source if abs(known - value) > SAME_MODEL * (1 + abs(known) / 20) else None


def _notes(run: Run) -> list[str]:
    """Say what a reader of the board is told of a result."""
    protocol, records = run.result["protocol"], run.result["records"]
    notes = []
    if protocol["limit"]:
        notes.append(f"{run.where}: limited to {protocol['limit']} cases; shown as such")
    if records["failed"]:
        notes.append(f"{run.where}: {records['failed']} of {records['cases']} edits failed; counted as no edit")
    return notes
