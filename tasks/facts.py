"""From tables of facts and some templates to cases."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.schema import SLOT, Case, EditRequest, Probe, Support, digest

Row = Mapping[str, str]


def fact_cases(spec: Mapping[str, Any], definition: Path) -> Iterator[Case]:
    """Yield one case per row.

    Raises:
        KnbenchError: a data file is missing or broken, lacks a column, repeats an id, or a new target is no other
            row's object.
    """
    rows = read_rows(spec, definition)
    by_object = {row[spec["object"]]: row for row in reversed(rows)}
    new = new_targets(spec, rows)
    for row in rows:
        target = new[row[spec["id"]]]
        if target not in by_object:
            raise KnbenchError(
                f"{definition}: new target '{target}' of '{row[spec['id']]}' is no row's {spec['object']}"
            )
        yield _case(spec, row, by_object[target], rows)


def read_rows(spec: Mapping[str, Any], definition: Path) -> list[Row]:
    """Read a definition's tables, joined on the id column, without the rows that its ``where`` leaves out.

    Raises:
        KnbenchError: see :func:`fact_cases`.
    """
    tables = [_read_table(definition.parent / name, spec["id"], definition) for name in spec["data"]]
    rows: list[Row] = [{key: value for table in tables for key, value in table.get(i, {}).items()} for i in tables[0]]
    columns = {column for row in rows for column in row}
    for key in ("subject", "object", "new", "aliases", "where"):
        if isinstance(spec.get(key), str) and spec[key] not in columns:
            raise KnbenchError(f"{definition}: {key}: no column '{spec[key]}' in {', '.join(spec['data'])}")
    needed = [spec["subject"], spec["object"], *([spec["where"]] if "where" in spec else [])]
    return [row for row in rows if all(row.get(column) for column in needed)]


def _read_table(path: Path, id_column: str, definition: Path) -> dict[str, Row]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KnbenchError(f"{definition}: data: cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if path.suffix == ".jsonl":
        rows = list(_json_lines(path, text))
    else:
        rows = [dict(row) for row in csv.DictReader(text.splitlines())]
        ragged = next((n for n, row in enumerate(rows, start=2) if None in row or None in row.values()), None)
        if ragged is not None:
            raise KnbenchError(f"{path}: line {ragged} has not as many cells as the header")
    if not rows or id_column not in rows[0]:
        raise KnbenchError(f"{path}: no column '{id_column}', which {definition.name} names as id")
    repeated = [i for i, n in Counter(row[id_column] for row in rows).items() if n > 1]
    if repeated:
        raise KnbenchError(f"{path}: id '{repeated[0]}' stands twice")
    return {row[id_column]: row for row in rows}


def _json_lines(path: Path, text: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise KnbenchError(f"{path}: line {number} is no JSON: {error}") from None
        if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
            raise KnbenchError(f"{path}: line {number} is no object of strings")
        yield row


def new_targets(spec: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """Return each row's new target: the column's, or one chosen by the seed as evenly as can be.

    A chosen target is another row's object (of the ``among`` rows, where the definition names a column), and neither
    the row's own object, an alias of it, nor part of its subject.
    """
    if isinstance(spec["new"], str):
        return {row[spec["id"]]: row[spec["new"]] for row in rows}
    seed, among = spec["new"]["seed"], spec["new"].get("among")
    uses = {row[spec["object"]]: 0 for row in rows if among is None or row[among] == "1"}
    chosen: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: digest([seed, row[spec["id"]]])):
        true = {name.casefold() for name in (row[spec["object"]], *_aliases(spec, row))}
        options = [o for o in uses if o.casefold() not in true and o.casefold() not in row[spec["subject"]].casefold()]
        target = min(options, key=lambda o: (uses[o], digest([seed, row[spec["id"]], o])))
        uses[target] += 1
        chosen[row[spec["id"]]] = target
    return chosen


def _aliases(spec: Mapping[str, Any], row: Row) -> tuple[str, ...]:
    return tuple(filter(None, row[spec["aliases"]].split("|"))) if "aliases" in spec else ()


def _case(spec: Mapping[str, Any], row: Row, new_row: Row, rows: Sequence[Row]) -> Case:
    subject, true, new = row[spec["subject"]], row[spec["object"]], new_row[spec["object"]]
    support = tuple(Support(_fill(with_column(t, spec), row), true) for t in spec.get("support", ()))
    request = EditRequest(spec["edit"], subject, target_new=new, target_true=true, support=support)
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
    for criterion in ("synonym", "portability"):
        probes += _consequences(criterion, wanted.get(criterion), row, new_row)
    if "neighbourhood" in wanted:
        probes += _neighbours(spec, wanted["neighbourhood"], row, new, rows)
    if "unrelated" in wanted:
        probes += _unrelated(spec, wanted["unrelated"], row, rows)
    return Case(id=row[spec["id"]], request=request, probes=tuple(probes), source=spec["data"][0].removeprefix("../"))


def _consequences(criterion: str, asked: Mapping[str, Any] | None, row: Row, new_row: Row) -> Iterator[Probe]:
    """Yield probes whose answer is a column of the new object's row, such as its occupation or its continent."""
    if asked is None:
        return
    new, old = new_row.get(asked["answer"]), row.get(asked["answer"])
    if new and old and new != old:
        for template in asked["templates"]:
            yield Probe(criterion, "completion", _fill(template, row), new, old, "new")


def _neighbours(
    spec: Mapping[str, Any], wanted: Mapping[str, Any], row: Row, new: str, rows: Sequence[Row]
) -> Iterator[Probe]:
    """Yield probes of other subjects, chosen by hash; never one whose answer is the new target.

    With ``same_object`` they share the true answer (Meng et al. 2022); a bijective relation has no such subjects.
    """
    own = row[spec["object"]]
    same = wanted.get("same_object", False)
    pool = [
        other
        for other in rows
        if other[spec["id"]] != row[spec["id"]]
        and other[spec["object"]] != new
        and (other[spec["object"]] == own) == same
        and ("among" not in wanted or other[wanted["among"]] == "1")
    ]
    pool.sort(key=lambda other: digest([row[spec["id"]], other[spec["id"]]]))
    for other in pool[: wanted["count"]]:
        for template in wanted["templates"]:
            true = other[spec["object"]]
            prompt = _fill(template, other)
            yield Probe("neighbourhood", "completion", prompt, true, new, "unchanged", _aliases(spec, other))


def _unrelated(spec: Mapping[str, Any], asked: Mapping[str, Any], row: Row, rows: Sequence[Row]) -> Iterator[Probe]:
    """Yield probes of the subject's other facts, against another subject's answer."""
    true = row.get(asked["answer"])
    rivals = sorted({other.get(asked["answer"]) or "" for other in rows} - {"", true})
    if true and rivals:
        rival = min(rivals, key=lambda r: digest([row[spec["id"]], r]))
        for template in asked["templates"]:
            yield Probe("unrelated", "completion", _fill(template, row), true, rival, "unchanged")


def with_column(template: str, spec: Mapping[str, Any]) -> str:
    """Return a template that names the subject's column, as the probes' do, where the edit has its ``{}``."""
    return template.replace(SLOT, f"{{{spec['subject']}}}")


def _fill(template: str, row: Row) -> str:
    try:
        return template.format_map(row)
    except (KeyError, IndexError, ValueError) as error:
        raise KnbenchError(f"template {template!r} does not fit the data's columns: {error}") from None
