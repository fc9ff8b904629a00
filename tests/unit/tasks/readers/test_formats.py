"""Formats of data files: compression, encodings, JSON and its wrappers, JSON Lines, CSV, and files that are no data."""

from __future__ import annotations

import gzip
import json
from functools import partial

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.tasks.readers.shared.parsing import parse_records, parse_table
from knbench.tasks.readers.shared.skips import SkipReport

from tests.unit.tasks.readers.samples import COUNTERFACT, EASYEDIT, KNOWEDIT, MEND, PAIR, SAMPLE, put, read_task

packed = partial(gzip.compress, mtime=0)  # the same bytes in every process, which pytest-xdist needs

RECORDS = [{**COUNTERFACT, "case_id": number} for number in (1, 2, 3)]
LINES = [json.dumps(record) for record in RECORDS]


FIELDS = list(COUNTERFACT)[:5]
COLUMNS = {field: [record[field] for record in RECORDS] for field in FIELDS}
BY_NUMBER = {field: {str(n): record[field] for n, record in enumerate(RECORDS)} for field in FIELDS}


def encoded(text):
    return text if isinstance(text, bytes) else text.encode()


def write(path, content):
    path.write_bytes(encoded(content))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(RECORDS)),
        ("indented.json", json.dumps(RECORDS, indent=2)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(RECORDS).encode()),
        ("list.jsonl", json.dumps(RECORDS)),
        ("indented.jsonl", json.dumps(RECORDS, indent=1)),
        ("list.txt", json.dumps(RECORDS)),
        ("A.JSON", json.dumps(RECORDS)),
        ("a.JSON.gz", packed(json.dumps(RECORDS).encode())),
        ("gzip-without-ending.json", packed(json.dumps(RECORDS).encode())),
        ("lines.json", "\n".join(LINES)),
        ("lines.ndjson", "\n".join(LINES)),
        ("lines.txt", "\n".join(LINES)),
        ("bom.jsonl", b"\xef\xbb\xbf" + "\n".join(LINES).encode()),
        ("windows.jsonl", "\r\n".join(LINES) + "\r\n"),
        ("macintosh.jsonl", "\r".join(LINES)),
        ("blank-lines.jsonl", "\n\n" + "\n \n".join(LINES)),
        ("commas.jsonl", ",\n".join(LINES)),
        ("lines.jsonl.gz", packed("\n".join(LINES).encode())),
        ("one-after-another.json", "\n".join(json.dumps(record, indent=2) for record in RECORDS)),
        ("without-separator.json", "".join(LINES)),
        ("data.json", json.dumps({"data": RECORDS})),
        ("wrapped.json", json.dumps({"version": "1.0", "data": RECORDS})),
        ("named.json", json.dumps({"counterfact": RECORDS})),
        ("interface.json", json.dumps({"rows": [{"row_idx": 0, "row": record} for record in RECORDS]})),
        ("members.json.gz", b"".join(packed(line.encode() + b"\n") for line in LINES)),
        ("keyed.json", json.dumps({str(record["case_id"]): record for record in RECORDS})),
    ],
)
def test_every_form_of_a_file_gives_the_same_task(tmp_path, name, content):
    expected = read_task("counterfact", None, put(tmp_path / "expected.json", RECORDS))[0]
    task, report = read_task("counterfact", None, write(tmp_path / name, content))
    assert report.reasons == {}
    assert task.content_hash() == expected.content_hash()


