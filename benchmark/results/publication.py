"""The public form of a run: local paths lose their folders, in its result and in its files of JSON lines.

Runs of this version have this form already. Those of earlier versions contain paths in the editor's configuration and
prepared values, in the task's source, in the command line and in the messages of failures.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from ..core.documents import Result
from ..core.local_paths import public_value, without_folders, without_folders_in_text
from .io import CHECKPOINTS, DRIFT, RECORDS
from .runs import Run


def public_run(run: Run) -> Run:
    """Return a run whose result has no folders of local paths. Its files are unchanged."""
    result = run.result
    editor = msgspec.structs.replace(
        result.editor, config=public_value(result.editor.config), prepared=public_value(result.editor.prepared)
    )
    task = msgspec.structs.replace(result.task, source=without_folders(result.task.source))
    environment = {**result.environment}
    if isinstance(command := environment.get("command"), str):
        environment["command"] = _public_command(command)
    return replace(run, result=msgspec.structs.replace(result, editor=editor, task=task, environment=environment))


def public_lines(data: bytes) -> bytes:
    """Return the content of a file of JSON lines in which failures and diagnostics have no folders of local paths.

    Lines without such folders keep their bytes.
    """
    return b"".join(_public_line(line) for line in data.splitlines(keepends=True))


def with_hashes(result: Result, files: Mapping[str, bytes]) -> Result:
    """Return a result with the hashes of its files of JSON lines.

    Args:
        result: the result.
        files: contents by file name.
    """
    for name, part in ((RECORDS, "records"), (CHECKPOINTS, "checkpoints"), (DRIFT, "drift")):
        if name in files:
            info = msgspec.structs.replace(getattr(result, part), sha256=hashlib.sha256(files[name]).hexdigest())
            result = msgspec.structs.replace(result, **{part: info})
    return result


def _public_line(line: bytes) -> bytes:
    value: dict[str, Any] = json.loads(line)
    public = dict(value)
    if value.get("failure"):
        message = without_folders_in_text(value["failure"]["message"])
        public["failure"] = {**value["failure"], "message": message}
    if value.get("edit"):
        public["edit"] = {**value["edit"], "diagnostics": public_value(value["edit"]["diagnostics"])}
    if public == value:
        return line
    return (json.dumps(public, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _public_command(command: str) -> str:
    """Return a command line whose words, and parts of words after an equals sign, have no folders of local paths.

    >>> _public_command("knbench tune --data pararel=/home/me/all.json --model ../gpt2 --tasks pararel:P36")
    'knbench tune --data pararel=all.json --model gpt2 --tasks pararel:P36'
    """
    try:
        words = shlex.split(command)
    except ValueError:  # an apostrophe that closes nothing: not a command of this project
        return without_folders_in_text(command)
    public = ["=".join(map(without_folders, word.split("="))) for word in words]
    return command if public == words else shlex.join(public)
