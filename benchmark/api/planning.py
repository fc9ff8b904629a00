"""Plans an edit from the words of a user: a fact of their own, or a case of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..core.errors import KnbenchError
from ..core.schema import SLOT, EditRequest, Task
from .questions import PlannedEdit, check_targets, example_cases, plan_case, plan_edit, with_own_questions

EXAMPLE = "--prompt 'The capital of {} is' --subject Canada --new Rome"


@dataclass(frozen=True)
class EditWords:
    """An edit as a user states it.

    Attributes:
        prompt: the statement up to the answer, with ``{}`` or the subject itself.
        subject: the entity that the fact is about.
        new: the new answer.
        old: the answer before the edit, if it is known.
        case: id or subject of a case of the task, instead of ``prompt`` and ``subject``.
        ask: further questions.
    """

    prompt: str | None = None
    subject: str = ""
    new: str | None = None
    old: str = ""
    case: str | None = None
    ask: Sequence[str] = ()


def make_plan(words: EditWords, task: Task | None, tasks: Callable[[], Iterable[Task]]) -> PlannedEdit:
    """Plan an edit and its questions.

    Args:
        words: the edit in words.
        task: the task that ``case`` belongs to, or whose questions are asked; None searches ``tasks``.
        tasks: returns the tasks among which one with the relation of the edit is searched.

    Raises:
        KnbenchError: a part of the edit is missing or contradicts another one.
    """
    if words.case is not None:
        if task is None:
            raise KnbenchError(f"--case '{words.case}' needs the task that it belongs to: --task NAME")
        if words.prompt is not None or words.subject:
            raise KnbenchError("--case is a complete edit; omit --prompt and --subject, or omit --case")
        plan = plan_case(task, words.case, words.new)
    elif words.prompt is not None:
        request = make_request(words)
        plan = plan_edit(request, tasks()) if task is None else plan_edit(request, [task], same_relation=True)
    elif task is not None:
        raise KnbenchError(f"--task {task.name} needs a case: --case NAME; {example_cases(task)}")
    else:
        raise KnbenchError(f"no edit is given; state one, for example {EXAMPLE}, or take one with --task and --case")
    return with_own_questions(plan, words.ask)


def make_request(words: EditWords) -> EditRequest:
    """Return the request of an edit in words.

    Raises:
        KnbenchError: the prompt is empty or does not contain the subject once, the new answer is missing or equals the
            old one, or a text begins or ends with white space that a tokenizer would read.
    """
    prompt, subject = (words.prompt or "").strip(), words.subject.strip()
    if not prompt:
        raise KnbenchError(f"--prompt is empty; write the statement up to its answer, for example {EXAMPLE}")
    if words.new is None:
        raise KnbenchError(f"the new answer of '{prompt}' is missing; give it with --new, for example {EXAMPLE}")
    if prompt.count(SLOT) > 1:
        raise KnbenchError(
            f"--prompt '{prompt}' has {prompt.count(SLOT)} times {{}}; write the subject out once or more"
        )
    if SLOT in prompt and not subject:
        raise KnbenchError(f"--prompt '{prompt}' has a {{}} and no subject that replaces it; give one with --subject")
    if SLOT not in prompt and subject:
        found = prompt.count(subject)
        if found == 0:
            raise KnbenchError(
                f"--prompt '{prompt}' contains neither {{}} nor the subject '{subject}'; write {{}} in the place of "
                "the subject"
            )
        if found > 1:
            raise KnbenchError(
                f"--prompt '{prompt}' contains the subject '{subject}' {found} times; write {{}} in the place of "
                "the one that the fact is about"
            )
        prompt = prompt.replace(subject, SLOT)
    new, old = words.new.strip(), words.old.strip()
    check_targets(new, old, prompt.replace(SLOT, subject))
    return EditRequest(prompt, subject, new, old)
