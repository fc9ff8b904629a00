"""Builds the cases of fact tasks from tables of facts and prompt templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

from ..benchmark.core.errors import KnbenchError
from ..benchmark.core.schema import SLOT, Case, EditRequest, Probe, Support
from ..benchmark.core.text import Join, joined_prompt
from .draws import FactDraws, Facts, aliases, answer_names, new_targets
from .tables import Row, read_table


def fact_cases(spec: Mapping[str, Any], definition: Path) -> Iterator[Case]:
    """Yield one case per row.

    Args:
        spec: the section ``facts`` of the definition.
        definition: the path of the definition file, to which data paths are relative.

    Raises:
        KnbenchError: a data file is missing or malformed, lacks a column or repeats an id, a template does not match
            the columns, or a new target is the row's object under any name or not the object of any row.
    """
    rows = read_rows(spec, definition)
    row_of_object = {row[spec["object"]]: row for row in reversed(rows)}
    try:
        targets = new_targets(spec, rows)
    except KnbenchError as error:
        raise KnbenchError(f"{definition}: facts.new: {error}") from None
    names_of_object, draws = Facts(spec, rows).names_of_object, FactDraws(spec, rows)
    for row in rows:
        target = targets[row[spec["id"]]]
        if target not in row_of_object:
            raise KnbenchError(
                f"{definition}: facts.new: the new target '{target}' of id '{row[spec['id']]}' is not in column "
                f"'{spec['object']}'; use the object of another row"
            )
        if not names_of_object[target].isdisjoint(answer_names(spec, row)):
            raise KnbenchError(
                f"{definition}: facts.new: the new target '{target}' of id '{row[spec['id']]}' equals its object or "
                "another name of it; use the object of another row"
            )
        try:
            case = _case(spec, row, row_of_object[target], draws)
            if "join" in spec:
                case = _joined(case, spec["join"])
        except KnbenchError as error:
            raise KnbenchError(f"{definition}: {error}") from None
        yield case


def read_rows(spec: Mapping[str, Any], definition: Path) -> list[Row]:
    """Read the tables of a definition, joined on the id column.

    Rows without a subject or an object are dropped, and so are rows with an empty cell in the column ``where``.

    Raises:
        KnbenchError: see :func:`fact_cases`.
    """
    tables = [read_table(definition.parent / name, spec["id"], definition) for name in spec["data"]]
    rows: list[Row] = [{key: value for table in tables for key, value in table.get(i, {}).items()} for i in tables[0]]
    columns = {column for row in rows for column in row}
    for key, column in _named_columns(spec):
        if column not in columns:
            raise KnbenchError(
                f"{definition}: facts.{key}: no column '{column}' in {', '.join(spec['data'])}; "
                f"columns: {', '.join(sorted(columns))}"
            )
    required = [spec["subject"], spec["object"], *([spec["where"]] if "where" in spec else [])]
    complete = [row for row in rows if all(row.get(column) for column in required)]
    if not complete:
        raise KnbenchError(
            f"{definition}: facts.data: no row has a cell in each of the columns {', '.join(required)}; fill them"
        )
    return complete


def _named_columns(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and column of each entry of a definition that names a column."""
    for key in ("subject", "object", "new", "aliases", "where"):
        if isinstance(spec.get(key), str):
            yield key, spec[key]
    groups = {f"probes.{name}": group for name, group in spec["probes"].items()} | {"new": spec["new"]}
    for name, group in groups.items():
        for key in ("answer", "among"):
            if isinstance(group, Mapping) and key in group:
                yield f"{name}.{key}", group[key]


