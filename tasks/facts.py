"""From a table of facts and some templates to cases."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmark.errors import KnbenchError
from ..benchmark.types import Case, EditRequest, Probe, digest

Row = Mapping[str, str]


def fact_cases(spec: Mapping[str, Any], definition: Path) -> Iterator[Case]:
    """Yield one case per row of the data file.

    Raises:
        KnbenchError: the data file is missing, lacks a column, repeats an id, or a new target is no other row's object.
    """
    rows = _read(definition.parent / spec["data"], spec, definition)
    by_object = {row[spec["object"]]: row for row in rows}
    for row in rows:
        new = row[spec["new"]]
        if new not in by_object:
            raise KnbenchError(f"{definition}: new target '{new}' of '{row[spec['id']]}' is no row's {spec['object']}")
        yield _case(spec, row, by_object[new], rows)


def _read(path: Path, spec: Mapping[str, Any], definition: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise KnbenchError(f"{definition}: data: cannot read {path}: {error.strerror}") from None
    needed = [spec[key] for key in ("id", "subject", "object", "new", "aliases") if key in spec]
    missing = [column for column in needed if not rows or column not in rows[0]]
    if missing:
        raise KnbenchError(f"{path}: no column '{missing[0]}', which {definition.name} names")
    ids = [row[spec["id"]] for row in rows]
    repeated = next((i for n, i in enumerate(ids) if i in ids[:n]), None)
    if repeated is not None:
        raise KnbenchError(f"{path}: id '{repeated}' stands twice")
    return list(rows)


def _aliases(spec: Mapping[str, Any], row: Row) -> tuple[str, ...]:
    return tuple(filter(None, row[spec["aliases"]].split("|"))) if "aliases" in spec else ()


def _case(spec: Mapping[str, Any], row: Row, new_row: Row, rows: Sequence[Row]) -> Case:
    subject, true, new = row[spec["subject"]], row[spec["object"]], row[spec["new"]]
    request = EditRequest(prompt=spec["edit"], subject=subject, target_new=new, target_true=true)
    new_aliases = _aliases(spec, new_row)
    probes = [Probe("reliability", "completion", request.text, new, true, "new", new_aliases)]
    wanted = spec["probes"]
    for template in wanted.get("paraphrase", ()):
        probes.append(Probe("paraphrase", "completion", _fill(template, row), new, true, "new", new_aliases))
    for template in wanted.get("symmetry", ()):
        rival = new_row[spec["subject"]]
        asked_of_new, asked_of_old = _fill(template, new_row), _fill(template, row)
        probes.append(Probe("symmetry", "completion", asked_of_new, subject, rival, "new"))
        probes.append(Probe("release", "completion", asked_of_old, subject, rival, "gone"))
    if "neighbourhood" in wanted:
        probes += _neighbours(spec, wanted["neighbourhood"], row, rows)
    return Case(id=row[spec["id"]], request=request, probes=tuple(probes), source=spec["data"])


def _neighbours(spec: Mapping[str, Any], wanted: Mapping[str, Any], row: Row, rows: Sequence[Row]) -> Iterator[Probe]:
    """Yield probes of other subjects, chosen by hash; never one whose answer is the old or the new target."""
    new = row[spec["new"]]
    taken = {new, row[spec["object"]]}
    pool = [
        other
        for other in rows
        if other[spec["object"]] not in taken and ("among" not in wanted or other[wanted["among"]] == "1")
    ]
    pool.sort(key=lambda other: digest([row[spec["id"]], other[spec["id"]]]))
    for other in pool[: wanted["count"]]:
        for template in wanted["templates"]:
            true = other[spec["object"]]
            prompt = _fill(template, other)
            yield Probe("neighbourhood", "completion", prompt, true, new, "unchanged", _aliases(spec, other))


def _fill(template: str, row: Row) -> str:
    try:
        return template.format_map(row)
    except KeyError as error:
        raise KnbenchError(f"template {template!r} names column {error}, which the data does not have") from None
