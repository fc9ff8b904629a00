"""Readers: published data sets as tasks, from the hub, a file or a folder.

>>> sorted(READERS)
['blimp', 'counterfact', 'knowedit', 'pararel', 'zsre']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...benchmark.core.errors import KnbenchError, unknown_name
from ...benchmark.core.schema import Task
from . import blimp, counterfact, knowedit, pararel, zsre
from .blimp import read_pairs
from .common import ReadReport

__all__ = ["READERS", "ReadReport", "Reader", "read_pairs", "read_task"]


@dataclass(frozen=True)
class Reader:
    """One data set's reader.

    Attributes:
        read: from selection and source to the task and the account of the reading.
        default: the hub id that is read when no source is given; None when the hub has none in the right form.
        selections: the selections that are known before the source is read.
    """

    read: Callable[[str | None, str], tuple[Task, ReadReport]]
    default: str | None
    selections: tuple[str, ...] = ()


READERS: Mapping[str, Reader] = {
    "pararel": Reader(pararel.read, None),
    "blimp": Reader(blimp.read, blimp.DEFAULT, blimp.UIDS),
    "counterfact": Reader(counterfact.read, counterfact.DEFAULT),
    "zsre": Reader(zsre.read, zsre.DEFAULT),
    "knowedit": Reader(knowedit.read, knowedit.DEFAULT, tuple(sorted(knowedit.SELECTIONS))),
}


def read_task(reader: str, selection: str | None = None, source: str | None = None) -> tuple[Task, ReadReport]:
    """Read a published data set as a task.

    Args:
        reader: a name in ``READERS``.
        selection: the part to read: a relation, a paradigm.
        source: a file, a folder, a hub id (``owner/name``) or a file there (``owner/name:path/in/it.json``); the
            reader's default when None.

    Returns:
        The task, and what was left out of it and why.

    Raises:
        KnbenchError: no such reader, selection or source, or nothing could be read.
    """
    if reader not in READERS:
        raise unknown_name("reader", reader, READERS)
    chosen = READERS[reader]
    source = source or chosen.default
    if source is None:
        raise KnbenchError(f"{reader} has no default source; give a file, a folder or owner/name:file on the hub")
    return chosen.read(selection, source)
