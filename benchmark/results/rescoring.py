"""Computes a result from its manifest and its records, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..core.files import many_objects
from ..scoring.summary import result_from, retention, summarise_drift
from .io import CHECKPOINTS, DRIFT, MANIFEST, RECORDS, read_json, read_records, sha256_of
from .json_schema import check


def rescore(folder: Path) -> dict[str, Any]:
    """Compute a folder's result from its manifest and records, without a model.

    Raises:
        KnbenchError: a file is missing or broken, or records are missing.
    """
    return score_files(read_json(folder / MANIFEST), lambda name: folder / name)


def score_files(manifest: Mapping[str, Any], path_of: Callable[[str], Path]) -> dict[str, Any]:
    """Compute a result from a manifest and the files of JSON lines that lie where ``path_of`` says.

    Raises:
        KnbenchError: a file is missing or broken, or records are missing.
    """
    protocol, path = manifest["protocol"], path_of(RECORDS)
    with many_objects():
        records = read_records(path)
        _check_complete(path, records, protocol["cases"])
        result = result_from(manifest, records, sha256_of(path))
        if protocol["regime"] == "sequential":
            path = path_of(CHECKPOINTS)
            lines = read_records(path, "checkpoint")
            _check_checkpoints(path, lines, records, protocol["checkpoints"])
            result.update(retention(records, lines, sha256_of(path)))
        if protocol.get("drift"):
            path = path_of(DRIFT)
            result["drift"] = summarise_drift(read_records(path, "drift"), str(path), sha256_of(path))
    check(result, "result", str(path.parent))
    return result


def _check_complete(path: Path, records: Sequence[Mapping[str, Any]], expected: int) -> None:
    """Make sure that there is one record of each case.

    Raises:
        KnbenchError: one is missing, or two claim the same place.
    """
    places: dict[int, str] = {}
    for record in records:
        other = places.setdefault(record["index"], record["case_id"])
        if other != record["case_id"]:
            raise KnbenchError(f"{path}: cases '{other}' and '{record['case_id']}' both claim index {record['index']}")
    missing = sorted(set(range(expected)) - set(places))
    if missing:
        which = f"index {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise KnbenchError(
            f"{path}: {len(records)} of {expected} cases ({which} missing); start the run again to continue it"
        )
    beyond = sorted(set(places) - set(range(expected)))
    if beyond:
        raise KnbenchError(f"{path}: case '{places[beyond[0]]}' has index {beyond[0]}, the run has {expected} cases")


def _check_checkpoints(
    path: Path, lines: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], stops: Sequence[int]
) -> None:
    """Make sure that every case so far was measured again at every stop.

    Raises:
        KnbenchError: one was not.
    """
    ids = [record["case_id"] for record in sorted(records, key=lambda record: record["index"])]
    found = {(line["edits"], line["case_id"]) for line in lines}
    wanted = {(stop, case_id) for stop in stops for case_id in ids[:stop]}
    for what, left in (("missing", wanted - found), ("not of this run", found - wanted)):
        if left:
            edits, case_id = min(left)
            raise KnbenchError(
                f"{path}: case '{case_id}' after {edits} edits is {what}; start the run again to continue it"
            )
