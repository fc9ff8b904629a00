"""Errors that a user can fix. Each message is one line: the problem, its location, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KnbenchError(Exception):
    """An error that the user can fix. The command line prints it without a traceback and exits with status 2."""


class InterruptedRun(KnbenchError):
    """The user interrupted a run. The message explains how to continue it."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to ``name``, ignoring case, or None if none is similar."""
    by_folded = {k.casefold(): k for k in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.55)
    return by_folded[matches[0]] if matches else None


DESCRIBED = "task, editor, guard, model or board"
"""What ``knbench describe`` describes."""
_LISTED_BY = {
    DESCRIBED: "knbench list tasks, and the same with editors, guards, models and boards",
    "command": "knbench --help",
    **{kind: f"knbench list {kind}s" for kind in ("board", "editor", "guard", "model", "task")},
}
"""The command that lists the known names, by the kind of a name."""
_MANY = 12
"""Number of names above which a message names the command instead."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> KnbenchError:
    """Return an error for a name that is not registered. The message suggests the most similar known name.

    It ends with the known names, or with the command that lists them if there are many.

    >>> str(unknown_name("editor", "rmoe", ["rome", "ft"]))
    "unknown editor 'rmoe'; did you mean 'rome'? Known: ft, rome"
    >>> str(unknown_name("task", "captal", ["capital", *map(str, range(20))]))
    "unknown task 'captal'; did you mean 'capital'? See: knbench list tasks"
    """
    known = sorted(known)
    guess = nearest(name, known)
    suggestion = f"; did you mean '{guess}'?" if guess else "."
    if len(known) > _MANY and kind in _LISTED_BY:
        return KnbenchError(f"unknown {kind} '{name}'{suggestion} See: {_LISTED_BY[kind]}")
    return KnbenchError(f"unknown {kind} '{name}'{suggestion} Known: {', '.join(known) or 'none'}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty.

    >>> first_line(ValueError("no space left\\nat line 3"))
    'no space left'
    >>> first_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
