"""The configuration of a run: texts, YAML, manifests and flags give the same object."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from knbench.benchmark import RunConfig
from knbench.benchmark.commands.main import load_command
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError

FULL = RunConfig(
    model="toy-gpt2",
    editors=("memit", "ft"),
    tasks=("capital", "religion"),
    data={"pararel": "all.json"},
    limit=3,
    batch_size="auto",
    editor_args={"memit": {"layers": [1, 2]}},
    sequential=4,
    checkpoints=(2, 4),
    drift=("perplexity",),
    fail_on_error=0.5,
    output="runs/x",
)


def test_yaml_and_back():
    assert RunConfig.from_mapping(yaml.safe_load(FULL.to_yaml())) == FULL
    assert RunConfig.from_mapping(FULL.to_mapping()) == FULL
    assert RunConfig.from_mapping({}) == RunConfig()


def test_names_may_be_written_as_flags_or_as_in_python_and_lists_as_texts():
    values = {"--editor_args": {"ft": {"layer": 1}}, "batch-edits": 2, "tasks": "capital, religion", "checkpoints": 7}
    config = RunConfig.from_mapping(values)
    assert (config.batch_edits, config.tasks, config.checkpoints) == (2, ("capital", "religion"), (7,))
    assert config.editor_args == {"ft": {"layer": 1}}


def test_every_flag_of_the_command_is_a_field():
    """Besides those that only decide what is printed."""
    command = load_command(registry.registered(registry.COMMANDS)["run"])
    names = {parameter.name for parameter in command.params}
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert fields - names == set()
    shown = {"board", "shard", "protocol", "all_columns", "as_json", "quiet", "config", "print_config"}
    assert names - fields == shown
    defaults = {p.name: p.default for p in command.params if p.name in fields}
    for name in ("model", "split", "subset", "known_by", "seed", "device", "dtype", "batch_size", "bos", "executor"):
        assert defaults[name] == getattr(RunConfig(), name), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"editor": "rome"}, r"unknown name in a\.yaml 'editor'; did you mean 'editors'\?"),
        ({"limit": "three"}, r"a\.yaml: limit is 'three'; expected a whole number or nothing"),
        ({"limit": 0}, r"a\.yaml: limit is 0; expected a number above 0"),
        ({"limit": True}, r"limit is True"),
        ({"split": "dev"}, r"split is 'dev'; choose one of "),
        ({"known-only": "yes"}, r"known_only is 'yes'; expected true or false"),
        ({"checkpoints": "1,x"}, r"checkpoints is .*expected a list of whole numbers or nothing"),
        ({"editor-args": {"rome": 7}}, r"editor-args of 'rome' is not a mapping"),
        ({"batch-size": "large"}, r"batch_size is 'large'; expected a whole number or 'auto'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(values, message):
    with pytest.raises(KnbenchError, match=message):
        RunConfig.from_mapping(values, "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "expected one line per flag"),
        ("a: [1\n", r"line 2: "),
        (b"\xff\xfe", "not a text file in UTF-8"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_file_is_refused_with_its_path(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KnbenchError, match=f"run.yaml'.*{message}"):
        RunConfig.from_file(path)
