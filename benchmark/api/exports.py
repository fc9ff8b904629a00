"""Results in the formats of other tools: Parquet, lm-eval, Every Eval Ever, and data sets of the Hugging Face hub."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ..core.documents import Result, SummaryRow
from ..core.errors import KnbenchError
from ..core.files import write_json
from ..core.version import __version__
from ..models.catalogue import catalogue
from ..results.runs import Run
from ..scoring.criteria import MEASURES
from .results import Results

Format = Literal["parquet", "lm-eval", "every-eval-ever"]
FORMATS: tuple[Format, ...] = ("parquet", "lm-eval", "every-eval-ever")
EDIT_SCORE = "edit_score"
SCHEMA_OF_EVERY_EVAL_EVER = "0.3.0"


def export(results: Results, form: Format, output: Path) -> list[Path]:
    """Write results in the format of another tool, and return the files.

    Args:
        results: the results.
        form: ``parquet``: one row per probe, in one file. ``lm-eval``: ``MODEL+EDITOR/results.json`` for every model
            and editor. ``every-eval-ever``: ``MODEL+EDITOR/TASK.REGIME-HASH.json`` for every result.
        output: the file (Parquet) or the folder.

    Raises:
        KnbenchError: records are missing, or a package is not installed.
    """
    if form == "parquet":
        return [write_parquet(results, output)]
    documents: dict[Path, Mapping[str, Any]] = {}
    if form == "lm-eval":
        for name, runs in _by_model_and_editor(results).items():
            documents[output / name / "results.json"] = lm_eval_document(runs)
    else:
        for run in results:
            result = run.result
            stem = f"{result.task.name}.{result.protocol.regime}-{_identity(result)[:8]}"
            documents[output / _file_name(result) / f"{stem}.json"] = every_eval_ever_document(run)
    for path, document in documents.items():
        write_json(path, document)
    return list(documents)


def write_parquet(results: Results, path: Path) -> Path:
    """Write one row per probe as a Parquet file; see :meth:`Results.records`.

    Raises:
        KnbenchError: pyarrow is not installed, or records are missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise KnbenchError("Parquet files need pyarrow; install it with: pip install pyarrow") from None
    rows = results.records()
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"knbench": __version__})
    parquet.write_table(table, path)
    return path


