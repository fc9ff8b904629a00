"""Definitions of boards: which model, tasks, protocol, cases and probes a row of a leaderboard must have.

A definition is a YAML file ``NAME-vVERSION.yaml``. Its first part is written by hand. Its part ``measured`` is written
by ``python -m tools.define_board``: the identity of models and tasks, and the cases and probes that a run selects. A
definition is never changed after results refer to it; a change gets a new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..core import registry
from ..core.errors import KnbenchError, unknown_name
from ..core.printable import forbidden_character
from ..core.schema import TaskKind
from ..core.settings import Regime, RunSettings
from ..core.split import Split, Subset
from .json_schema import check

MAX_BYTES = 1 << 20
"""Maximum size of a definition."""
ANY = "any"
"""In place of a list of models: results of every model, each in a table of its own."""


@dataclass(frozen=True)
class BoardModel:
    """A model of a board, identified by its hashes.

    Attributes:
        name: name in the catalogue.
        revision: version of the weights.
        weights: sha256 of the weights; ``tokenizer`` and ``config`` are those of the tokenizer and the configuration.
        bos_prepended: whether prompts begin with the BOS token.
    """

    name: str
    revision: str | None
    weights: str
    tokenizer: str
    config: str
    bos_prepended: bool


@dataclass(frozen=True)
class BoardTask:
    """A task of a board.

    Attributes:
        content: hash of all cases and minimal pairs.
    """

    name: str
    version: int
    kind: TaskKind
    content: str


@dataclass(frozen=True)
class Questions:
    """The cases and probes of one model, table and task.

    Attributes:
        cases: number of cases.
        digest: value of :func:`.board_places.questions_digest` that records must have.
        ids: ids of the cases in their order; empty if they follow from the task alone.
        margin: smallest difference of log-probabilities, in nats, that decided whether a case is known or a probe is
            kept. Machines that round by more select other cases. None if nothing was decided.
        unmeasured: of a result, ids of the cases without observations, which do not count in any score.
    """

    cases: int
    digest: str
    ids: Sequence[str] = ()
    margin: float | None = None
    unmeasured: Sequence[str] = ()


@dataclass(frozen=True)
class BoardTable:
    """The results of one regime that share a table.

    Attributes:
        name: ``single``, ``batch-20`` or ``sequential-100``.
        edits: number of edits of a batch or sequence; None for single edits.
        limit: number of cases of the lite subset that are run; None for all.
        tasks: names of the tasks that a row must have.
    """

    regime: Regime
    edits: int | None
    subset: Subset
    limit: int | None
    tasks: Sequence[str]

    @property
    def name(self) -> str:
        """The regime with its number of edits."""
        return f"{self.regime}-{self.edits}" if self.edits else self.regime

    @property
    def words(self) -> str:
        """The regime in words.

        >>> BoardTable("batch", 20, "lite", None, ("capital",)).words
        'batches of 20 edits'
        """
        return {
            "single": "single edits",
            "batch": f"batches of {self.edits} edits",
            "sequential": f"{self.edits} sequential edits",
        }[self.regime]


@dataclass(frozen=True, eq=False)
class Board:
    """A versioned definition of a leaderboard.

    Attributes:
        purpose: what the board is for, in one or two sentences.
        any_model: whether results of every model belong to the board, each in a table of its own.
        model_names: names of the models in the catalogue; empty with ``any_model``.
        seed: seed of the runs. ``split``, ``known_only``, ``known_by``, ``bos``, ``dtype`` and ``new_tokens`` are the
            other settings of the protocol.
        benchmark: release series of the benchmark; empty before the board was measured.
        models: identities by name.
        tasks: identities by name.
        questions: cases and probes by table, model and task. The model is :data:`ANY` if they follow from the task.
    """

    name: str
    version: int
    title: str
    purpose: str
    any_model: bool
    model_names: Sequence[str]
    tables: Sequence[BoardTable]
    seed: int
    split: Split
    known_only: bool
    known_by: str
    bos: str
    dtype: str
    new_tokens: int
    benchmark: str
    models: Mapping[str, BoardModel]
    tasks: Mapping[str, BoardTask]
    questions: Mapping[tuple[str, str, str], Questions]

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.name} v{self.version}"

    @property
    def key(self) -> str:
        """Name and version in file names and on the command line."""
        return f"{self.name}-v{self.version}"

    def settings(self, table: BoardTable) -> RunSettings:
        """Return the settings of the runs of a table."""
        return RunSettings(
            split=self.split,
            subset=table.subset,
            limit=table.limit,
            seed=self.seed,
            known_only=self.known_only,
            known_by=self.known_by,
            new_tokens=self.new_tokens,
            batch_edits=table.edits if table.regime == "batch" else None,
            sequential=table.edits if table.regime == "sequential" else None,
        )

    def questions_of(self, table: BoardTable, model: str, task: str) -> Questions:
        """Return the cases and probes that a row must have.

        Raises:
            KnbenchError: they were not measured.
        """
        found = self.questions.get((table.name, ANY if self.any_model else model, task))
        if found is None:
            raise KnbenchError(
                f"board {self.label}: the cases of '{task}' in table '{table.name}' were not measured; run "
                "python -m tools.define_board on its definition"
            )
        return found


class _PlainLoader(yaml.SafeLoader):
    """Loads YAML without aliases, of which a few can stand for gigabytes, and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if repeated is not None:
            raise yaml.YAMLError(f"the key '{repeated}' occurs twice")
        return dict(super().construct_mapping(node, deep))


