"""Cases on which methods are trained: tuning cases whose subjects no scored case has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import KnbenchError
from ..core.schema import Case, EditRequest, Task, derived_seed, digest
from ..core.split import split_cases
from ..models.language_model import LanguageModel

TARGETS = 3
"""Number of training cases that a tuning case gives, each with another new target."""

Pair = tuple[str, str]
"""A prompt and its answer."""


@dataclass(frozen=True)
class TrainingCase:
    """A request, prompts to which the new fact applies, and prompts to which it does not.

    Attributes:
        id: id of the tuning case.
        request: the edit.
        equivalents: prompts of the same fact with the new target.
        unrelated: other prompts with their true answers.
    """

    id: str
    request: EditRequest
    equivalents: tuple[Pair, ...]
    unrelated: tuple[Pair, ...]


def training_cases(lm: LanguageModel, tasks: Mapping[str, Task]) -> list[TrainingCase]:
    """Return the training cases of some tasks: those of the tuning split whose subject no test case of a task has.

    The result depends on the tasks and the tokenizer alone, hence all runs share what is learnt from it. Each case
    occurs with several new targets, which are targets of other cases of its task.

    Args:
        lm: the model, whose tokenizer must be able to read the cases.
        tasks: the tasks by name.
    """
    scored = {case.request.subject for name, task in tasks.items() for case in split_cases(name, task.cases, "test")}
    found: list[TrainingCase] = []
    for name, task in sorted(tasks.items()):
        members = [c for c in split_cases(name, task.cases, "tune") if c.request.subject not in scored]
        targets = sorted({case.request.target_new for case in members})
        for case in members:
            others = [t for t in targets if t not in (case.request.target_new, case.request.target_true)]
            order = {target: derived_seed("training target", case.id, target) for target in others}
            for target in [case.request.target_new, *sorted(order, key=order.__getitem__)][:TARGETS]:
                made = _training_case(lm, case, target)
                if made is not None:
                    found.append(made)
    return found


def cases_digest(cases: Sequence[TrainingCase]) -> str:
    """Return a sha256 of training cases."""
    return digest([dataclasses.asdict(case) for case in cases])


def check_disjoint(name: str, cases: Sequence[TrainingCase], scored: Sequence[Case]) -> None:
    """Check that a method is not scored on cases or subjects that it was trained on.

    Raises:
        KnbenchError: it is; names the first case.
    """
    ids, subjects = {case.id for case in cases}, {case.request.subject for case in cases if case.request.subject}
    for case in scored:
        if case.id in ids or case.request.subject in subjects:
            raise KnbenchError(
                f"editor '{name}' is trained on the subject '{case.request.subject}' of case '{case.id}'; run it with "
                "--split test"
            )


def _training_case(lm: LanguageModel, case: Case, target: str) -> TrainingCase | None:
    request = dataclasses.replace(case.request, target_new=target, support=())
    completions = [p for p in case.probes if p.kind == "completion" and p.prompt != request.text]
    equivalents = [(p.prompt, target) for p in completions if p.expect == "new"]
    unrelated = [(p.prompt, p.target) for p in completions if p.expect == "unchanged"]
    readable = [pair for pair in equivalents if _is_readable(lm, pair)], [p for p in unrelated if _is_readable(lm, p)]
    if not readable[0] or not readable[1] or not _is_readable(lm, (request.text, target)):
        return None
    return TrainingCase(case.id, request, tuple(readable[0]), tuple(readable[1]))


def _is_readable(lm: LanguageModel, pair: Pair) -> bool:
    try:
        lm.token_queries(*pair, ".")
    except ValueError:
        return False
    return True
