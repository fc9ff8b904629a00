"""Finished runs on disk, with their results and, on demand, their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.documents import Result
from ..core.errors import KnbenchError
from ..core.records import Record
from ..scoring.checkpoints import at_checkpoint
from ..scoring.summary import with_measures
from .documents import OnBroken, load_result, reraise
from .io import (
    ANALYSIS,
    CHECKPOINT,
    CHECKPOINTS,
    MANIFEST,
    RECORD,
    RECORDS,
    RESULT,
    LineKind,
    LineT,
    read_lines,
    sha256_of,
)
from .layout import find_stores, misplaced

MAX_RESULT_BYTES = 1 << 22
"""Maximum size of a stored result, without its records."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: folder of its files.
        result: its validated result.
        stem: NAME of a stored result ``NAME.json`` with ``NAME.records.jsonl.gz`` beside it. Empty for a run folder
            with ``result.json`` and ``records.jsonl``.
    """

    folder: Path
    result: Result
    stem: str = ""

    def path(self, name: str) -> Path:
        """Return the path of one of the run's files of JSON lines."""
        return self.folder / (f"{self.stem}.{name}.gz" if self.stem else name)

    @property
    def result_path(self) -> Path:
        """Path of the result."""
        return self.folder / (f"{self.stem}.json" if self.stem else RESULT)

    def records(self) -> list[Record]:
        """Read the records and check their hash.

        Raises:
            KnbenchError: the file is missing, broken, or differs from the one that was scored.
        """
        return self._lines(RECORDS, RECORD, self.result.records.sha256)

    def final_records(self) -> list[Record]:
        """Read the records; for a sequential run, with the observations after the last edit.

        Raises:
            KnbenchError: a file is missing, broken, or differs from the one that was scored.
        """
        records = self.records()
        if self.result.checkpoints is None or not self.result.curve:
            return records
        last = self.result.curve[-1].edits
        lines = self._lines(CHECKPOINTS, CHECKPOINT, self.result.checkpoints.sha256)
        final = {line.case_id: line for line in lines if line.edits == last}
        return [at_checkpoint(record, final[record.case_id]) for record in records]

    def with_measures(self, measures: Sequence[str]) -> Result:
        """Return the result, with measures in its summary that results do not store, computed from the records.

        Raises:
            KnbenchError: a file is missing, broken, or differs from the one that was scored.
        """
        return with_measures(self.result, self.final_records(), measures) if measures else self.result

    def _lines(self, name: str, kind: LineKind[LineT], sha256: str) -> list[LineT]:
        path = self.path(name)
        if sha256_of(path) != sha256:
            raise KnbenchError(f"{path}: changed since it was scored; run: knbench score {self.folder} --write")
        return read_lines(path, kind)


def unfinished_runs(roots: Sequence[Path]) -> list[Path]:
    """Return the run folders below the given folders that have no result, in a stable order."""
    folders = sorted({path.parent for root in roots for path in root.rglob(MANIFEST)})
    return [folder for folder in folders if not (folder / RESULT).exists() and not (folder / ANALYSIS).exists()]


def folders_without_manifest(roots: Sequence[Path]) -> list[Path]:
    """Return the folders below the given folders that hold records or a result and no manifest, in a stable order."""
    folders = {path.parent for root in roots for name in (RESULT, RECORDS) for path in root.rglob(name)}
    return sorted(folder for folder in folders if not (folder / MANIFEST).exists())


def check_manifests(roots: Sequence[Path]) -> None:
    """Check that every run folder below the given folders has its manifest.

    Raises:
        KnbenchError: a folder holds records or a result without a manifest; names the folder.
    """
    for folder in folders_without_manifest(roots):
        files = " and ".join(name for name in (RESULT, RECORDS) if (folder / name).exists())
        raise KnbenchError(
            f"{folder}: holds {files} and no {MANIFEST}; restore it from a copy, or delete the folder and run it again"
        )


def stored_run(path: Path) -> Run:
    """Read a result of a store.

    Raises:
        KnbenchError: the file is too large, broken or invalid.
    """
    if path.stat().st_size > MAX_RESULT_BYTES:
        raise KnbenchError(f"{path}: {path.stat().st_size >> 10} kB; at most {MAX_RESULT_BYTES >> 10} kB are read")
    return Run(path.parent, load_result(path), path.stem)


def check_place(run: Run) -> None:
    """Check that a stored result is at the place that its content demands.

    Raises:
        KnbenchError: it belongs at another place; names it.
    """
    place = misplaced(run.result_path, run.result)
    if place is not None:
        raise KnbenchError(f"{run.result_path}: {place}")


def find_runs(roots: Sequence[Path], on_broken: OnBroken = reraise) -> list[Run]:
    """Return every finished run below the given folders, in a stable order.

    In a results store, only files at their place in its layout count; see :mod:`.layout`.

    Args:
        roots: folders that are searched.
        on_broken: called with the error of each result that cannot be read or is at the place of another one.

    Raises:
        KnbenchError: a folder does not exist or holds no result.
    """
    runs = []
    for root in roots:
        if not root.is_dir():
            raise KnbenchError(f"results folder '{root}' does not exist; make one with: knbench run --output {root}")
        stores = find_stores(root)
        folders = [] if any(store.root == root for store in stores) else sorted(root.rglob(RESULT))
        stored = [path for store in stores for path in store.results]
        if not folders and not stored and not any(root.rglob(ANALYSIS)):
            raise KnbenchError(f"no {RESULT} below '{root}'; make one with: knbench run --output {root}")
        for path, stem in [*((path, "") for path in folders), *((path, path.stem) for path in stored)]:
            try:
                run = stored_run(path) if stem else Run(path.parent, load_result(path))
                if stem:
                    check_place(run)
                runs.append(run)
            except KnbenchError as error:
                on_broken(error)
    if not runs:
        names = ", ".join(map(str, roots))
        raise KnbenchError(f"no readable {RESULT} below '{names}'; make one with: knbench run --output ...")
    return runs
