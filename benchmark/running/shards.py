"""Runs in independent parts: jobs that measure a share of the units each, and the union of their folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..core.records import to_json
from ..results.documents import load_manifest
from ..results.io import MANIFEST, read_lines
from ..results.runs import Run
from .plan import FileName, Unit
from .run_folder import RunFiles, finish, locked, open_folder

FILES: tuple[FileName, ...] = ("records", "checkpoints", "drift")


@dataclass(frozen=True)
class Shard:
    """One of several parts of a run, which are measured by independent jobs.

    Attributes:
        number: number of the part, from 1.
        count: number of parts.

    Raises:
        KnbenchError: the number is not between 1 and the count.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise KnbenchError(f"--shard {self}: use a number from 1 to {max(self.count, 1)} before the slash")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``I/N``.

        Raises:
            KnbenchError: the text has another form.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if match is None:
            raise KnbenchError(f"--shard '{text}': use I/N, for example 3/8 for the third of eight jobs")
        return cls(int(match[1]), int(match[2]))

    @property
    def folder(self) -> str:
        """Name of the folder for the part's run folders."""
        return f"shard-{self.number}-of-{self.count}"

    def of(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units of this part. Consecutive units share the answers of the unedited model.

        >>> units = [Unit("rome", "capital", first, first + 8) for first in range(0, 40, 8)]
        >>> [[unit.first for unit in Shard(number, 2).of(units)] for number in (1, 2)]
        [[0, 8], [16, 24, 32]]
        """
        first, end = (len(units) * number // self.count for number in (self.number - 1, self.number))
        return list(units[first:end])


def merge(parts: Sequence[Path], output: Path) -> list[Run]:
    """Unite the run folders of several jobs, and compute the results.

    Lines that several jobs measured are taken from the first. The output can be merged again when a missing job has
    ended.

    Args:
        parts: folders that contain run folders, ``part/editor/task``, or folders with several such parts.
        output: folder for the united run folders, ``output/editor/task``.

    Returns:
        The finished runs.

    Raises:
        KnbenchError: there is nothing to merge, two jobs ran with different settings, or cases are missing.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for part in parts:
        if not part.is_dir():
            raise KnbenchError(f"'{part}' is not a directory; give the --output of the jobs")
        for path in sorted(part.rglob(MANIFEST)):
            manifest = load_manifest(path)
            target = output / manifest.editor.name / manifest.task.name
            if path.parent.resolve() != target.resolve():
                found.setdefault((manifest.editor.name, manifest.task.name), []).append(path.parent)
    if not found:
        raise KnbenchError(f"no {MANIFEST} below {', '.join(map(str, parts))}; give the --output of the jobs")
    runs, incomplete = [], []
    for (editor, task), folders in found.items():
        target = output / editor / task
        with locked(target):
            _unite(folders, target)
            try:
                runs.append(finish(target))
            except KnbenchError as error:
                incomplete.append(str(error).removesuffix("; start the run again to continue it"))
    if incomplete:
        more = f" (and {len(incomplete) - 1} more folders)" if len(incomplete) > 1 else ""
        raise KnbenchError(f"{incomplete[0]}{more}; wait for the missing jobs or start them again, then merge again")
    return runs


def _unite(folders: Sequence[Path], target: Path) -> None:
    """Add the lines of some run folders to another one, each once."""
    united = open_folder(target, load_manifest(folders[0] / MANIFEST))
    for folder in folders:
        with locked(folder):
            part = open_folder(folder, _same_settings(folder, target))
            for name in FILES:
                _append(part, united, name)


def _same_settings(folder: Path, target: Path) -> Any:
    """Return the manifest of a folder after a check that it is of the run of the target.

    Raises:
        KnbenchError: it is not; names the difference.
    """
    manifest, other = load_manifest(folder / MANIFEST), load_manifest(target / MANIFEST)
    here, there = (_without_environment(to_json(m)) for m in (manifest, other))
    if here != there:
        keys = ", ".join(sorted(key for key in {**here, **there} if here.get(key) != there.get(key)))
        raise KnbenchError(f"{folder} and {target} are not parts of one run: they differ in {keys}")
    return manifest


def _without_environment(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "environment"}


def _append(part: RunFiles, united: RunFiles, name: FileName) -> None:
    source, destination = part.file(name), united.file(name)
    if source is None or destination is None:
        return
    for line in read_lines(source.path, source.kind):
        if source.kind.key_of(line) not in destination.keys:
            destination.append(line)
