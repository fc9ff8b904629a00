"""The text of a comparison, for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core.printable import printable
from .answers import Answer, Token
from .questions import GROUPS, PlannedEdit, Question
from .trial import Attempted, Comparison, Exchange

WIDTH = 80
_NAME_WIDTH = 14
"""Maximum width of the column with the names of methods; a longer name is followed by a line break."""

LEGEND = (
    "After each prompt: the most probable next tokens (words or their beginnings; quoted without letters or without "
    "the usual space), the continuation, and the probability of the wanted answer. yes: the continuation begins with "
    "the wanted answer. same: the next token is as before. KL: divergence of the next token from the unedited model, "
    "in nats."
)

Style = Literal["heading", "strong", "plain", "dim"]


@dataclass(frozen=True)
class Line:
    """A line of text, at most :data:`WIDTH` characters unless a word is longer.

    Attributes:
        text: the text.
        style: how a terminal shows it.
    """

    text: str
    style: Style = "plain"


def comparison_lines(comparison: Comparison) -> list[Line]:
    """Return the whole comparison: the edit, the answers by group, and a table of the methods."""
    return [*header_lines(comparison.plan, comparison.model), *answer_lines(comparison)]


def header_lines(plan: PlannedEdit, model: Mapping[str, Any]) -> list[Line]:
    """Return the edit, the model, and where the questions come from.

    Args:
        plan: the edit.
        model: as in :attr:`Comparison.model`.
    """
    request, size = plan.request, format_count(model["parameters"])
    old = f" (instead of {request.target_true})" if request.target_true else ""
    if plan.task:
        source = f"The other questions are those of the task {plan.task}."
    else:
        source = "No built-in task has this relation: only your own questions (--ask) are asked."
    return [
        *_wrapped(f"{request.text} -> {request.target_new}{old}", "", "heading"),
        *_wrapped(f"{model['name']}, {size} parameters, {model['dtype']} on {model['device']}. {source}", "", "dim"),
    ]


def answer_lines(comparison: Comparison) -> list[Line]:
    """Return the answers by group, and a table of the methods."""
    lines: list[Line] = []
    for group, title in GROUPS.items():
        exchanges = [exchange for exchange in comparison.exchanges if exchange.question.group == group]
        if exchanges:
            lines += [Line(""), Line(title, "heading"), *exchange_lines(exchanges)]
    return [
        *lines,
        Line(""),
        *_table(comparison),
        *_failures(comparison.methods),
        Line(""),
        *_wrapped(LEGEND, "", "dim"),
    ]


def exchange_lines(exchanges: Sequence[Exchange]) -> list[Line]:
    """Return questions with the answers before and after."""
    lines = []
    for exchange in exchanges:
        lines += _wrapped(f"{exchange.question.prompt} ___", "  ", "strong")
        names = ["before", *exchange.after]
        indent = 4 + min(_NAME_WIDTH, max(map(len, names))) + 2
        lines += _answer("before", exchange.before, None, exchange.question, indent)
        for name, answer in exchange.after.items():
            lines += _answer(name, answer, exchange.fulfilled(name), exchange.question, indent)
    return lines


def to_text(lines: Sequence[Line]) -> str:
    """Return lines as plain text."""
    return "\n".join(line.text for line in lines)


def format_probability(value: float) -> str:
    """Format a probability as percent.

    >>> [format_probability(p) for p in (1.0, 0.9993, 0.314, 0.0123, 0.00012, 0.0)]
    ['100%', '99.9%', '31%', '1.2%', '0.01%', '<0.01%']
    """
    percent = 100 * value
    if percent < 0.01:
        return "<0.01%"
    if percent < 0.095:
        return f"{percent:.2f}%"
    return f"{percent:.1f}%" if percent < 10 or 99 <= percent < 99.95 else f"{percent:.0f}%"


def format_token(token: Token) -> str:
    """Format a token. A token without letters is quoted.

    >>> [format_token(Token(text, 0.5)) for text in (" Rome", "\\n", " ", ",")]
    ['Rome', "'\\\\n'", "' '", "','"]
    """
    text = token.text.strip()
    return printable(text) if any(c.isalnum() for c in text) else repr(text or token.text)


def token_names(tokens: Sequence[Token]) -> list[str]:
    """Return the tokens of one answer as text; see :func:`format_token`.

    Of two tokens that would look the same, the one without a space before it is quoted.

    >>> token_names([Token(" Rome", 0.9), Token(" the", 0.05), Token("Rome", 0.01)])
    ['Rome', 'the', "'Rome'"]
    """
    names = [format_token(token) for token in tokens]
    return [
        repr(name) if names.count(name) > 1 and not token.text.startswith(" ") else name
        for name, token in zip(names, tokens, strict=True)
    ]


def quoted(continuation: str) -> str:
    """Return a continuation in quotation marks, and a note if it has no text.

    >>> quoted(" Rome.\\nIt is"), quoted("\\n")
    ('“Rome. It is”', '(no text)')
    """
    text = printable(continuation)
    return f"“{text}”" if text else "(no text)"


def format_duration(seconds: float) -> str:
    """Format a duration of seconds or minutes.

    >>> format_duration(0.04), format_duration(12.3), format_duration(200)
    ('0.0 s', '12.3 s', '3.3 min')
    """
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def format_count(number: int) -> str:
    """Format a number of parameters.

    >>> format_count(950), format_count(884_736), format_count(134_515_008), format_count(2_600_000_000)
    ('950', '885k', '135M', '2.6B')
    """
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            value = number / limit
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(number)


def _answer(name: str, answer: Answer, fulfilled: bool | None, question: Question, indent: int) -> Iterator[Line]:
    """Yield the top tokens of an answer, and its continuation with the verdict."""
    head = f"    {name}".ljust(indent)
    if len(head) > indent:
        yield Line(head.rstrip())
        head = " " * indent
    named = zip(token_names(answer.top), answer.top, strict=True)
    tokens = ", ".join(f"{name} {format_probability(token.probability)}" for name, token in named)
    yield from (
        Line(text) for text in textwrap.wrap(tokens, WIDTH, initial_indent=head, subsequent_indent=" " * indent)
    )
    notes = _notes(answer, fulfilled, question)
    room = WIDTH - indent - len(notes) - 2
    said = textwrap.shorten(quoted(answer.continuation), max(room, 12), placeholder=" …”")
    yield Line(f"{' ' * indent}{said.ljust(room)}  {notes}".rstrip(), "dim")


def _notes(answer: Answer, fulfilled: bool | None, question: Question) -> str:
    """Return the probability of the wanted answer, the verdict, and KL."""
    words = {True: "same", False: "changed"} if question.group == "neighbour" else {True: "yes", False: "no"}
    parts = [
        f"{printable(question.wanted)} {format_probability(answer.wanted)}" if question.wanted else "",
        "" if fulfilled is None else words[fulfilled],
        "" if answer.kl is None else f"KL {answer.kl:.2f}",
    ]
    return "  ".join(filter(None, parts))


def _table(comparison: Comparison) -> Iterator[Line]:
    """Yield a table with a row per method."""
    header = ["", "edited", "other", "what", "neighbours", "KL of", "parameters", ""]
    second = ["editor", "prompt", "words", "follows", "kept", "neighb.", "changed", "time"]
    rows = [
        [
            method.name,
            *(_share(*comparison.counts(method.name, group)) for group in ("edit", "paraphrase", "consequence")),
            _share(*comparison.counts(method.name, "neighbour")),
            _number(comparison.mean_kl(method.name, "neighbour")),
            "-" if method.edit is None else format_count(method.changed),
            "-" if method.seconds is None else format_duration(method.seconds),
        ]
        for method in comparison.methods
    ]
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] != "-" for row in rows)]
    widths = [max(len(row[i]) for row in (header, second, *rows)) for i in kept]

    def text(cells: Sequence[str]) -> str:
        first, *others = (cells[i] for i in kept)
        return "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))])

    yield Line(text(header).rstrip(), "strong")
    yield Line(text(second), "strong")
    for row in rows:
        yield Line(text(row))


def _share(count: int, total: int) -> str:
    return f"{count} of {total}" if total else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _failures(methods: Sequence[Attempted]) -> Iterator[Line]:
    for method in methods:
        if method.failure is not None:
            step = "the edit" if method.failure.phase == "edit" else "the edited model"
            yield Line("")
            yield from _wrapped(f"{method.name}: {step} failed: {method.failure.type}: {method.failure.message}")


def _wrapped(text: str, indent: str = "", style: Style = "plain") -> list[Line]:
    lines = textwrap.wrap(printable(text), WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [Line(line, style) for line in lines]