def test_line_separators_of_unicode_belong_to_a_record(tmp_path):
    strange = {**COUNTERFACT, "paraphrase_prompts": ["One\u2028two\u2029three\x85four"]}
    lines = "\n".join(json.dumps({**strange, "case_id": n}, ensure_ascii=False) for n in (1, 2))
    for name in ("a.jsonl", "a.json", "a.txt"):
        task, report = read_task("counterfact", None, write(tmp_path / name, lines))
        assert (len(task.cases), report.skipped) == (2, 0)
        assert task.cases[0].probes[1].prompt == "One\u2028two\u2029three\x85four"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lfs.json", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        ("lfs.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        ("lfs.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        ("a.json", json.dumps(RECORDS).encode("utf-16"), "the file is UTF-16 text; convert it to UTF-8"),
        ("a.csv", "subject;prompt".encode("utf-16"), "the file is UTF-16 text"),
        ("be.json", b"\xfe\xff" + json.dumps(RECORDS).encode("utf-16-be"), "the file is UTF-16 text"),
        ("bare.json", json.dumps(RECORDS).encode("utf-16-le"), "UTF-16 or binary data without a byte-order mark"),
        ("a32.json", json.dumps(RECORDS).encode("utf-32"), "the file is UTF-32 text"),
        ("latin.json", '[{"subject": "Köln"}]'.encode("latin-1"), "not UTF-8 text (byte 16)"),
        ("latin.csv", "subject\nKöln".encode("latin-1"), "not UTF-8 text (byte 10)"),
        ("empty.json", "", "the file is empty"),
        ("blank.jsonl", " \n\n", "the file is empty"),
        ("page.json", "\n<!DOCTYPE html><html>", "a web page, not the data"),
        ("a.zip.json", b"PK\x03\x04rest", "a zip archive"),
        ("cut.parquet", b"PAR1rest", "the Parquet file is cut"),
        ("text.parquet", json.dumps(RECORDS), "not a Parquet file; give it the ending of its format"),
        ("named.json", b"PAR1rest", "give it the ending .parquet"),
        ("cut.json", json.dumps(RECORDS)[:400], "the file is cut: not valid JSON"),
        ("cut-at-record.json", json.dumps(RECORDS)[:-1], "the file is cut: not valid JSON"),
        ("cut-literal.json", '[{"a": tru', "the file is cut: not valid JSON"),
        ("cut.jsonl", LINES[0][:100], "the file is cut: not valid JSON"),
        ("cut.json.gz", packed(json.dumps(RECORDS).encode())[:-20], "the gzip file is cut or damaged"),
        ("broken.json", '[{"a": 1,, "b": 2}]', "broken.json: not valid JSON: Expecting property name"),
        ("twice.json.gz", packed(packed(b"[]")), "compressed twice with gzip"),
        (
            "open.csv",
            'subject,prompt\nOslo,"Oslo is in\nRome,Rome is in\n',
            "a quotation mark is not closed, or the file",
        ),
        ("twice.csv", "subject,prompt,prompt\nOslo,a,b\n", "duplicate column 'prompt'"),
        ("pipe.csv", "subject|prompt\nOslo|a\n", "fields of the first record: subject|prompt"),
        ("deep.json", "[" * 100_000, "not valid JSON"),
        ("twice.json", '[{"a": 1, "b": {"c": 1, "c": 2}}]', "an object has the field 'c' twice; remove or rename one"),
        ("columns.json", json.dumps(COLUMNS), f"holds columns ({', '.join(FIELDS)}), a list of records was expected"),
        ("pandas.json", json.dumps(BY_NUMBER), "in pandas with to_json(path, orient='records')"),
        ("split.json", json.dumps({"columns": FIELDS, "index": [0], "data": [[1]]}), "the file holds columns"),
        ("splits.json", json.dumps({"train": RECORDS, "test": RECORDS}), "several lists (train, test)"),
        ("splits2.json", json.dumps({"data": RECORDS, "rows": RECORDS}), "several lists (data, rows)"),
    ],
)
def test_files_that_cannot_be_read_are_named_for_what_they_are(tmp_path, name, content, message):
    with pytest.raises(KnbenchError) as error:
        read_task("counterfact", None, write(tmp_path / name, content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_last_line_and_broken_lines_are_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n".join([LINES[0], LINES[1][:50], LINES[1], LINES[2][:100]]))
    task, report = read_task("counterfact", None, path)
    assert len(task.cases) == 2
    assert report.reasons == {"not JSON": 1, "not JSON: the file is cut inside its last line": 1}
    assert report.first == "line 2: not JSON"


def test_a_line_that_repeats_a_field_is_counted(tmp_path):
    """The parser would silently keep the last value."""
    repeated = LINES[1][:-1] + ', "paraphrase_prompts": []}'
    for lines in ([LINES[0], repeated], [repeated, LINES[0]]):
        task, report = read_task("counterfact", None, write(tmp_path / "a.jsonl", "\n".join(lines)))
        assert (len(task.cases), report.reasons) == (1, {"an object has a field twice": 1})


def test_an_object_of_records_by_number_does_not_hold_columns(tmp_path):
    content = json.dumps({str(number): record for number, record in enumerate(RECORDS)})
    assert len(read_task("counterfact", None, write(tmp_path / "a.json", content))[0].cases) == 3


CELLS = {key: EASYEDIT[key] for key in ("subject", "prompt", "target_new", "ground_truth", "rephrase_prompt")}


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_tables_with_any_separator_give_the_same_case(tmp_path, separator, start, line_break):
    expected = read_task("knowedit", None, put(tmp_path / "a.json", [CELLS]))[0]
    table = separator.join(CELLS) + line_break + separator.join(f'"{cell}"' for cell in CELLS.values()) + line_break
    for name in ("a.csv", "a.TSV"):
        task, report = read_task("knowedit", None, write(tmp_path / name, start + table))
        assert report.reasons == {}
        assert task.content_hash() == expected.content_hash()


@pytest.mark.parametrize(
    "text",
    [
        "a;b;\n1;2;\n3;4\n",
        "a;b\n1;2;\n3;4;\n",
        "sep=;\na;b\n1;2\n3;4",
        "sep=\t\r\na\tb\r\n1\t2\r\n3\t4",
        "a, b\r1, 2\r3, 4",
        "a;b\n\n;\n1;2\n3;4",
    ],
)
def test_separators_at_the_end_and_lines_without_cells(text):
    report = SkipReport()
    rows = [value for _, value in parse_table("t.csv", text.encode(), report)]
    assert (rows, report.reasons) == ([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}], {})


def test_cells_are_text_and_stripped():
    report = SkipReport()
    text = " subject , prompt ,new,extra\n None , NaN is in ,1999,NA\nA,B is,True,\na,b,c\n\n x , y , 1.50 , 007 \n"
    rows = [value for _, value in parse_table("t.csv", text.encode(), report)]
    assert rows == [
        {"subject": "None", "prompt": "NaN is in", "new": "1999", "extra": "NA"},
        {"subject": "A", "prompt": "B is", "new": "True"},
        {"subject": "x", "prompt": "y", "new": "1.50", "extra": "007"},
    ]
    assert report.first == "row 3: row with another number of cells than the header"


def test_cells_with_json_or_python_literals_are_parsed(tmp_path):
    columns = ["case_id", "requested_rewrite", "paraphrase_prompts"]
    rewrite = COUNTERFACT["requested_rewrite"]
    quoted = ['"' + text.replace('"', '""') + '"' for text in (json.dumps(rewrite), repr(rewrite))]
    rows = [f'{n},{cell},"[""Where?"", ""{{}} is""]"' for n, cell in enumerate(quoted)]
    task, report = read_task("counterfact", None, write(tmp_path / "a.csv", "\n".join([",".join(columns), *rows])))
    assert (len(task.cases), report.skipped) == (2, 0)
    assert {case.id for case in task.cases} == {"counterfact-00000", "counterfact-00001"}
    assert {p.prompt for case in task.cases for p in case.probes if p.criterion == "paraphrase"} == {
        "Where?",
        "Danielle Darrieux is",
    }


def test_a_pair_of_a_table_keeps_its_method_of_scoring(tmp_path):
    cells = {key: str(value) for key, value in PAIR.items()}
    table = ",".join(cells) + "\n" + ",".join(cells.values())
    tasks = [
        read_task("blimp", "anaphor_gender_agreement", path)[0]
        for path in (write(tmp_path / "a.csv", table), put(tmp_path / "a.json", [PAIR]))
    ]
    assert tasks[0].content_hash() == tasks[1].content_hash()


def test_one_record_alone_is_a_list_of_one(tmp_path):
    for record in (COUNTERFACT, KNOWEDIT, MEND):
        content = json.dumps(record, indent=1).encode()
        assert [value for _, value in parse_records("a.json", content, SkipReport())] == [record]


@pytest.mark.parametrize(
    ("content", "reader", "advice"),
    [
        ([KNOWEDIT], "mquake", "this looks like KnowEdit: use --tasks knowedit"),
        ([MEND], "knowedit", "this looks like zsRE: use --tasks zsre"),
        ([COUNTERFACT], "knowedit", "this looks like CounterFact: use --tasks counterfact"),
        ([PAIR], "zsre", "this looks like BLiMP: use --tasks blimp:PARADIGM"),
        (SAMPLE, "counterfact", "this looks like ParaRel: use --tasks pararel:RELATION"),
        ([MEND], "pararel", "this looks like zsRE: use --tasks zsre"),
        ([COUNTERFACT, COUNTERFACT], "pararel", "this looks like CounterFact: use --tasks counterfact"),
        ([EASYEDIT], "blimp", "this looks like KnowEdit: use --tasks knowedit"),
        ([{"requested_rewrite": [{"subject": "s"}]}], "counterfact", "this looks like MQuAKE: use --tasks mquake"),
        ([{"requested_rewrite": [{"fact_new_uns": "s"}]}], "mquake", "this looks like AKEW: use --tasks akew"),
        ([{"edit": {"prompt": "p"}, "example_type": "recent"}], "zsre", "RippleEdits: use --tasks rippleedits"),
        ([{"edit": {}, "generality": {}, "locality": {}}], "zsre", "this looks like UniEdit, which has no reader"),
        ([{"question": "q", "text_completion_prompt": "p"}], "zsre", "it has no answers; it accompanies zsRE"),
        ([{"subjectLabel": "s", "relation": "r", "objectLabel": "o"}], "halluedit", "it has no questions"),
        ([{"pattern": "[X] is [Y].", "lemma": "be"}] * 2, "pararel", "this looks like the patterns of ParaRel"),
    ],
)
def test_a_file_of_another_data_set_names_its_reader(tmp_path, content, reader, advice):
    selection = {"blimp": "wh_island", "pararel": "P36"}.get(reader)
    with pytest.raises(KnbenchError) as error:
        read_task(reader, selection, put(tmp_path / "a.json", content))
    assert advice in str(error.value)
    assert "\n" not in str(error.value)
