"""One edit tried with one or more methods: computes the edits and asks the model before and after each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.documents import EditorCard
from ..core.errors import KnbenchError
from ..core.progress import Reporter
from ..core.records import Failure, to_json
from ..core.schema import JsonObject
from ..core.version import __version__
from ..editing import Edit, Editor, build_editor
from ..models.language_model import LanguageModel
from ..running.attempts import edit_cases
from ..running.failures import MEASURING_FAILURES, failed_edit
from ..running.preparation import prepare_editor
from ..running.provenance import describe_editor
from ..scoring.answers import begins_with
from .answers import CONTINUATION, Answer, Interviewer
from .questions import PlannedEdit, Question

DEFAULT_CAUSAL, DEFAULT_MASKED = "rome", "ft"


@dataclass(frozen=True)
class Attempted:
    """The attempt to make the edit with one method.

    Attributes:
        card: description of the method with its hyper-parameters.
        edit: the edit, or None if it failed.
        seconds: time to compute it, without the preparation of the method.
        failure: the error that prevented the edit or the measurement of the edited model.
    """

    card: EditorCard
    edit: Edit | None
    seconds: float | None
    failure: Failure | None

    @property
    def name(self) -> str:
        """Name of the method."""
        return self.card.name

    @property
    def changed(self) -> int:
        """Number of scalar weights in the changed parameters."""
        return sum(tensor.numel() for tensor in self.edit.weights.values()) if self.edit else 0

    @property
    def unsaveable(self) -> str | None:
        """The reason why the edit cannot be saved as weights, or None."""
        if self.edit is None:
            return f"the edit of '{self.name}' failed"
        if self.edit.prefix or self.edit.recall is not None:
            return f"the edit of '{self.name}' is a text before the prompt, which weights cannot hold"
        if self.edit.outputs or self.edit.memories:
            modules = ", ".join(sorted({*self.edit.outputs, *self.edit.memories}))
            return f"the edit of '{self.name}' is a memory beside the weights (at {modules}), which they cannot hold"
        return None if self.edit.weights else f"'{self.name}' changes no weights"


@dataclass(frozen=True)
class Exchange:
    """A question with the answers of the unedited model and of every edited one.

    Attributes:
        question: the question.
        before: answer of the unedited model.
        after: answers of the edited models by method. A method whose edit failed is missing.
    """

    question: Question
    before: Answer
    after: Mapping[str, Answer]

    def fulfilled(self, method: str) -> bool | None:
        """Return whether a method gives what an ideal edit gives; None if that is unknown.

        The continuation of the edited prompt, of its paraphrases and of its consequences has to begin with the wanted
        answer. A neighbour has to keep its most probable next token.
        """
        answer = self.after.get(method)
        if self.question.group == "own" or answer is None:
            return None
        if self.question.group == "neighbour":
            return answer.top[0].text == self.before.top[0].text
        return begins_with(answer.continuation, [self.question.wanted])


@dataclass(frozen=True)
class Comparison:
    """What a model says before and after an edit, by one or more methods.

    Attributes:
        model: name, parameters, dtype and device of the model.
        plan: the edit and its questions.
        methods: the attempts, in the order of the methods.
        exchanges: the questions with their answers, in the order of their groups.
    """

    model: Mapping[str, Any]
    plan: PlannedEdit
    methods: Sequence[Attempted]
    exchanges: Sequence[Exchange]

    def counts(self, method: str, group: str) -> tuple[int, int]:
        """Return how many questions of a group a method fulfils, and how many there are."""
        verdicts = [exchange.fulfilled(method) for exchange in self.exchanges if exchange.question.group == group]
        return sum(bool(verdict) for verdict in verdicts), len(verdicts)

    def mean_kl(self, method: str, group: str) -> float | None:
        """Return the mean KL of a method's answers to a group of questions, in nats; None without answers."""
        values = [
            answer.kl
            for exchange in self.exchanges
            if exchange.question.group == group and (answer := exchange.after.get(method)) and answer.kl is not None
        ]
        return sum(values) / len(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        request = self.plan.request
        return {
            "benchmark_version": __version__,
            "model": dict(self.model),
            "edit": {
                "prompt": request.prompt,
                "subject": request.subject,
                "new": request.target_new,
                "old": request.target_true,
                "task": self.plan.task or None,
                "case": None if self.plan.case.id == "edit" else self.plan.case.id,
            },
            "editors": [
                {**describe_attempt(method), "failure": None if method.failure is None else to_json(method.failure)}
                for method in self.methods
            ],
            "answers": [
                {
                    **dataclasses.asdict(exchange.question),
                    "before": dataclasses.asdict(exchange.before),
                    "after": {
                        name: {**dataclasses.asdict(answer), "fulfilled": exchange.fulfilled(name)}
                        for name, answer in exchange.after.items()
                    },
                }
                for exchange in self.exchanges
            ],
        }


def describe_attempt(method: Attempted) -> dict[str, Any]:
    """Return a method with its hyper-parameters, the changed parameters and the time, as JSON values."""
    edit = method.edit or Edit()
    return {
        "name": method.name,
        "summary": method.card.summary,
        "paper": method.card.paper,
        "config": dict(method.card.config),
        "config_source": method.card.config_source,
        "parameters": sorted(edit.weights),
        "parameters_touched": method.changed,
        "seconds": method.seconds,
    }


class Trial:
    """Tries an edit on a loaded model. The model is unedited between the calls.

    Args:
        lm: the model.
        plan: the edit and its questions.
        seed: seed of the methods.
        tokens: length of continuations, in tokens.
        reporter: receives progress.

    Attributes:
        methods: the attempts so far.

    Raises:
        KnbenchError: the model cannot read the edit or a question.
    """

    def __init__(
        self,
        lm: LanguageModel,
        plan: PlannedEdit,
        *,
        seed: int = 0,
        tokens: int = CONTINUATION,
        reporter: Reporter | None = None,
    ) -> None:
        self.lm, self.plan, self.seed = lm, plan, seed
        self.reporter = reporter or Reporter()
        self.methods: list[Attempted] = []
        self._interviewer = Interviewer(lm, plan.request, tokens)
        self._interviewer.check(plan.questions)
        self._fingerprint = lm.fingerprint()

    def attempt(self, cls: type[Editor[Any]], overrides: Mapping[str, str] | None = None) -> Attempted:
        """Compute the edit with a method.

        Args:
            cls: class of the method.
            overrides: hyper-parameters as text.

        Raises:
            KnbenchError: the method does not fit the model, cannot be prepared, or changes the model itself.
        """
        editor, source = build_editor(cls, self.lm, overrides, self.seed)
        prepared: JsonObject = prepare_editor(editor, self.lm, self.seed, self.reporter, self._fingerprint)
        self.reporter.doing(f"editing with {editor.name}")
        attempt = edit_cases(editor, self.lm, [self.plan.case], {}, self.seed)
        if self.lm.fingerprint() != self._fingerprint:
            raise KnbenchError(
                f"editor '{editor.name}' left the model changed (see: knbench check-editor {editor.name})"
            )
        card = describe_editor(editor, source, prepared)
        method = Attempted(card, attempt.edit, attempt.seconds, attempt.failure)
        self.methods.append(method)
        return method

    def ask(self, questions: Sequence[Question]) -> list[Exchange]:
        """Ask the unedited model and every edited one.

        A method whose edited model gives no probabilities is marked as failed and not asked again.

        Raises:
            KnbenchError: the model cannot read a question.
        """
        self._interviewer.check(questions)
        self.reporter.doing("asking the unedited model")
        before = self._interviewer.ask(questions, edited=False)
        after: dict[str, list[Answer]] = {}
        for index, method in enumerate(self.methods):
            if method.edit is None or method.failure is not None:
                continue
            self.reporter.doing(f"asking the model edited with {method.name}")
            try:
                with method.edit.applied(self.lm):
                    after[method.name] = self._interviewer.ask(questions, edited=True)
            except MEASURING_FAILURES as error:
                failure = failed_edit(method.name, "probe", error)
                self.methods[index] = dataclasses.replace(method, failure=failure)
        return [
            Exchange(question, before[n], {name: answers[n] for name, answers in after.items()})
            for n, question in enumerate(questions)
        ]

    def compare(self) -> Comparison:
        """Ask the planned questions and return all answers."""
        exchanges = self.ask(self.plan.questions)
        return Comparison(describe_loaded(self.lm), self.plan, tuple(self.methods), exchanges)


def describe_loaded(lm: LanguageModel) -> dict[str, Any]:
    """Return the name, the number of parameters, the dtype and the device of a model."""
    return {
        "name": lm.name,
        "revision": lm.revision,
        "parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": str(lm.device),
    }


def default_editor(lm: LanguageModel) -> str:
    """Return the name of the editor that is used if none is named: ``rome``, or ``ft`` on a masked model."""
    return DEFAULT_CAUSAL if lm.causal else DEFAULT_MASKED
