"""The layout of a results store, which is a contract: ``validate`` refuses every other file, other commands ignore it.

======================================== ===========================================================
``status.json``                          which results were validated and re-run; written by maintainers
``METHOD/card.md``                       the description of a method
``METHOD/reported.json``                 numbers that a paper reports for the method
``METHOD/MODEL/REVISION/TASK….json``     a result
``METHOD/MODEL/REVISION/TASK….*.gz``     its records, and its checkpoint and drift lines if it has them
======================================== ===========================================================
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.documents import Result
from ..core.printable import printable
from .documents import release_series
from .io import CHECKPOINTS, DRIFT, RECORDS

CARD = "card.md"
REPORTED = "reported.json"
"""Numbers that a paper reports for a method, in the method's folder."""
STATUS = "status.json"
"""Which stored results were re-scored or re-run, in the top folder."""
MAX_METHOD_LENGTH = 40
MAX_NAME_LENGTH = 160
MAX_FILES = 100_000
"""Maximum number of files and folders of a store that are looked at."""

UNMARKED_VERSIONS = {"0": 2, "0.1": 2, "0.2": 1}
"""Release series that names do not state, with the last version of a task that names of the series do not state."""
RESULT_DEPTH = 4
"""Number of parts of a result's path in its store."""
_METHOD = re.compile(r"[a-z0-9]+([-+][a-z0-9]+)*")
_PART = re.compile(r"[a-z0-9_]([a-z0-9._+-]*[a-z0-9_])?")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_LINES = tuple(f".{name}.gz" for name in (RECORDS, CHECKPOINTS, DRIFT))
_LOOK_ALIKE = (
    ("rn", "m"),
    ("vv", "w"),
    ("cl", "d"),
    ("0", "o"),
    ("1", "l"),
    ("i", "l"),
    ("5", "s"),
    ("-", ""),
    ("+", ""),
)


def slug(text: str) -> str:
    """Return a text as a file name that is safe on every platform.

    >>> slug("../Org/My Model")
    'org-my-model'
    """
    return re.sub(r"[^a-z0-9._+]+", "-", text.casefold()).strip("-.") or "unnamed"


def method_name_flaw(name: str) -> str | None:
    """Return why a name cannot be that of a stored method, or None.

    >>> method_name_flaw("r-rome"), method_name_flaw("memit+rect"), method_name_flaw("Rome")
    (None, None, 'has other characters than lower-case letters, digits and single hyphens or plus signs')
    """
    if len(name) > MAX_METHOD_LENGTH:
        return f"has {len(name)} characters; at most {MAX_METHOD_LENGTH} are allowed"
    if not _METHOD.fullmatch(name):
        return "has other characters than lower-case letters, digits and single hyphens or plus signs"
    return "is the name of a device on Windows" if _DEVICE.fullmatch(name) else None


def skeleton(name: str) -> str:
    """Return a key that method names share if they look alike: without hyphens, and ``0`` like ``o``, ``1`` like ``l``.

    >>> skeleton("r-rome") == skeleton("rrorne"), skeleton("rome") == skeleton("r-rome")
    (True, False)
    """
    for text, simple in _LOOK_ALIKE:
        name = name.replace(text, simple)
    return name


def location_of(result: Result) -> tuple[Path, str]:
    """Return the folder of a result, relative to the store, and its name in the folder.

    A model without a revision is identified by its weight hash. The name states the version of the task, the subset,
    the regime, every setting of the protocol that :func:`_protocol_suffixes` lists, and the release series of the
    benchmark. Results with different names have different settings, and results of one method that cannot be compared
    have different names.
    """
    model, protocol = result.model, result.protocol
    revision = model.revision or f"weights-{model.weight_hash[:12]}"
    folder = Path(slug(result.editor.name)) / slug(model.name) / slug(revision)
    regime = {
        "single": "",
        "batch": f".batch-{protocol.batch_edits}",
        "sequential": f".sequential-{protocol.cases}",
    }[protocol.regime]
    subset = ".lite" if protocol.subset == "lite" else ""
    series = release_series(result.benchmark_version)
    version = f".v{result.task.version}" if result.task.version > UNMARKED_VERSIONS.get(series, 1) else ""
    settings = "".join(_protocol_suffixes(result))
    benchmark = "" if series in UNMARKED_VERSIONS else f".benchmark-{slug(series)}"
    return folder, slug(result.task.name) + version + subset + regime + settings + benchmark


def _protocol_suffixes(result: Result) -> Iterator[str]:
    """Yield one part of a name for every setting that differs from the usual one.

    Usual are the test split without a limit, seed 0, the BOS policy "auto", all cases of a full set, and the cases of
    the lite subset that the model knows by "success".
    """
    protocol = result.protocol
    if protocol.split != "test":
        yield f".split-{protocol.split}"
    if protocol.limit is not None:
        yield f".limit-{protocol.limit}"
    if protocol.known_only != (protocol.subset == "lite"):
        yield ".known" if protocol.known_only else ".all-cases"
    if protocol.known_by not in (None, "success"):
        yield f".known-by-{slug(protocol.known_by)}"
    if protocol.bos != "auto":
        yield f".bos-{slug(protocol.bos)}"
    if result.model.dtype != "float32":
        yield f".{slug(result.model.dtype)}"
    if result.seed != 0:
        yield f".seed-{result.seed}"