def push_to_hub(
    results: Results, repository: str, *, private: bool = True, dataset: Callable[..., Any] | None = None
) -> str:
    """Push one row per probe to a data set of the Hugging Face hub.

    Args:
        results: the results.
        repository: id of the data set, ``NAME/DATASET``.
        private: whether a new data set is private.
        dataset: makes a data set from a list of rows; None is ``datasets.Dataset.from_list``.

    Returns:
        The address of the data set.

    Raises:
        KnbenchError: the id is malformed, the package ``datasets`` is missing, or the hub refuses the data.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise KnbenchError(f"--push-to-hub '{repository}': expected NAME/DATASET")
    if dataset is None:
        try:
            from datasets import Dataset
        except ModuleNotFoundError:
            raise KnbenchError("--push-to-hub needs the package datasets; install it: pip install datasets") from None
        dataset = Dataset.from_list
    try:
        dataset(results.records()).push_to_hub(repository, private=private)
    except KnbenchError:
        raise
    except Exception as error:  # the hub's client raises errors of many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise KnbenchError(f"--push-to-hub '{repository}': {reason}; log in with: hf auth login") from error
    return f"https://huggingface.co/datasets/{repository}"


def lm_eval_document(runs: list[Run]) -> dict[str, Any]:
    """Return results of one editor on one model in the layout of lm-eval's ``results.json``.

    A metric is ``CRITERION_MEASURE`` with the filter ``none``, and the edit score is ``edit_score``. Standard errors
    are "N/A", because the intervals of KNBench are not symmetric.
    """
    document: dict[str, Any] = {"results": {}, "configs": {}, "versions": {}, "n-shot": {}, "higher_is_better": {}}
    samples: dict[str, Any] = {}
    for run in runs:
        result = run.result
        task = result.task.name if len(_tasks(runs)) == len(runs) else f"{result.task.name}_{_regime(result)}"
        row: dict[str, Any] = {"alias": task}
        better: dict[str, bool] = {}
        for name, value, higher in _numbers(result):
            row[f"{name},none"], row[f"{name}_stderr,none"] = value, "N/A"
            better[name] = higher
        document["results"][task] = row
        document["configs"][task] = {
            "task": task,
            "dataset_path": "knbench",
            "num_fewshot": 0,
            "metadata": {"version": result.task.version, "regime": result.protocol.regime},
        }
        document["versions"][task], document["n-shot"][task] = result.task.version, 0
        document["higher_is_better"][task] = better
        samples[task] = {"original": result.task.cases_total, "effective": result.records.cases}
    first = runs[0].result
    return {
        **document,
        "n-samples": samples,
        "config": {
            "model": "knbench",
            "model_args": {"pretrained": first.model.name, "editor": first.editor.name, "dtype": first.model.dtype},
            "batch_size": first.protocol.batch_size,
            "device": first.environment.get("device"),
            "limit": first.protocol.limit,
            "random_seed": first.seed,
        },
        "model_name": _file_name(first),
        "model_source": "knbench",
        "knbench_version": first.benchmark_version,
    }


def every_eval_ever_document(run: Run, now: float | None = None) -> dict[str, Any]:
    """Return a result in the schema of Every Eval Ever (version 0.3.0), with its intervals.

    Args:
        run: the run.
        now: the time of the export in seconds since 1970; None takes the present.
    """
    result = run.result
    model, entry = result.model, catalogue().get(result.model.name)
    source = entry.source if entry else {}
    identity = _identity(result)
    name = f"{result.task.name} ({result.protocol.regime})"
    packages = result.environment.get("packages") or {}
    rows = [_every_eval_ever_row(result, row) for row in result.summary]
    score = result.edit_score
    if score is not None:
        found = _every_eval_ever_row(result, None)
        found["score_details"] = _details(score.value, score.low, score.high, "bootstrap", score.cases)
        rows.insert(0, found)
    return {
        "schema_version": SCHEMA_OF_EVERY_EVAL_EVER,
        "evaluation_id": f"{result.task.name}/{_file_name(result)}/{identity[:12]}",
        "retrieved_timestamp": str(int(time.time() if now is None else now)),
        "source_metadata": {
            "source_name": "KNBench",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "third_party",
        },
        "eval_library": {"name": "knbench", "version": result.benchmark_version},
        "model_info": {
            "name": f"{model.name}, edited with {result.editor.name}",
            "id": source.get("hub", model.name),
            "inference_engine": {"name": "transformers", "version": str(packages.get("transformers", "unknown"))},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "open_weights",
                "editor": result.editor.name,
                "editor_config_source": result.editor.config_source,
                "weight_hash": model.weight_hash,
                "revision": str(model.revision),
                "dtype": model.dtype,
            },
        },
        "evaluation_results": [{**row, "evaluation_name": name} for row in rows],
    }


def _every_eval_ever_row(result: Result, row: SummaryRow | None) -> dict[str, Any]:
    """Return a number of a result with its metric; without a row, the metric of the edit score."""
    name = EDIT_SCORE if row is None else f"{row.criterion}_{row.measure}"
    measure = None if row is None else MEASURES.get(row.measure)
    share = measure is None or measure.share
    found: dict[str, Any] = {
        "evaluation_result_id": f"{result.task.name}/{name}",
        "source_data": {
            "dataset_name": result.task.name,
            "source_type": "other",
            "additional_details": {
                "version": str(result.task.version),
                "content_hash": result.task.content_hash,
                "licence": result.task.licence,
            },
        },
        "metric_config": {
            "evaluation_description": "Gain times preservation" if measure is None else measure.definition,
            "metric_id": f"knbench.{name}",
            "metric_name": name,
            "metric_unit": "proportion" if share else "nats" if name.endswith("_kl") else "points",
            "lower_is_better": measure is not None and measure.higher_is_better is False,
            "score_type": "continuous",
            "min_score": 0 if share or name.endswith("_kl") else "-Infinity",
            "max_score": 1 if share else "Infinity",
        },
    }
    if row is not None:
        found["score_details"] = _details(row.value, row.low, row.high, row.interval, row.cases)
    return found


def _details(value: float, low: float | None, high: float | None, method: str, cases: int) -> dict[str, Any]:
    uncertainty: dict[str, Any] = {"num_samples": cases}
    if low is not None and high is not None:
        interval = {"lower": low, "upper": high, "confidence_level": 0.95, "method": method}
        uncertainty["confidence_interval"] = interval
    return {"score": value, "uncertainty": uncertainty}


def _numbers(result: Result) -> list[tuple[str, float, bool]]:
    """Return the numbers of a result with their names, and whether more is better."""
    found = [] if result.edit_score is None else [(EDIT_SCORE, result.edit_score.value, True)]
    for row in result.summary:
        measure = MEASURES.get(row.measure)
        higher = measure is None or measure.higher_is_better is not False
        found.append((f"{row.criterion}_{row.measure}", row.value, higher))
    return found


def _by_model_and_editor(results: Results) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in results:
        groups.setdefault(_file_name(run.result), []).append(run)
    return groups


def _tasks(runs: list[Run]) -> set[str]:
    return {run.result.task.name for run in runs}


def _regime(result: Result) -> str:
    protocol = result.protocol
    size = protocol.batch_edits or (protocol.checkpoints[-1] if protocol.checkpoints else None)
    return protocol.regime if size is None else f"{protocol.regime}{size}"


def _file_name(result: Result) -> str:
    return f"{result.model.name.replace('/', '--')}+{result.editor.name}"


def _identity(result: Result) -> str:
    """Return a hash that distinguishes results of one editor and task, for example by their regime."""
    return result.records.sha256
