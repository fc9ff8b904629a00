"""Loads task definition files and validates them against ``task.schema.json``."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from ..benchmark.core.errors import KnbenchError, nearest
from ..benchmark.core.schema import Case, JsonObject, LazySequence, Task
from ..benchmark.core.split import ordered_cases
from ..benchmark.scoring.criteria import CRITERIA
from .checks import fact_warnings
from .facts import fact_cases, with_column
from .formats import parse_yaml
from .phenomena import CRITERIA as PHENOMENON_CRITERIA
from .phenomena import minimal_pairs, phenomenon_cases


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("task.schema.json").read_text(encoding="utf-8"))
    return schema


_CHECKER = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_extend: Any = jsonschema.validators.extend
_Validator = _extend(jsonschema.Draft202012Validator, type_checker=_CHECKER)
"""A validator for which 1.0 is not an integer."""


def load_definition(path: Path) -> Task:
    """Load a task definition. Its data files are read when the cases are first used.

    Raises:
        KnbenchError: the file is not valid YAML or does not conform to the schema. The message gives file, key, problem
            and fix. Errors in data files are raised when the cases are first used.
    """
    try:
        definition = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise KnbenchError(f"{path}: cannot read the file: {error.strerror}") from None
    except ValueError as error:  # UnicodeDecodeError as well
        raise KnbenchError(f"{path}: not valid YAML: {error}") from None
    violation = jsonschema.exceptions.best_match(_Validator(_schema()).iter_errors(definition))
    if violation is not None:
        key = ".".join(str(part) for part in violation.absolute_path) or "top level"
        raise KnbenchError(f"{path}: {key}: {_explain(violation)}")
    if path.stem != definition["name"]:
        raise KnbenchError(
            f"{path}: name: '{definition['name']}' differs from the file name; write '{path.stem}' or rename the file"
        )
    for index, template in enumerate(definition.get("facts", {}).get("support", ())):
        problem = _support_problem(index, definition["facts"])
        if problem is not None:
            raise KnbenchError(f"{path}: facts.support.{index}: {_invalid(template, problem)}")
    name, version = definition["name"], definition["version"]

    def make_cases() -> tuple[Case, ...]:
        if "facts" in definition:
            cases = fact_cases(definition["facts"], path)
        else:
            cases = phenomenon_cases(definition["phenomenon"], path)
        return ordered_cases(name, version, cases)

    cases = LazySequence(make_cases)

    def make_warnings() -> tuple[str, ...]:
        return tuple(fact_warnings(definition["facts"], path, cases)) if "facts" in definition else ()

    def make_pairs() -> tuple[JsonObject, ...]:
        return tuple(minimal_pairs(definition["phenomenon"], path)) if "phenomenon" in definition else ()

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
        cases=cases,
        pairs=LazySequence(make_pairs),
        warnings=LazySequence(make_warnings),
    )


def _explain(violation: jsonschema.ValidationError) -> str:
    """Return a schema violation and its fix in words. The fix is the ``description`` of the violated rule."""
    rule: Any = violation.schema
    value: Any = violation.instance
    known = rule.get("properties", {})
    if violation.validator == "required":
        missing = next(name for name in rule["required"] if name not in value)
        hint = known.get(missing, {}).get("description")
        return f"key '{missing}' is missing; add it" + (f": {hint}" if hint else "")
    if violation.validator == "additionalProperties":
        extra = next(name for name in value if name not in known)
        guess = nearest(str(extra), known)
        return f"unknown key '{extra}'; " + (f"did you mean '{guess}'?" if guess else f"known: {', '.join(known)}")
    if violation.validator == "oneOf" and not violation.absolute_path:
        return "exactly one of the keys 'facts' and 'phenomenon' is required; add or remove one"
    return _invalid(value, rule.get("description"))


def _invalid(value: Any, fix: str | None) -> str:
    shown = repr(value)
    return f"invalid value {shown if len(shown) < 80 else shown[:77] + '...'}" + (f"; {fix}" if fix else "")


def _support_problem(index: int, facts: dict[str, Any]) -> str | None:
    """Return the problem of a support template and its fix, or None if the template is valid.

    The function covers the rules that the schema cannot express, because they relate a template to the edit, to the
    probes and to the other support templates.
    """
    templates = [with_column(template, facts) for template in facts["support"]]
    template, column = templates[index], f"{{{facts['subject']}}}"
    groups = facts["probes"].values()
    probed = {t for group in groups for t in (group if isinstance(group, list) else group["templates"])}
    if column not in template:
        return f"write {{}} or {column} in place of the subject"
    if template == with_column(facts["edit"], facts):
        return "it equals the edit template; use another wording"
    if template in probed:
        return "it equals a probe template, and probes must not use prompts that an editor reads; use another wording"
    if template in templates[:index]:
        return "duplicate template; remove it"
    return None


def _criteria(definition: dict[str, Any]) -> tuple[str, ...]:
    """Return the criteria of a definition's probes, in the order of ``CRITERIA``."""
    if "phenomenon" in definition:
        return PHENOMENON_CRITERIA
    probes = definition["facts"]["probes"]
    measured = {"reliability", *probes} | ({"release"} if "symmetry" in probes else set())
    return tuple(name for name in CRITERIA if name in measured)
