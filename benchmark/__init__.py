"""The benchmark harness of knbench, and its public Python API.

The subpackages form layers. Each imports lower layers only::

    core < models, scoring < editing < probing, results < running < analyses, conformance < api < commands

- ``core``: types, settings, errors, registry, files.
- ``models``: model loading, module paths of architectures, activation hooks, neuron attribution.
- ``scoring``: criteria, summaries, intervals, effects, protocols. Pure functions of records.
- ``editing``: the interface of an editing method.
- ``probing``: measurements of a model.
- ``results``: stored records and results.
- ``running``: runs, in one process or on many workers.
- ``analyses``: localisation, suppression and causal tracing.
- ``conformance``: checks of an editing method.
- ``api``: one edit, evaluations and their configuration, in Python.
- ``commands``: the command line.

The names of ``__all__`` are imported on first access, so importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.version import __version__

if TYPE_CHECKING:
    from .api.evaluation import evaluate
    from .api.results import Results, load_results
    from .api.run_config import RunConfig
    from .api.session import EditedModel, edit
    from .core.schema import Case, EditRequest, Probe, Support, Task
    from .editing import Edit, Editor
    from .models.loading import load_model

__all__ = [
    "Case",
    "Edit",
    "EditRequest",
    "EditedModel",
    "Editor",
    "Probe",
    "Results",
    "RunConfig",
    "Support",
    "Task",
    "__version__",
    "edit",
    "evaluate",
    "load_model",
    "load_results",
]

_MODULES = {
    "Case": "core.schema",
    "Edit": "editing",
    "EditRequest": "core.schema",
    "EditedModel": "api.session",
    "Editor": "editing",
    "Probe": "core.schema",
    "Results": "api.results",
    "RunConfig": "api.run_config",
    "Support": "core.schema",
    "Task": "core.schema",
    "edit": "api.session",
    "evaluate": "api.evaluation",
    "load_model": "models.loading",
    "load_results": "api.results",
}
"""Module of each lazily imported name, relative to this package."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
