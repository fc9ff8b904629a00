"""Records, manifests and results for tests, with defaults for whatever a test does not state."""

from __future__ import annotations

from typing import Any

from knbench.benchmark.core.documents import EditorCard, Manifest, ModelCard, Result, RunProtocol, TaskCard
from knbench.benchmark.core.records import (
    Answer,
    EditRecord,
    Failure,
    Observation,
    Phase,
    ProbeRecord,
    Record,
    RequestRecord,
    Timings,
)
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.results.board_places import asked
from knbench.benchmark.results.boards import Board, BoardModel, BoardTable, BoardTask
from knbench.benchmark.scoring.summary import result_from


def answer(logprob: float) -> Answer:
    """An answer of one token, which is the argmax."""
    return Answer(logprob=logprob, token_logprobs=(logprob,), ranks=(0,), argmax=(1,))


def observation(target: float = -1.0, rival: float = -2.0, **more: Any) -> Observation:
    """An observation of a completion, from two log-probabilities."""
    defaults = {"top": "x", "top_id": 1, "top_logprob": -0.5, "generated": "x"}
    return Observation(target_answer=answer(target), rival_answer=answer(rival), **{**defaults, **more})


def probe(criterion: str, after: Observation | None, **more: Any) -> ProbeRecord:
    """A probe on which the unedited model prefers the rival."""
    defaults: dict[str, Any] = {
        "kind": "completion",
        "prompt": "p",
        "target": "x",
        "rival": "y",
        "expect": "new",
        "before": observation(-9.0, -1.0),
    }
    return ProbeRecord(criterion=criterion, after=after, **{**defaults, **more})


def failure(type_name: str = "ValueError", phase: Phase = "edit") -> Failure:
    return Failure(phase=phase, type=type_name, message="m")


def record(index: int, probes: list[ProbeRecord], failed: Failure | None = None, **more: Any) -> Record:
    """A record whose case id is its index."""
    defaults: dict[str, Any] = {
        "case_id": str(index),
        "source": "",
        "request": RequestRecord.of(EditRequest("{} is", "s", "x", "y")),
        "edit": EditRecord(parameters=("w",), parameters_touched=1, modules=(), prefix="", diagnostics={}),
        "timings": Timings(edit_seconds=1.0 + index, probe_seconds=None, peak_memory_mb=10.0),
    }
    return Record(index=index, probes=tuple(probes), failure=failed, **{**defaults, **more})


def manifest(
    editor: str = "rome", task: str = "capital", kind: Any = "fact", cases: int = 1, **protocol: Any
) -> Manifest:
    """The manifest of a run of single edits."""
    settings: dict[str, Any] = {
        "regime": "single",
        "batch_edits": None,
        "checkpoints": (),
        "split": "test",
        "subset": None,
        "cases": cases,
        "limit": None,
        "known_only": False,
        "known_by": None,
        "bos": "auto",
        "bos_prepended": False,
        "new_tokens": 6,
        "fluency_tokens": 0,
        "drift": None,
        "batch_size": 32,
    }
    return Manifest(
        schema_version=1,
        benchmark_version="0",
        model=ModelCard(
            name="m",
            revision=None,
            weight_hash="0" * 64,
            architecture="A",
            layers=1,
            width=1,
            vocabulary=100,
            objective="causal",
            parameters=1,
            dtype="float32",
        ),
        seed=0,
        environment={},
        editor=EditorCard(name=editor, summary="", paper="", config={}, config_source="", prepared={}),
        task=TaskCard(
            name=task,
            version=1,
            kind=kind,
            title="T",
            description="",
            licence="",
            citation="",
            source="",
            relation="",
            criteria=(),
            content_hash="0" * 64,
            cases_total=max(cases, 1),
        ),
        protocol=RunProtocol(**{**settings, **protocol}),
    )


def result(records: list[Record] | None = None, **about: Any) -> Result:
    """The result of some records; the arguments are those of :func:`manifest`."""
    records = records if records is not None else [record(0, [probe("reliability", observation())])]
    return result_from(manifest(**{"cases": len(records), **about}), records, "0" * 64)


def board(tasks: dict[str, list[Record]], name: str = "towns", version: int = 1, **changed: Any) -> Board:
    """A board of single edits with the model, protocol and tasks of :func:`manifest`, and the questions of records."""
    settings: dict[str, Any] = {
        "title": "Towns",
        "purpose": "For tests.",
        "any_model": False,
        "model_names": ("m",),
        "tables": (BoardTable("single", None, "full", None, tuple(tasks)),),
        "seed": 0,
        "split": "test",
        "known_only": False,
        "known_by": "success",
        "bos": "auto",
        "dtype": "float32",
        "new_tokens": 6,
        "benchmark": "0",
        "models": {"m": BoardModel("m", None, "0" * 64, None, None, False)},  # type: ignore[arg-type]
        "tasks": {task: BoardTask(task, 1, "fact", "0" * 64) for task in tasks},
        "questions": {("single", "m", task): asked(records) for task, records in tasks.items()},
    }
    return Board(name=name, version=version, **{**settings, **changed})
