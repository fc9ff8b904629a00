"""Finished runs below a folder, with their results and, on demand, their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import KnbenchError
from ..scoring.summary import measured_again
from .documents import Broken, load_result, refuse
from .io import ANALYSIS, CHECKPOINTS, RECORDS, RESULT, read_records, sha256_of


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies, its validated result, and its records on demand.

    Attributes:
        folder: the folder.
        result: the result.
        stem: of a stored result ``NAME.json`` with ``NAME.records.jsonl.gz`` beside it, the NAME; of a run folder, with
            ``result.json`` and ``records.jsonl``, nothing.
    """

    folder: Path
    result: Mapping[str, Any]
    stem: str = ""

    def path(self, name: str) -> Path:
        """Return where one of the run's files of JSON lines lies."""
        return self.folder / (f"{self.stem}.{name}.gz" if self.stem else name)

    @property
    def where(self) -> Path:
        """The path of the result itself."""
        return self.folder / (f"{self.stem}.json" if self.stem else RESULT)

    def records(self) -> list[dict[str, Any]]:
        """Read the records, checked against the result's hash.

        Raises:
            KnbenchError: the file is missing, broken, or not the one that was scored.
        """
        return self._lines(RECORDS, "record", self.result["records"]["sha256"])

    def final_records(self) -> list[dict[str, Any]]:
        """Read the records; of sequential edits, with what was observed after the last one.

        Raises:
            KnbenchError: a file is missing, broken, or not the one that was scored.
        """
        records = self.records()
        if "checkpoints" not in self.result:
            return records
        last = self.result["curve"][-1]["edits"]
        lines = self._lines(CHECKPOINTS, "checkpoint", self.result["checkpoints"]["sha256"])
        found = {row["case_id"]: row for row in lines if row["edits"] == last}
        return [measured_again(record, found[record["case_id"]]) for record in records]

    def _lines(self, name: str, kind: str, sha256: str) -> list[dict[str, Any]]:
        path = self.path(name)
        if sha256_of(path) != sha256:
            raise KnbenchError(f"{path}: changed since it was scored; run: knbench score {self.folder} --write")
        return read_records(path, kind)


def find_runs(roots: Sequence[Path], broken: Broken = refuse) -> list[Run]:
    """Return every finished run below the given folders, in a stable order.

    Args:
        roots: the folders.
        broken: told of each result that cannot be read.

    Raises:
        KnbenchError: a folder does not exist, or holds no result.
    """
    runs = []
    for root in roots:
        if not root.is_dir():
            raise KnbenchError(f"results folder '{root}' does not exist; make one with: knbench run --output {root}")
        ending = f".{RECORDS}.gz"
        places = [(path.parent, "") for path in sorted(root.rglob(RESULT))]
        places += [(path.parent, path.name.removesuffix(ending)) for path in sorted(root.rglob(f"*{ending}"))]
        if not places and not any(root.rglob(ANALYSIS)):
            raise KnbenchError(f"no {RESULT} below '{root}'; make one with: knbench run --output {root}")
        for folder, stem in places:
            try:
                runs.append(Run(folder, load_result(folder / (f"{stem}.json" if stem else RESULT)), stem))
            except KnbenchError as error:
                broken(error)
    if not runs:
        names = ", ".join(map(str, roots))
        raise KnbenchError(f"no {RESULT} that can be read below '{names}'; make one with: knbench run --output ...")
    return runs
