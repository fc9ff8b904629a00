"""Questions about one edit: its own prompt, other words, consequences, neighbours, and questions of the user.

The prompts of a task whose relation matches are used for an edit that is not one of its cases, too: a template is the
prompt of a case with ``{}`` in place of the subject.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.errors import KnbenchError, nearest
from ..core.schema import SLOT, Case, EditRequest, Probe, Support, Task

Group = Literal["edit", "paraphrase", "consequence", "own", "neighbour"]

GROUPS: Mapping[Group, str] = {
    "edit": "Edited prompt",
    "paraphrase": "In other words",
    "consequence": "What follows",
    "own": "Your questions",
    "neighbour": "Neighbours, which should stay as they are",
}
"""Titles of the groups, in the order in which they are shown."""

LIMITS: Mapping[str, int] = {"paraphrase": 3, "neighbourhood": 3}
"""Maximum number of questions that are taken from the probes of a criterion; 1 of others."""

_GROUP_OF: Mapping[str, Group] = {
    "paraphrase": "paraphrase",
    "symmetry": "consequence",
    "portability": "consequence",
    "synonym": "consequence",
    "extension": "consequence",
    "neighbourhood": "neighbour",
    "specificity": "neighbour",
}
"""Group of a probe by its criterion. Probes of other criteria are not asked."""

EXAMPLE_CASES = 5


@dataclass(frozen=True)
class Question:
    """A prompt that the model continues.

    Attributes:
        group: why it is asked.
        prompt: the text up to the answer.
        wanted: the answer that an ideal edit gives, or an empty string if it is unknown.
        suffix: the text after the answer. Only masked models read it.
    """

    group: Group
    prompt: str
    wanted: str = ""
    suffix: str = "."


@dataclass(frozen=True)
class PlannedEdit:
    """An edit and the questions about it.

    Attributes:
        case: the edit request. Its id is that of the task's case, or ``edit``. It seeds the editor, hence a case of a
            task is edited as in a run.
        questions: the questions in the order of :data:`GROUPS`. The first one is the edited prompt.
        task: name of the task that provides questions, or an empty string.
    """

    case: Case
    questions: tuple[Question, ...]
    task: str = ""

    @property
    def request(self) -> EditRequest:
        """The edit request."""
        return self.case.request


def plan_case(task: Task, name: str, new: str | None = None) -> PlannedEdit:
    """Plan the edit of a case of a task.

    Args:
        task: the task.
        name: the id or the subject of a case.
        new: another new target than the case's; None keeps it.

    Raises:
        KnbenchError: the task has no such case, or ``new`` is its true answer.
    """
    case = find_case(task, name)
    if new is not None and new != case.request.target_new:
        check_targets(new, case.request.target_true, case.request.text)
        return _adapted(task, case, dataclasses.replace(case.request, target_new=new), case.id)
    return _planned(case, case.probes, task.name)


def plan_edit(request: EditRequest, tasks: Iterable[Task] = (), *, same_relation: bool = False) -> PlannedEdit:
    """Plan an edit in words, with the questions of the first task that has its relation.

    A task has the relation of an edit if the prompt, with ``{}`` for the subject, is the prompt of its edits, one of
    their support prompts or one of their paraphrases. If the subject is one of the task's, the request receives the
    true answer and the support prompts of the task, unless it states others.

    Args:
        request: the edit.
        tasks: tasks of facts; others are ignored.
        same_relation: whether to take the questions of the first task whatever the prompt is.

    Raises:
        KnbenchError: the new target is the task's true answer.
    """
    for task in tasks:
        if task.kind != "fact" or not request.subject or not task.cases:
            continue
        if not same_relation and _folded(request.prompt) not in _templates(task.cases[0]):
            continue
        own = next((c for c in task.cases if _folded(c.request.subject) == _folded(request.subject)), None)
        if own is None:
            return _adapted(task, task.cases[0], request, "edit")
        true = request.target_true or own.request.target_true
        check_targets(request.target_new, true, request.text)
        support = own.request.support if true == own.request.target_true else ()
        return _adapted(task, own, dataclasses.replace(request, target_true=true, support=support), "edit")
    return _planned(Case("edit", request, ()), (), "")


def with_own_questions(plan: PlannedEdit, prompts: Sequence[str]) -> PlannedEdit:
    """Add questions of the user to a plan; see :func:`own_questions`. A question of the plan is not asked twice."""
    order, planned = list(GROUPS), {question.prompt for question in plan.questions}
    own = [q for q in own_questions(prompts, plan.request.subject) if q.prompt not in planned]
    questions = [*plan.questions, *own]
    return dataclasses.replace(plan, questions=tuple(sorted(questions, key=lambda q: order.index(q.group))))


def own_questions(prompts: Sequence[str], subject: str) -> list[Question]:
    """Return questions of the user. ``{}`` in a prompt is replaced by the subject.

    Raises:
        KnbenchError: a prompt is empty, or has a ``{}`` although the edit has no subject.
    """
    for prompt in prompts:
        if not prompt.strip():
            raise KnbenchError("a question is empty; write a text that the model continues, for example 'Rome is in'")
        if SLOT in prompt and not subject:
            raise KnbenchError(f"the question '{prompt}' has a {{}}, but the edit has no subject; write a name instead")
    return [Question("own", prompt.strip().replace(SLOT, subject)) for prompt in prompts]


def find_case(task: Task, name: str) -> Case:
    """Return the case of a task with an id or, regardless of upper and lower case, a subject.

    Raises:
        KnbenchError: there is none; suggests the most similar id or subject.
    """
    by_id = {case.id: case for case in task.cases}
    if name in by_id:
        return by_id[name]
    names = {_folded(key): case for case in task.cases for key in (case.id, case.request.subject) if key}
    if _folded(name) in names:
        return names[_folded(name)]
    guess = nearest(name, [key for case in task.cases for key in (case.request.subject, case.id) if key])
    hint = f"did you mean '{guess}'?" if guess else example_cases(task)
    raise KnbenchError(f"task '{task.name}' has no case '{name}' among its {len(task.cases)} cases; {hint}")


def example_cases(task: Task) -> str:
    """Return a phrase with the first cases of a task, for messages."""
    return "for example: " + ", ".join(
        f"{case.id} ({case.request.subject})" if case.request.subject not in ("", case.id) else case.id
        for case in task.cases[:EXAMPLE_CASES]
    )


def check_targets(new: str, true: str, prompt: str) -> None:
    """Check that an edit has a new answer.

    Raises:
        KnbenchError: the new answer is empty or equals the true one.
    """
    if not new.strip():
        raise KnbenchError(f"the new answer of '{prompt}' is empty; give one with --new")
    if new == true:
        raise KnbenchError(f"the new answer '{new}' of '{prompt}' equals the old one; give another one with --new")


def _planned(case: Case, probes: Iterable[Probe], task: str) -> PlannedEdit:
    request = case.request
    asked, counts = {request.text}, Counter[str]()
    found: dict[Group, list[Question]] = {group: [] for group in GROUPS}
    suffix = next((probe.suffix for probe in probes if probe.criterion == "reliability"), ".")
    found["edit"].append(Question("edit", request.text, request.target_new, suffix))
    for probe in probes:
        group = _GROUP_OF.get(probe.criterion)
        if group is None or probe.kind != "completion" or probe.expect == "gone" or probe.prompt in asked:
            continue
        if counts[probe.criterion] < LIMITS.get(probe.criterion, 1):
            asked.add(probe.prompt)
            counts[probe.criterion] += 1
            found[group].append(Question(group, probe.prompt, probe.target, probe.suffix))
    return PlannedEdit(case, tuple(question for group in found.values() for question in group), task)


def _adapted(task: Task, case: Case, request: EditRequest, case_id: str) -> PlannedEdit:
    """Plan a request with the probes of a case that has another subject or another new target.

    A probe is adapted if its prompt and its target follow from the subject and the targets alone: answers that need
    another row of the task's table, such as the continent of the new capital, are left out.
    """
    old = case.request
    same_new = _folded(old.target_new) == _folded(request.target_new)
    probes = []
    for probe in case.probes:
        if probe.criterion in ("neighbourhood", "specificity"):
            if request.target_new != probe.target and request.subject not in probe.prompt:
                probes.append(dataclasses.replace(probe, rival=request.target_new))
        elif probe.criterion in ("reliability", "paraphrase") and probe.prompt.count(old.subject) == 1:
            prompt = probe.prompt.replace(old.subject, request.subject)
            probes.append(dataclasses.replace(probe, prompt=prompt, target=request.target_new, rival=""))
        elif probe.criterion == "symmetry" and probe.target == old.subject and old.target_new in probe.prompt:
            prompt = probe.prompt.replace(old.target_new, request.target_new)
            probes.append(dataclasses.replace(probe, prompt=prompt, target=request.subject, rival=""))
        elif same_new and request.subject == old.subject and probe.expect == "new":
            probes.append(probe)
    if not request.support and request.target_true:
        support = [_adapted_support(s, old, request) for s in old.support if s.prompt.count(old.subject) == 1]
        request = dataclasses.replace(request, support=tuple(support))
    request = dataclasses.replace(request, relation=old.relation)
    return _planned(Case(case_id, request, tuple(probes)), probes, task.name)


def _adapted_support(support: Support, old: EditRequest, request: EditRequest) -> Support:
    prompt = support.prompt.replace(old.subject, request.subject)
    return dataclasses.replace(support, prompt=prompt, target=request.target_true)


def _templates(case: Case) -> set[str]:
    """Return the prompts of a case's fact, with ``{}`` in place of the subject."""
    prompts = [
        *(support.prompt for support in case.request.support),
        *(probe.prompt for probe in case.probes if probe.criterion in ("reliability", "paraphrase")),
    ]
    subject = case.request.subject
    return {_folded(case.request.prompt), *(_folded(p.replace(subject, SLOT)) for p in prompts if subject in p)}


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
