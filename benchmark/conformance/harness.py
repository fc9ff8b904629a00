"""Definition of a conformance check, its execution and its result.

A check is a generator that yields one sentence for each violation of its rule. The first line of its docstring states
the rule. The rest gives the reason and advice, which the report shows to the author of the editor. Each check starts
from new models and editors, which keeps a defect from failing checks that do not test it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..editing import Editor
from .fixtures import ClassFixture, describe_exception
from .snapshots import preserved_process_state


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: name of the check.
        ok: True if the check found no violation.
        message: all violations, joined by semicolons; for a passed check, notes on comparisons that were skipped.
        explanation: the rule with its reason and advice.
    """

    name: str
    ok: bool
    message: str
    explanation: str


class Note(str):
    """A remark that a check yields about something that it could not compare. It does not fail the check."""


@dataclass(frozen=True)
class Check:
    """A conformance check.

    Attributes:
        function: takes a :class:`ClassFixture`, or a :class:`ModelFixture` if ``per_model``; yields violations.
        per_model: whether the check runs once for each kind of model that can be edited.
    """

    function: Callable[[Any], Iterator[str]]
    per_model: bool

    @property
    def name(self) -> str:
        """The function's name with hyphens, as the command line shows it."""
        return self.function.__name__.replace("_", "-")

    @property
    def purpose(self) -> str:
        """The first line of the function's docstring: the rule."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def advice(self) -> str:
        """The rest of the function's docstring as one paragraph: the reason and advice."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n")[2].split())

    @property
    def explanation(self) -> str:
        """The rule, the reason and the advice as one paragraph."""
        return f"{self.purpose} {self.advice}"


def run_check(check: Check, fixture: ClassFixture) -> CheckResult:
    """Run one check and collect every violation. The violations of a check per model begin with the kind of model."""
    if not check.per_model:
        findings = _collect_findings(check.function, fixture, fixture.cls)
    else:
        editable = [model for model in fixture.models if model.setup_error is None]
        by_kind = {model.kind: _collect_findings(check.function, model, fixture.cls) for model in editable}
        findings = [type(finding)(f"{kind}: {finding}") for kind, found in by_kind.items() for finding in found]
        if not editable:
            findings = ["not checked: no model can be edited; see both-layouts"]
    violations = [finding for finding in findings if not isinstance(finding, Note)]
    return CheckResult(check.name, not violations, "; ".join(violations or findings), check.explanation)


def _collect_findings(function: Callable[[Any], Iterator[str]], fixture: object, cls: type[Editor[Any]]) -> list[str]:
    """Return what a check yields. An exception becomes the last violation."""
    findings: list[str] = []
    try:
        with preserved_process_state():
            for finding in function(fixture):
                findings.append(finding)
    except (Exception, SystemExit) as error:
        findings.append(describe_exception(error, cls))
    return findings