def _case(spec: Mapping[str, Any], row: Row, new_row: Row, draws: FactDraws) -> Case:
    """Return the case of a row whose new target is the object of ``new_row``."""
    subject, true, new = row[spec["subject"]], row[spec["object"]], new_row[spec["object"]]
    support = tuple(Support(_fill(with_column(t, spec), row), true) for t in spec.get("support", ()))
    relation = (template_words(spec["edit"]), template_words(next(iter(spec["probes"].get("symmetry", ())), "")))
    request = EditRequest(spec["edit"], subject, target_new=new, target_true=true, support=support, relation=relation)
    new_aliases = aliases(spec, new_row)
    probes = [Probe("reliability", "completion", request.text, new, true, "new", new_aliases)]
    probe_specs = spec["probes"]
    for template in probe_specs.get("paraphrase", ()):
        probes.append(Probe("paraphrase", "completion", _fill(template, row), new, true, "new", new_aliases))
    for template in probe_specs.get("symmetry", ()):
        rival = new_row[spec["subject"]]
        new_prompt, old_prompt = _fill(template, new_row), _fill(template, row)
        probes.append(Probe("symmetry", "completion", new_prompt, subject, rival, "new"))
        probes.append(Probe("release", "completion", old_prompt, subject, rival, "gone"))
    for criterion in ("synonym", "portability"):
        probes += _consequences(criterion, probe_specs.get(criterion), row, new_row)
    if "neighbourhood" in probe_specs:
        probes += _neighbours(spec, row, new, draws)
    if "unrelated" in probe_specs:
        probes += _unrelated(probe_specs["unrelated"], row, draws)
    return Case(id=row[spec["id"]], request=request, probes=tuple(probes), source=spec["data"][0].removeprefix("../"))


def _joined(case: Case, join: Join) -> Case:
    """Return a case whose prompts are separated from their targets by one space or by nothing."""
    request = case.request
    support = tuple(replace(s, prompt=joined_prompt(s.prompt, [s.target], join)) for s in request.support)
    prompt = joined_prompt(request.prompt, [request.target_new, request.target_true], join)
    probes = tuple(replace(p, prompt=joined_prompt(p.prompt, [p.target, p.rival], join)) for p in case.probes)
    return replace(case, request=replace(request, prompt=prompt, support=support), probes=probes)


def _consequences(criterion: str, probe_spec: Mapping[str, Any] | None, row: Row, new_row: Row) -> Iterator[Probe]:
    """Yield probes whose answer is a cell of the new object's row, for example its occupation or its continent."""
    if probe_spec is None:
        return
    new, old = new_row.get(probe_spec["answer"]), row.get(probe_spec["answer"])
    if new and old and new != old:
        for template in probe_spec["templates"]:
            yield Probe(criterion, "completion", _fill(template, row), new, old, "new")


def _neighbours(spec: Mapping[str, Any], row: Row, new: str, draws: FactDraws) -> Iterator[Probe]:
    """Yield probes of other subjects; the rival is the new target."""
    for other in draws.neighbours(row, new):
        for template in spec["probes"]["neighbourhood"]["templates"]:
            true, prompt = other[spec["object"]], _fill(template, other)
            yield Probe("neighbourhood", "completion", prompt, true, new, "unchanged", aliases(spec, other))


def _unrelated(probe_spec: Mapping[str, Any], row: Row, draws: FactDraws) -> Iterator[Probe]:
    """Yield probes of other facts of the subject; the rival is the answer of another subject."""
    true = row.get(probe_spec["answer"])
    rival = draws.rival(row, probe_spec["answer"]) if true else None
    if true and rival:
        for template in probe_spec["templates"]:
            yield Probe("unrelated", "completion", _fill(template, row), true, rival, "unchanged")


def template_words(template: str) -> str:
    """Return the words of a template without its slots, for example ``is the capital of``."""
    return " ".join(" ".join(text for text, *_ in Formatter().parse(template)).split())


def with_column(template: str, spec: Mapping[str, Any]) -> str:
    """Replace ``{}``, as edit templates have it, by the subject's column in braces, as probe templates have it."""
    return template.replace(SLOT, f"{{{spec['subject']}}}")


def _fill(template: str, row: Row) -> str:
    """Replace each column in braces by the row's cell.

    Raises:
        KnbenchError: the braces contain something else than a column, for example an attribute or a format.
    """
    parts = []
    try:
        for text, column, format_spec, conversion in Formatter().parse(template):
            parts.append(text)
            if column is None:
                continue
            if column not in row or format_spec or conversion:
                raise ValueError(f"no column '{column}'" if column not in row else f"'{column}' has a format")
            parts.append(row[column])
    except ValueError as error:
        raise KnbenchError(
            f"template {template!r} does not match the columns of the data: {error}; write a column in braces: "
            f"{', '.join(sorted(row))}"
        ) from None
    return "".join(parts)
