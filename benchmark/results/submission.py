"""Checks of runs before they are copied to a results store, so that a refused submission leaves the store unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.documents import Result
from ..core.errors import KnbenchError
from .documents import comparable
from .io import RECORDS
from .layout import slug
from .method_names import describe_differences, differing_settings
from .publication import public_run
from .runs import Run, check_manifests, find_runs, unfinished_runs
from .store import refusal

OF_RESULT = ("task", "version", "content", "cases", "checkpoints")
"""Conditions that may differ between the results that one row of a board consists of."""


def runs_to_submit(folders: Sequence[Path], store: Path) -> list[Run]:
    """Return the runs below some folders after checking that all of them can be stored.

    Args:
        folders: folders that are searched.
        store: the results store.

    Raises:
        KnbenchError: a run is unfinished, limited, on tuning cases or without a manifest; its records changed since it
            was scored; or an editor has another configuration than in its other results.
    """
    found = find_runs(folders)
    check_manifests(folders)
    unfinished = unfinished_runs(folders)
    if unfinished:
        more = f" (and {len(unfinished) - 1} more)" if len(unfinished) > 1 else ""
        raise KnbenchError(
            f"{unfinished[0]} is not finished{more}; start the run again to finish it, or submit only the finished "
            "folders"
        )
    for run in found:
        reason = refusal(run.result)
        if reason is not None:
            raise KnbenchError(f"{run.folder}: {reason}")
        run.final_records()  # verifies the hashes
    editors = sorted({run.result.editor.name for run in found})
    # A method may have a card and no result yet.
    stored = [store / slug(editor) for editor in editors if any((store / slug(editor)).rglob(f"*.{RECORDS}.gz"))]
    earlier = [run for folder in stored for run in find_runs([folder], on_broken=lambda _: None)]
    for problem in mixed_settings([*earlier, *map(public_run, found)]):
        raise KnbenchError(problem)
    return found


def mixed_settings(runs: Sequence[Run]) -> Iterator[str]:
    """Yield one line per editor whose results on several tasks have different configurations.

    A method that is tuned for each task cannot be ranked as one method. Results under other conditions, for example of
    another model or seed, may have other configurations.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_row_key(run.result), []).append(run)
    for members in groups.values():
        first = members[0]
        other = next((run for run in members if run.result.editor.config != first.result.editor.config), None)
        if other is not None:
            different = describe_differences(differing_settings([first.result, other.result]))
            yield (
                f"{other.result_path}: has other settings of '{first.result.editor.name}' than {first.result_path} "
                f"({different}); run all tasks with the same settings"
            )


def _row_key(result: Result) -> str:
    """Return a key that results share if they belong to one row of a board."""
    conditions = {key: value for key, value in comparable(result).items() if key not in OF_RESULT}
    return json.dumps([result.editor.name, conditions], sort_keys=True)
