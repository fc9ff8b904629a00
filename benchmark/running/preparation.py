"""Prepares an editor for a model: seeded, with its errors explained, and with the model checked afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import registry
from ..core.errors import KnbenchError, first_line
from ..core.progress import Reporter
from ..core.schema import JsonObject, derived_seed
from ..editing import Editor, training_cases
from ..models.language_model import LanguageModel
from ..probing.positions import PositionsExceededError, position_guard
from .attempts import seeded
from .model_state import MAX_NAMES, ModelState
from .records import json_values


def prepare_editor(
    editor: Editor[Any], lm: LanguageModel, seed: int, reporter: Reporter, fingerprint: str
) -> JsonObject:
    """Call :meth:`Editor.prepare` and, if the method is trained, :meth:`Editor.train`. Return their values as JSON.

    Args:
        editor: the method.
        lm: the unedited model.
        seed: seed of the run.
        reporter: receives progress.
        fingerprint: :meth:`LanguageModel.fingerprint` of the unedited model.

    Raises:
        KnbenchError: the editor cannot be prepared, returns something else than a mapping, or changes the model.
        OSError: a file cannot be read or written.
    """
    name = editor.name
    reporter.doing(f"preparing {name}")
    state = ModelState(lm)
    try:
        with seeded(derived_seed(seed, name, "prepare")), position_guard(lm):
            prepared: object = editor.prepare(lm, reporter)
            if editor.trains and isinstance(prepared, Mapping):
                reporter.doing(f"training {name}")
                prepared = {**prepared, "training": editor.train(lm, training_cases(lm, registry.tasks()), reporter)}
    except (KnbenchError, OSError):
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, PositionsExceededError):
            hint = "; set corpus_length lower" if hasattr(editor.config, "corpus_length") else ""
            reason = f"a text that it reads or generates does not fit: {error}{hint}"
        raise KnbenchError(f"editor '{name}' cannot be prepared: {reason}") from error
    if not isinstance(prepared, Mapping):
        raise KnbenchError(f"editor '{name}': prepare() returned {prepared!r:.60}; return a dict of JSON values")
    changed = state.differences()
    if lm.fingerprint() != fingerprint:
        changed = ["weights", *changed]
    if changed:
        raise KnbenchError(
            f"editor '{name}': prepare() left the model changed: {', '.join(changed[:MAX_NAMES])}; restore it before "
            f"prepare() returns (see: knbench check-editor {name})"
        )
    values: JsonObject = json_values(prepared)
    return values