def misplaced(path: Path, result: Result) -> str | None:
    """Return where a stored result belongs, as a message, or None if it is there.

    Args:
        path: of the result.
        result: its content.
    """
    folder, name = location_of(result)
    if path.parent.resolve().parts[-len(folder.parts) :] == folder.parts and path.stem == name:
        return None
    return f"belongs at {folder / name}.json, by its editor, model, revision and task"


@dataclass(frozen=True)
class StoreFiles:
    """The files of a store, or of a part of one, by their role.

    Attributes:
        root: the folder.
        results: paths of results.
        lines: paths of compressed records, checkpoint lines and drift lines.
        cards: paths of cards.
        reported: paths of reported numbers.
        status: path of the status file, if there is one.
        strays: one line for each file that does not belong to a store, with the fix.
    """

    root: Path
    results: list[Path] = field(default_factory=list)
    lines: list[Path] = field(default_factory=list)
    cards: list[Path] = field(default_factory=list)
    reported: list[Path] = field(default_factory=list)
    status: list[Path] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)


def read_layout(root: Path) -> StoreFiles:
    """Sort the files below a folder by their role. No file is opened, and no symbolic link is followed.

    Args:
        root: a store, or a folder in a store such as that of a method.
    """
    found = StoreFiles(root)
    paths = sorted(_walk(root, found.strays))
    names = [path.relative_to(root).parts for path in paths]
    depth = _depth(names) or RESULT_DEPTH
    above = root.resolve().parts[len(root.resolve().parts) - (RESULT_DEPTH - depth) :]
    for path, parts in zip(paths, names, strict=True):
        _sort(path, (*above, *parts), found)
    return found


def find_stores(root: Path) -> list[StoreFiles]:
    """Return the stores, or the parts of one, below a folder; empty for a folder of runs.

    A folder that holds results at the depth of a store, or of a part of one, is not searched further, because the
    layout does not allow a store within a store.
    """
    names = [path.relative_to(root).parts for path in _walk(root, [])]
    if not any(name[-1].endswith(_LINES) for name in names):
        return []
    if _depth(names) is not None:
        return [read_layout(root)]
    folders = sorted({name[0] for name in names if len(name) > 1})
    return [store for folder in folders for store in find_stores(root / folder)]


def _walk(root: Path, strays: list[str]) -> Iterator[Path]:
    """Yield the regular files below a folder, and note what else there is."""
    folders, seen = [root], 0
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                seen += 1
                path = Path(entry.path)
                if seen > MAX_FILES:
                    strays.append(f"{root}: has more than {MAX_FILES} files; the others were not read")
                    return
                if entry.is_symlink():
                    strays.append(f"{path}: symbolic links are not followed; copy the file")
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                    yield path
                else:
                    strays.append(f"{path}: not a regular file; delete it")


def _depth(names: Sequence[tuple[str, ...]]) -> int | None:
    """Return the depth at which a folder holds results: 4 for a store, 3 for a method, 2, 1; None if it is greater."""
    depths = {len(name) for name in names if name[-1].endswith(_LINES)}
    if not depths:
        return RESULT_DEPTH - 1 if any(name in ((CARD,), (REPORTED,)) for name in names) else RESULT_DEPTH
    return next((depth for depth in range(RESULT_DEPTH, 0, -1) if depth in depths), None)


def _sort(path: Path, parts: tuple[str, ...], found: StoreFiles) -> None:
    """Add a file to those of its role, or to the strays.

    Args:
        path: of the file.
        parts: its path in the store.
        found: receives it.
    """
    name = parts[-1]
    if parts == (STATUS,):
        found.status.append(path)
        return
    flaw = method_name_flaw(parts[0])
    if len(parts) == 2 and name in (CARD, REPORTED) and flaw is None:
        (found.cards if name == CARD else found.reported).append(path)
    elif len(parts) == RESULT_DEPTH and name.endswith((".json", *_LINES)) and name not in (REPORTED, STATUS):
        bad = next((part for part in parts[1:] if part_name_flaw(part)), None)
        if flaw is not None:
            found.strays.append(f"{path}: method '{printable(parts[0])}' {flaw}; choose another name")
        elif bad is not None:
            found.strays.append(
                f"{path}: '{printable(bad)}' is not a name in a store: {part_name_flaw(bad)}; rename it"
            )
        else:
            (found.results if name.endswith(".json") else found.lines).append(path)
    else:
        found.strays.append(
            f"{path}: does not belong to a result; a store has METHOD/MODEL/REVISION/TASK.json with its records, "
            f"METHOD/{CARD}, METHOD/{REPORTED} and {STATUS}; delete it"
        )


def part_name_flaw(name: str) -> str | None:
    """Return why a name cannot be that of a folder or file below a method, or None."""
    if len(name) > MAX_NAME_LENGTH:
        return f"it has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed"
    if not _PART.fullmatch(name):
        return "it has other characters than lower-case letters, digits, '.', '_', '+' and '-'"
    return "it is the name of a device on Windows" if _DEVICE.fullmatch(name) else None
