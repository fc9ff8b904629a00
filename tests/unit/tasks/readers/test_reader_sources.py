"""Registration, sources and errors common to all readers."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.tasks.readers.shared import fields, files, masked_patterns, recognition

from tests.unit.tasks.readers.samples import COUNTERFACT, SAMPLE, put, put_lines, read_task


def test_docstring_examples():
    for module in (fields, files, masked_patterns, recognition):
        result = doctest.testmod(module)
        assert result.attempted
        assert result.failed == 0


def test_built_in_readers_are_registered():
    points = registry.registered(registry.READERS)
    built_in = {"blimp", "counterfact", "knowedit", "pararel", "zsre"}
    assert built_in <= set(points)
    assert {registry.load(points[name]).name for name in built_in} == built_in


def test_content_does_not_depend_on_the_hash_seed(tmp_path):
    path = put(tmp_path / "p.json", SAMPLE)
    expected = read_task("pararel", "P36", path)[0].content_hash()
    code = "import sys; from knbench.tasks.readers.pararel import READER\n"
    code += "print(READER.read('P36', sys.argv[1])[0].content_hash())"
    for seed in ("0", "31337"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, path]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_errors_are_one_line_with_problem_location_and_fix(tmp_path, monkeypatch):
    import datasets

    def offline(*args, **options):
        raise ConnectionError("Couldn't reach it\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    broken = tmp_path / "broken.json"
    broken.write_text('[{"a": 1},\n {"b": ')
    (tmp_path / "two").mkdir()
    put(tmp_path / "two/a.json", [])
    put(tmp_path / "two/b.json", [])
    failures = [
        (("pararel", "P36", None), "pararel has no default source; give a file"),
        (("pararel", "P36", str(tmp_path / "no.json")), "no.json'; give the path of a local copy"),
        (("pararel", "P36", put(tmp_path / "list.json", [1])), "not ParaRel data: expected a JSON object"),
        (("pararel", "P36", put(tmp_path / "empty.json", {"P36": []})), "the source has no records"),
        (("pararel", "P36", "owner/name"), "no file or folder 'owner/name'"),
        (("counterfact", "x", None), "counterfact has no selections; use 'counterfact' instead of 'counterfact:x'"),
        (("zsre", "x", None), "zsre has no selections; use 'zsre' instead of 'zsre:x'"),
        (("counterfact", None, "data/no.jsonl"), "no file or folder 'data/no.jsonl'"),
        (("counterfact", None, None), "cannot read data set 'azhx/counterfact': Couldn't reach it; no local file"),
        (("knowedit", "zsre", "no.json"), "no file or folder 'no.json'"),
        (("zsre", None, str(broken)), "broken.json: the file is cut: not valid JSON: Expecting value: line 2 column 8"),
        (
            ("zsre", None, str(tmp_path / "two")),
            "needs exactly one data file (.jsonl, .json, .ndjson, .parquet, .csv, .tsv, .txt), found: a.j",
        ),
        (
            ("zsre", None, put(tmp_path / "c.json", [COUNTERFACT])),
            "(first: entry 1: field 'subject' is missing); this looks like CounterFact: use --tasks counterfact",
        ),
        (
            ("counterfact", None, put_lines(tmp_path / "c.jsonl", b"{", b"x")),
            "2 skipped, most frequent reason: not JSON",
        ),
    ]
    for arguments, message in failures:
        with pytest.raises(KnbenchError) as error:
            read_task(*arguments)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_an_unknown_reader_is_an_error_that_suggests_one():
    with pytest.raises(KnbenchError, match=r"unknown reader .*'pararell'; did you mean 'pararel'"):
        registry.published_task("pararell", {})


def test_reading_local_json_does_not_import_datasets(tmp_path):
    path = put(tmp_path / "p.json", SAMPLE)
    code = (
        "import sys; from knbench.tasks.readers.pararel import READER; READER.read('P36', sys.argv[1]); "
        "sys.exit(bool({'torch', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0
