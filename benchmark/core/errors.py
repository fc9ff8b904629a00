"""Errors that a user can mend, each told in one line: what, where, how."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KnbenchError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with 2."""


class InterruptedRun(KnbenchError):
    """The user stopped a run; the message says how to go on."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` most likely meant, or None when none is close."""
    folded = {k.casefold(): k for k in known}
    match = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.55)
    return folded[match[0]] if match else None


def unknown_name(what: str, name: str, known: Iterable[str]) -> KnbenchError:
    """Build the error for a name that is not registered, with the nearest right one.

    >>> str(unknown_name("editor", "rmoe", ["rome", "ft"]))
    "unknown editor 'rmoe'; did you mean 'rome'? Known: ft, rome"
    """
    known = sorted(known)
    guess = nearest(name, known)
    hint = f"; did you mean '{guess}'?" if guess else "."
    return KnbenchError(f"unknown {what} '{name}'{hint} Known: {', '.join(known) or 'none'}")
