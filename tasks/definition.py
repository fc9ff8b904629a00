"""Reads a task's definition file, checks it, and hands out the task."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ..benchmark.core.errors import KnbenchError, nearest
from ..benchmark.core.schema import Case, JsonObject, LazySequence, Task, digest
from ..benchmark.scoring.criteria import CRITERIA
from .facts import fact_cases, with_column
from .phenomena import CRITERIA as PHENOMENON_CRITERIA
from .phenomena import pairs, phenomenon_cases


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("task.schema.json").read_text(encoding="utf-8"))
    return schema


def load_definition(path: Path) -> Task:
    """Read a task definition; its data is read when its cases are first asked for.

    Raises:
        KnbenchError: the file is no YAML, or does not fit the schema; names file, key and reason.
    """
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KnbenchError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    flaw = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_schema()).iter_errors(definition))
    if flaw is not None:
        key = ".".join(str(part) for part in flaw.absolute_path) or "top level"
        raise KnbenchError(f"{path}: {key}: {_mend(flaw)}")
    if path.stem != definition["name"]:
        raise KnbenchError(f"{path}: name: '{definition['name']}' should be the file's name, '{path.stem}'")
    for number, template in enumerate(definition.get("facts", {}).get("support", ())):
        reason = _unfit_support(number, definition["facts"])
        if reason is not None:
            raise KnbenchError(f"{path}: facts.support.{number}: {_misfit(template, reason)}")
    name, version = definition["name"], definition["version"]

    def cases() -> tuple[Case, ...]:
        if "facts" in definition:
            made = fact_cases(definition["facts"], path)
        else:
            made = phenomenon_cases(definition["phenomenon"], path)
        # A fixed shuffle, so that the first cases are a fair sample and not the beginning of the alphabet.
        return tuple(sorted(made, key=lambda case: digest([name, version, case.id])))

    def minimal_pairs() -> tuple[JsonObject, ...]:
        return tuple(pairs(definition["phenomenon"], path)) if "phenomenon" in definition else ()

    return Task(
        name=name,
        version=version,
        kind=definition["kind"],
        title=definition["title"],
        description=definition["description"],
        licence=definition["licence"],
        citation=definition["citation"],
        source=definition["source"],
        relation=definition["relation"],
        criteria=_criteria(definition),
        cases=LazySequence(cases),
        pairs=LazySequence(minimal_pairs),
    )


def _mend(flaw: jsonschema.ValidationError) -> str:
    """Say in words what is wrong and how to mend it; the schema's descriptions say what belongs there."""
    rule: Any = flaw.schema
    value: Any = flaw.instance
    known = rule.get("properties", {})
    if flaw.validator == "required":
        missing = next(name for name in rule["required"] if name not in value)
        hint = known.get(missing, {}).get("description")
        return f"'{missing}' is missing; add it" + (f": {hint}" if hint else "")
    if flaw.validator == "additionalProperties":
        extra = next(name for name in value if name not in known)
        guess = nearest(str(extra), known)
        return f"unknown key '{extra}'; " + (f"did you mean '{guess}'?" if guess else f"known: {', '.join(known)}")
    if flaw.validator == "oneOf" and not flaw.absolute_path:
        return "has neither 'facts' nor 'phenomenon', or both; write exactly one of them"
    return _misfit(value, rule.get("description"))


def _misfit(value: Any, hint: str | None) -> str:
    shown = repr(value)
    return f"{shown if len(shown) < 80 else shown[:77] + '...'} does not fit" + (f"; {hint}" if hint else "")


def _unfit_support(number: int, facts: dict[str, Any]) -> str | None:
    """Say how to mend a support template that a schema cannot judge: by the edit, the probes and its fellows."""
    templates = [with_column(template, facts) for template in facts["support"]]
    template, column = templates[number], f"{{{facts['subject']}}}"
    groups = facts["probes"].values()
    asked = {t for group in groups for t in (group if isinstance(group, list) else group["templates"])}
    if column not in template:
        return f"write {{}} or {column} where the subject stands"
    if template == with_column(facts["edit"], facts):
        return "the edit has these words; write others"
    if template in asked:
        return "a probe has these words, and what an editor has seen is no test of it; write others"
    if template in templates[:number]:
        return "it stands in the list twice; leave it out"
    return None


def _criteria(definition: dict[str, Any]) -> tuple[str, ...]:
    """Return the criteria of a definition's probes, in the order in which boards show them."""
    if "phenomenon" in definition:
        return PHENOMENON_CRITERIA
    probes = definition["facts"]["probes"]
    asked = {"reliability", *probes} | ({"release"} if "symmetry" in probes else set())
    return tuple(name for name in CRITERIA if name in asked)