def load_board(path: Path) -> Board:
    """Read a definition.

    Raises:
        KnbenchError: the file cannot be read, is too large, or is not a valid definition; names the key.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise KnbenchError(f"{path}: {path.stat().st_size >> 10} kB; a definition has at most {MAX_BYTES >> 10} kB")
        text = path.read_text(encoding="utf-8")
        flaw = forbidden_character(text)
        if flaw is not None:
            raise KnbenchError(f"{path}: has the control or bidirectional character {flaw}; remove it")
        document = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise KnbenchError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    except (OSError, ValueError) as error:
        raise KnbenchError(f"{path}: cannot be read: {error}") from None
    check(document, "board", str(path))
    board = _board(document)
    if path.stem != board.key:
        raise KnbenchError(f"{path}: defines {board.label}; rename the file to {board.key}{path.suffix}")
    flaw = _flaw(board)
    if flaw is not None:
        raise KnbenchError(f"{path}: {flaw}")
    return board


def _board(document: Mapping[str, Any]) -> Board:
    """Return a definition from its JSON values, which are valid by the schema."""
    measured, protocol = document.get("measured", {}), document["protocol"]
    any_model = document["models"] == ANY
    tables = tuple(
        BoardTable(t["regime"], t.get("edits"), t["subset"], t.get("limit"), tuple(t["tasks"]))
        for t in document["tables"]
    )
    return Board(
        name=document["name"],
        version=document["version"],
        title=document["title"],
        purpose=" ".join(document["purpose"].split()),
        any_model=any_model,
        model_names=() if any_model else tuple(document["models"]),
        tables=tables,
        **protocol,
        benchmark=measured.get("benchmark", ""),
        models={entry["name"]: BoardModel(**entry) for entry in measured.get("models", ())},
        tasks={entry["name"]: BoardTask(**entry) for entry in measured.get("tasks", ())},
        questions={
            (entry["table"], entry["model"], entry["task"]): Questions(
                entry["cases"], entry["digest"], tuple(entry.get("ids", ())), entry.get("margin")
            )
            for entry in measured.get("questions", ())
        },
    )


def _flaw(board: Board) -> str | None:
    """Return what the schema cannot state and a definition violates, or None."""
    names = [table.name for table in board.tables]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        return f"two tables have the regime '{twice}'; a result would belong to both"
    for table in board.tables:
        if (table.edits is None) != (table.regime == "single"):
            return f"table '{table.name}': edits is required exactly for batches and sequences"
        if table.limit is not None and table.subset != "lite":
            return f"table '{table.name}': limit needs subset lite, whose order is fixed"
    if board.any_model and board.known_only:
        return "models: any needs known_only: false, because the known cases differ between models"
    if not board.benchmark:
        return None
    missing = [name for name in board.model_names if name not in board.models]
    missing += [task for table in board.tables for task in table.tasks if task not in board.tasks]
    if missing:
        return f"measured: '{missing[0]}' is missing; run python -m tools.define_board on the file"
    for table in board.tables:
        for model in board.model_names or (ANY,):
            for task in table.tasks:
                board.questions_of(table, model, task)
    return None


def read_boards(folders: Iterable[Path]) -> dict[str, Board]:
    """Return the definitions in some folders by their keys. A broken definition is left out, with a warning."""
    found: dict[str, Board] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            try:
                board = load_board(path)
            except KnbenchError as error:
                registry.warn(f"{error}; the board is left out")
                continue
            if found.setdefault(board.key, board) is not board:
                registry.warn(f"{path}: board {board.label} is defined twice; the first definition is used")
    return found


@cache
def boards() -> Mapping[str, Board]:
    """Return the measured definitions of the installed packages by their keys, those of this package first.

    Packages provide folders under the entry point group ``knbench.boards``.
    """
    return {key: board for key, board in read_boards(registry.board_folders()).items() if board.benchmark}


def find_board(name: str, known: Mapping[str, Board] | None = None) -> Board:
    """Return a board by its name, in its newest version, or by its name and version.

    Args:
        name: ``knbench-lite``, ``knbench-lite-v2`` or ``knbench-lite v2``.
        known: the boards; None for the installed ones.

    Raises:
        KnbenchError: there is none.
    """
    known = boards() if known is None else known
    key = name.strip().replace(" v", "-v")
    versions = [board for board in known.values() if board.name == key]
    if versions:
        return max(versions, key=lambda board: board.version)
    if key not in known:
        raise unknown_name("board", name, {*known, *(board.name for board in known.values())})
    return known[key]
