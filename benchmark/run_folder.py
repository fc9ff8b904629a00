"""A run's folder: start it or continue it, and compute its result from its records. Needs no model and no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import KnbenchError
from .files import many_objects, write_json, write_text
from .results import (
    CHECKPOINTS,
    DRIFT,
    MANIFEST,
    RECORDS,
    RESULT,
    RecordsFile,
    RunFiles,
    check,
    read_json,
    read_records,
    sha256_of,
    write_result,
)
from .scoring import result_from, retention, summarise_drift

VOLATILE = ("environment",)
"""Parts of a manifest that may differ when a run is continued."""
DERIVED = ("editor.prepared", "task.content_hash", "task.cases_total")
"""What follows from other differences, and is named only where there are no others."""


def open_folder(folder: Path, manifest: Mapping[str, Any]) -> RunFiles:
    """Start or continue a run folder.

    Raises:
        KnbenchError: it holds another run; names what differs.
    """
    for torn in folder.glob(".*.tmp"):  # of a process that was killed while it wrote; the folder is locked now
        torn.unlink()
    claim(folder, manifest)
    protocol = manifest["protocol"]
    return RunFiles(
        RecordsFile(folder / RECORDS),
        RecordsFile(folder / CHECKPOINTS, "checkpoint") if protocol["regime"] == "sequential" else None,
        RecordsFile(folder / DRIFT, "drift") if protocol.get("drift") else None,
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """``with locked(folder): ...`` keeps other processes out; a process that dies lets its folder go.

    Raises:
        KnbenchError: a living process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise KnbenchError(
            f"{folder} is being written by another process; wait for it, or choose another --output"
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest, or make sure that the one that is there says the same.

    Raises:
        KnbenchError: it says something else; names what differs.
    """
    path = folder / MANIFEST
    if path.exists():
        other = read_json(path)
        was, now = other.get("task", {}), manifest.get("task", {})
        same = was.get("name") == now.get("name") and was.get("version") == now.get("version")
        if same and was.get("content_hash") != now.get("content_hash"):
            raise KnbenchError(
                f"{folder} holds another run: task '{now.get('name')}' changed its content and not its version "
                f"({now.get('version')}); raise the version, and choose another --output"
            )
        differing = [
            f"{place}: {_short(was)} there, {_short(now)} now"
            for place, was, now in sorted(_differences(other, manifest), key=lambda d: d[0].startswith(DERIVED))
            if place.split(".")[0] not in VOLATILE
        ]
        if differing:
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise KnbenchError(
                f"{folder} holds another run ({differing[0]}{more}); choose another --output, or delete it"
            )
    else:
        write_json(path, manifest)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _differences(was: Any, now: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        found = []
        for key in sorted({*was, *now}):
            found += _differences(was.get(key), now.get(key), f"{place}.{key}" if place else key)
        return found
    same = list(was) == list(now) if isinstance(was, list | tuple) and isinstance(now, list | tuple) else was == now
    return [] if same else [(place, was, now)]


def finish(folder: Path) -> Mapping[str, Any]:
    """Put a folder's complete records in order, and compute and write its result."""
    _put_in_order(folder)
    result = rescore(folder)
    if not (folder / RESULT).exists() or read_json(folder / RESULT) != result:
        write_result(folder, result)
    return result


def _put_in_order(folder: Path) -> None:
    """Sort records by case, and drift by what it was measured after: several workers give them as they come."""
    records = read_records(folder / RECORDS)
    _rewrite(folder / RECORDS, records, sorted(records, key=lambda record: record["index"]))
    if (folder / DRIFT).exists():
        index = {record["case_id"]: record["index"] for record in records}
        lines = read_records(folder / DRIFT, "drift")

        def place(line: Mapping[str, Any]) -> tuple[int, int]:  # the unedited model, with edits 0, comes first
            return line.get("edits", 0), line.get("block", index.get(line.get("case_id", ""), -1))

        _rewrite(folder / DRIFT, lines, sorted(lines, key=place))


def _rewrite(path: Path, rows: Sequence[Mapping[str, Any]], ordered: Sequence[Mapping[str, Any]]) -> None:
    if rows != ordered:
        write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in ordered))


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
