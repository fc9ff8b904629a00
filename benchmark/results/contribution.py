"""Comparison of a store with another commit: a submission may only add files, in the folder of one method."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import KnbenchError
from ..core.printable import printable
from .layout import CARD, REPORTED, RESULT_DEPTH, STATUS

_VERBS = {
    "M": "changes",
    "D": "deletes",
    "T": "changes the type of",
    "R": "renames",
    "C": "copies",
    "U": "conflicts in",
}
"""What a status of ``git diff --name-status`` says of a file."""
_MANUAL = {
    "M": "stored results are never replaced",
    "D": "stored results are never deleted",
    "R": "stored results are never moved",
}


@dataclass(frozen=True)
class Contribution:
    """What a branch changes.

    Attributes:
        added: paths of the files that it adds to the store.
        problems: one line per change that a submission must not make.
        notes: one line per change that the author of a method must agree to.
    """

    added: frozenset[Path]
    problems: list[str]
    notes: list[str]


def contribution(folder: Path, base: str) -> Contribution:
    """Compare a store with the merge base of the current commit and another one.

    Files that are not committed count as well. Newer commits of the base are no changes of the branch.

    Args:
        folder: the store, in a git repository.
        base: a commit, branch or tag, such as ``origin/main``.

    Raises:
        KnbenchError: the folder is a link or not in a git repository, the base is unknown, or the two have no commit in
            common.
    """
    if folder.is_symlink():
        raise KnbenchError(
            f"'{folder}' is a symbolic link, which may lead to another repository; use the folder itself"
        )
    if not folder.is_dir():
        raise KnbenchError(f"'{folder}' is not a directory")
    top = Path(_git(folder.parent, "rev-parse", "--show-toplevel").strip("\n"))
    store = os.path.relpath(folder.parent.resolve() / folder.name, top.resolve())
    merge_base = _merge_base(top, base)
    problems: list[str] = []
    outside: list[str] = []
    methods, added = set(), set()
    for status, names in _changes(top, merge_base, store):
        name = names[-1]
        parts = Path(os.path.relpath(name, store)).parts if name != store else ()
        if status == "A" and _is_place(parts):
            added.add(folder / Path(*parts))
            methods.add(parts[0])
            continue
        if parts[:1] == ("..",):
            outside.append(name)
        else:
            problems.append(_problem(status, names, parts))
    if outside:
        more = f" and {len(outside) - 1} other files" if len(outside) > 1 else ""
        problems.append(f"the submission changes {outside[0]}{more} outside {store}; propose that separately")
    if len(methods) > 1:
        listed = ", ".join(sorted(methods))
        problems.append(f"{folder}: adds files to {len(methods)} methods ({listed}); submit one method at a time")
    notes = [
        f"{folder / method}: the base has this method already; its author must agree to the new files"
        for method in sorted(methods)
        if _git(top, "ls-tree", "--name-only", merge_base, "--", f"{store}/{method}/", known=False)
    ]
    return Contribution(frozenset(added), [printable(problem) for problem in problems], notes)


def _is_place(parts: tuple[str, ...]) -> bool:
    """Whether a path in a store is in the folder of a method."""
    in_method = len(parts) == 2 and parts[1] in (CARD, REPORTED)
    return in_method or (len(parts) == RESULT_DEPTH and parts[-1].endswith((".json", ".gz")))


def _problem(status: str, names: list[str], parts: tuple[str, ...]) -> str:
    name = names[-1]
    if parts == (STATUS,):
        return f"{name}: written by maintainers; restore the version of the main branch"
    if status == "A":
        return f"{name}: a submission adds results with records, {CARD} and {REPORTED} of one method; delete it"
    what = " to ".join(names) if status in "RC" else name
    return f"the submission {_VERBS.get(status, 'changes')} {what}; {_MANUAL.get(status, _MANUAL['M'])}, restore it"


def _merge_base(top: Path, base: str) -> str:
    commit = _git(
        top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}", known=False
    ).strip()
    if not commit:
        raise KnbenchError(f"--against {base}: no such commit; fetch it first, for example with: git fetch origin main")
    found = _git(top, "merge-base", commit, "HEAD", known=False).split()
    if not found:
        raise KnbenchError(f"--against {base}: no commit in common; fetch the history with: git fetch --unshallow")
    return found[0]


def _changes(top: Path, merge_base: str, store: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the status and the names of each changed file: all committed ones, and those in the store that are not."""
    options = ("--name-status", "-z", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")
    inside = dict(_parsed(_git(top, "diff", *options, "-M", merge_base, "--", f":(top,literal){store}")))
    committed = dict(_parsed(_git(top, "diff", *options, "--no-renames", merge_base, "HEAD")))
    untracked = _git(top, "ls-files", "-z", "--others", "--exclude-standard", "--", f":(top,literal){store}")
    yield from ((status, list(names)) for names, status in inside.items())
    for names, status in committed.items():
        if not any(name == store or name.startswith(f"{store}/") for name in names):
            yield status, list(names)
    yield from (("A", [name]) for name in untracked.split("\0") if name)


def _parsed(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the names and the status letter of each entry of ``git diff --name-status -z``."""
    fields = iter(text.split("\0"))
    for status in fields:
        if status:
            names = (next(fields), next(fields)) if status[0] in "RC" else (next(fields),)
            yield names, status[0]


def _git(folder: Path, *arguments: str, known: bool = True) -> str:
    """Run git and return its output.

    Args:
        folder: where it runs.
        arguments: of git.
        known: whether a failure is an error; otherwise the output is empty.

    Raises:
        KnbenchError: git is missing or fails.
    """
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise KnbenchError(f"--against needs git: {error.strerror}") from None
    if done.returncode:
        if known:
            reason = done.stderr.decode(errors="replace").strip().partition("\n")[0].removeprefix("fatal: ")
            raise KnbenchError(f"--against: git cannot read {folder}: {reason}")
        return ""
    return os.fsdecode(done.stdout)
