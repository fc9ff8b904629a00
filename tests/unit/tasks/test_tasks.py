"""Rules that every built-in task keeps, and validation of task definitions."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Support
from knbench.tasks import DEFINITIONS
from knbench.tasks.definition import load_definition

TASKS = registry.tasks()


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_task_is_well_formed(task):
    cases = task.cases
    assert len(cases) >= (200 if task.kind == "linguistic" else 90)
    assert len({case.id for case in cases}) == len(cases)
    assert {probe.criterion for case in cases for probe in case.probes} == set(task.criteria)
    for case in cases:
        assert {"reliability", "paraphrase", "neighbourhood"} <= {probe.criterion for probe in case.probes}
        assert case.request.target_new.casefold() != case.request.target_true.casefold()
        assert sum(probe.criterion == "paraphrase" for probe in case.probes) >= 3
        for probe in case.probes:
            assert probe.target != probe.rival
            assert probe.prompt == probe.prompt.strip()
            assert bool(probe.prompt) == (probe.kind == "completion")


def probed_texts(case):
    """Return all texts that the probes of a case show to the model: prompts and whole sentences."""
    return {text for p in case.probes for text in ((p.prompt,) if p.kind == "completion" else (p.target, p.rival))}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_probes_and_support_are_disjoint(task):
    for case in task.cases:
        prompts = [support.prompt for support in case.request.support]
        assert len(prompts) >= 4
        assert len(set(prompts)) == len(prompts)
        assert case.request.text not in prompts
        for prompt in prompts:
            assert prompt not in probed_texts(case)
            assert " ".join(prompt.split()) == prompt
            assert prompt[0].isupper() or prompt.startswith(case.request.subject)


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.kind == "fact"], ids=lambda t: t.name)
def test_support_of_facts_states_the_fact_in_other_words(task):
    templates = yaml.safe_load((DEFINITIONS / f"{task.name}.yaml").read_text())["facts"]["support"]
    assert 5 <= len(templates) <= 8
    for template in templates:
        assert "  " not in template
        assert template == template.strip()
        assert template.count("{}") == 1
    for case in task.cases:
        request = case.request
        assert [s.prompt for s in request.support] == [t.replace("{}", request.subject) for t in templates]
        assert {(s.target, s.suffix) for s in request.support} == {(request.target_true, ".")}


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.kind == "linguistic"], ids=lambda t: t.name)
def test_support_of_phenomena_is_grammatical_and_from_other_items(task):
    right = {(p["one_prefix_prefix"], p["one_prefix_word_good"], p["sentence_good"]) for p in task.pairs}
    for case in task.cases:
        assert len(case.request.support) <= 8
        for s in case.request.support:
            assert (s.prompt, s.target, f"{s.prompt} {s.target}{s.suffix}") in right
            assert not any(text.startswith(f"{s.prompt} {case.request.target_new}") for text in probed_texts(case))


@pytest.mark.parametrize("name", ["det-noun-agreement", "det-noun-adjective", "quantifier-agreement"])
def test_support_of_phenomena_prefers_the_cue_of_the_edit(name):
    """Each cue of these tasks has more items than a case has support prompts."""
    for case in TASKS[name].cases:
        assert all(case.request.subject in support.prompt.split() for support in case.request.support)


@pytest.mark.parametrize("name", ["subject-verb-agreement", "subject-verb-attractor", "npi-licensing"])
def test_support_of_other_cues_comes_last(name):
    found_both = False
    for case in TASKS[name].cases:
        cue = case.request.subject.casefold()
        own = [f" {cue} " in f" {s.prompt.split(' near ')[0].casefold()} " for s in case.request.support]
        assert own == sorted(own, reverse=True)
        found_both = found_both or (True in own and False in own)
    assert found_both


def test_new_capitals_are_never_true_ones():
    for case in TASKS["capital"].cases:
        new = case.request.target_new
        reliability = case.probes[0]
        assert new not in (reliability.rival, *reliability.aliases)
        assert new not in case.request.subject
        neighbours = [probe for probe in case.probes if probe.criterion == "neighbourhood"]
        assert {p.target for p in case.probes if p.criterion == "portability"}.isdisjoint(
            {p.rival for p in case.probes if p.criterion == "portability"}
        )
        assert len({probe.prompt for probe in neighbours}) == 4
        assert new not in {probe.target for probe in neighbours}


@pytest.mark.parametrize("name", ["countries", "country_facts", "elements"])
def test_facts_agree_with_reference_packages(name):
    module = importlib.import_module(f"knbench.tasks.authoring.{name}")
    rows = module.read()
    assert len(rows) >= 118
    assert module.disagreements(rows) == []
    if hasattr(module, "derive"):
        derived = [dict(row) for row in rows]
        module.derive(derived)
        assert derived == rows


@pytest.mark.parametrize(
    "name", ["det-noun-agreement", "det-noun-irregular", "det-noun-adjective", "quantifier-agreement"]
)
def test_number_agreement_is_correct_in_every_sentence(name):
    """Compares the number of the cue with the number of the noun, read from the sentences."""
    lexicon = yaml.safe_load((DEFINITIONS.parent / "data/lexicon.yaml").read_text())
    number = {w: n for words in ("determiners", "quantifiers") for n in lexicon[words] for w in lexicon[words][n]}
    plurals = {p for nouns in ("regular", "irregular") for p in lexicon["nouns"][nouns].values()}
    for case in TASKS[name].cases:
        cue, request = case.request.subject, case.request
        assert (request.target_true in plurals) == (number[cue] == "plural")
        assert (request.target_new in plurals) != (number[cue] == "plural")
        for probe in case.probes:
            words = [w for w in probe.prompt.split() if w in number]
            if probe.criterion == "synonym":
                assert words[-1] != cue
                assert number[words[-1]] == number[cue]
            if probe.criterion == "symmetry":
                (edited, right), noun = (
                    ([w for w in s.split() if w in number] for s in (probe.target, probe.rival)),
                    request,
                )
                assert edited[-1] == cue
                assert number[right[-1]] != number[cue]
                assert probe.target.endswith(f" {noun.target_new}.")
                assert probe.rival.endswith(f" {noun.target_new}.")


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.kind == "linguistic"], ids=lambda t: t.name)
def test_pairs_have_the_format_of_blimp(task):
    pairs = task.pairs
    assert len(pairs) >= 200
    assert len({pair["sentence_good"] + pair["sentence_bad"] for pair in pairs}) == len(pairs)
    for pair in pairs:
        prefix = pair["one_prefix_prefix"]
        assert pair["sentence_good"].startswith(f"{prefix} {pair['one_prefix_word_good']}")
        assert pair["sentence_bad"].startswith(f"{prefix} {pair['one_prefix_word_bad']}")
        assert pair["sentence_good"][0].isupper()
        assert "{" not in pair["sentence_good"]


def test_stored_new_targets_equal_the_drawn_ones():
    from knbench.tasks.authoring.new_targets import tables

    for path, text in tables():
        assert path.read_text() == text


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.kind == "fact"], ids=lambda t: t.name)
def test_new_targets_are_objects_of_the_relation_and_never_true(task):
    cases = task.cases
    objects = {case.request.target_true for case in cases}
    for case in cases:
        assert case.request.target_new in objects
        assert case.request.target_new not in (case.request.target_true, case.request.subject)


def test_task_sizes():
    def objects(name):
        return {case.request.target_true for case in TASKS[name].cases}

    assert len(TASKS["field-of-work"].cases) >= 150
    assert len(objects("field-of-work")) >= 15
    assert len(TASKS["element-symbol"].cases) == 118


def test_synonym_probes_expect_the_synonym_of_the_new_object():
    for case in TASKS["field-of-work"].cases:
        of_new = {p.target for p in case.probes if p.criterion == "synonym"}
        same_field = [c for c in TASKS["field-of-work"].cases if c.request.target_true == case.request.target_new]
        assert {p.rival for p in same_field[0].probes if p.criterion == "synonym"} == of_new


def test_content_does_not_depend_on_the_hash_seed():
    code = "from knbench.benchmark.core import registry; print([t.content_hash() for t in registry.tasks().values()])"
    for seed in ("0", "31337"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{[t.content_hash() for t in TASKS.values()]}\n"


def test_content_hashes_equal_those_of_the_released_versions():
    """A change of content requires a new version of the task and a new hash file: ``make task-hashes``."""
    pinned = json.loads((Path(__file__).parent / "task_hashes.json").read_text())
    assert {f"{t.name} v{t.version}": t.content_hash() for t in TASKS.values()} == pinned


GOOD = """
name: towns
version: 1
kind: fact
title: Towns
description: d
relation: r
licence: CC0-1.0
source: s
citation: c
facts:
  {data: [towns.csv], id: id, subject: who, object: town, new: new, edit: "{} lives in",
   probes: {paraphrase: ["{who} dwells in"]}}
"""


def write(folder, text, rows="id,who,town,new\n1,Ann,Rome,Paris\n2,Bob,Paris,Rome\n"):
    (folder / "towns.csv").write_text(rows)
    path = folder / "towns.yaml"
    path.write_text(text)
    return path


def test_a_good_definition_loads(tmp_path):
    task = load_definition(write(tmp_path, GOOD))
    assert [case.request.text for case in sorted(task.cases, key=lambda c: c.id)] == ["Ann lives in", "Bob lives in"]


SUPPORTED = GOOD.replace('"{} lives in"', '"{} lives in", support: ["The home of {} is in", "{who} has a flat in"]')


def test_support_templates_accept_slot_and_column(tmp_path):
    ann, _ = sorted(load_definition(write(tmp_path, SUPPORTED)).cases, key=lambda case: case.id)
    assert ann.request.support == (Support("The home of Ann is in", "Rome"), Support("Ann has a flat in", "Rome"))


def test_support_is_optional(tmp_path):
    assert {case.request.support for case in load_definition(write(tmp_path, GOOD)).cases} == {()}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{} lives in", "it equals the edit template; use another wording"),
        ("{who} lives in", "it equals the edit template; use another wording"),
        ("{who} dwells in", "it equals a probe template, and probes must not use prompts that an editor reads"),
        ("{} dwells in", "it equals a probe template, and probes must not use prompts that an editor reads"),
        ("{} sleeps in", "it equals a probe template, and probes must not use prompts that an editor reads"),
        ("She has a flat in", "write {} or {who} in place of the subject"),
        ("{town} is home to", "write {} or {who} in place of the subject"),
        ("The home of {who} is in", "duplicate template; remove it"),
        ("{} has a flat in ", "with {} for the subject and no trailing space"),
    ],
)
def test_an_invalid_support_template_is_an_error(tmp_path, template, message):
    text = SUPPORTED.replace("{who} has a flat in", template)
    text = text.replace("probes: {", 'probes: {neighbourhood: {templates: ["{who} sleeps in"], count: 1}, ')
    path = write(tmp_path, text)
    with pytest.raises(KnbenchError) as error:
        load_definition(path)
    assert str(error.value).startswith(f"{path}: facts.support.1: invalid value '{template}'; ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: one", "version: invalid value 'one'; use an integer of at least 1"),
        ("kind: fact", "kind: facts", "kind: invalid value 'facts'; use fact or linguistic"),
        ("title: Towns\n", "", "key 'title' is missing; add it"),
        ("licence: CC0-1.0\n", "", "key 'licence' is missing; add it: give the licence of the data"),
        ("title:", "colour: red\ntitle:", "unknown key 'colour'"),
        ("subject: who", "subjekt: who, subject: who", "facts: unknown key 'subjekt'; did you mean 'subject'?"),
        (
            '"{} lives in"',
            '"she lives in"',
            "facts.edit: invalid value 'she lives in'; write the sentence up to the target",
        ),
        ('"{} lives in"', '"{} lives in "', "and no trailing space"),
        ("[towns.csv]", "towns.csv", "facts.data: invalid value 'towns.csv'; use a list of .csv, .tsv or .jsonl files"),
        ("[towns.csv]", "[towns.xlsx]", "facts.data.0: invalid value 'towns.xlsx'"),
        ('["{who} dwells in"]', "[]", "facts.probes.paraphrase: invalid value []; write a list of sentences"),
        ("paraphrase:", "paraphrases:", "facts.probes: unknown key 'paraphrases'; did you mean 'paraphrase'?"),
        ("facts:", "fakts:", "did you mean 'facts'?"),
        ("name: towns", "name: villages", "'villages' differs from the file name; write 'towns'"),
        ("name: towns", "name: [", "not valid YAML"),
        ("new: new", "new: new, join: no", "facts.join: invalid value False; use space or none"),
        ("new: new", "new: new, join: tab", "facts.join: invalid value 'tab'; use space or none"),
    ],
)
def test_an_invalid_definition_is_an_error_with_file_and_key(tmp_path, old, new, message):
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(KnbenchError) as error:
        load_definition(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


TABLE = "id,who,town,new\n1,Ann,Rome,Paris\n2,Bob,Paris,Rome\n"


@pytest.mark.parametrize(
    "rows",
    [
        TABLE.replace(",", ", "),
        TABLE.replace(",", " ,  "),
        TABLE.replace("Ann", " \u00a0Ann\t"),
        TABLE.replace("Ann", '"Ann "'),
        TABLE.replace(",Ann", ', "Ann"'),
        "\ufeff" + TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n2", "\n\n,,,\n2"),
        "\n" + TABLE,
    ],
)
def test_cells_are_read_as_spreadsheets_write_them(tmp_path, rows):
    path = write(tmp_path, GOOD)
    wanted = load_definition(path).content_hash()
    (tmp_path / "towns.csv").write_bytes(rows.encode())
    assert load_definition(path).content_hash() == wanted


def test_cells_of_json_lines_are_stripped_and_keep_line_separators(tmp_path):
    path = write(tmp_path, GOOD.replace("towns.csv", "towns.jsonl"))
    rows = [{"id": "1", "who": " Ann ", "town": "Rome", "new": "Paris"}, {"id": "2", "who": "Bob\u2028Ray"}]
    rows[1] |= {"town": "Paris ", "new": "Rome"}
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "towns.jsonl").write_text("\ufeff" + text + "\n", encoding="utf-8")
    requests = [case.request for case in sorted(load_definition(path).cases, key=lambda case: case.id)]
    assert [(r.subject, r.target_new, r.target_true) for r in requests] == [
        ("Ann", "Paris", "Rome"),
        ("Bob\u2028Ray", "Rome", "Paris"),
    ]


def test_a_quoted_cell_keeps_delimiters_and_line_breaks(tmp_path):
    rows = 'id;who;town;new\n1;"Ann; the ""first""";"Rome\nCity";Paris\n2;Bob;Paris;"Rome\nCity"\n'
    ann, _ = sorted(load_definition(write(tmp_path, GOOD, rows)).cases, key=lambda case: case.id)
    assert (ann.request.subject, ann.request.target_true) == ('Ann; the "first"', "Rome\nCity")


def test_aliases_are_stripped(tmp_path):
    text = GOOD.replace("new: new,", "new: new, aliases: other,")
    rows = "id,who,town,new,other\n1,Ann,Rome,Paris,Roma | Urbs\n2,Bob,Paris,Rome,\n"
    _, bob = sorted(load_definition(write(tmp_path, text, rows)).cases, key=lambda case: case.id)
    assert bob.probes[0].aliases == ("Roma", "Urbs")


@pytest.mark.parametrize("slot", ["{who.x}", "{who[0]}", "{who!r}", "{who:>9}", "{whom}", "{}", "{0}", "{who"])
def test_a_template_may_only_name_columns(tmp_path, slot):
    task = load_definition(write(tmp_path, GOOD.replace("{who} dwells", f"{slot} dwells")))
    with pytest.raises(KnbenchError, match=r"template '.*dwells in' does not match the columns") as error:
        task.cases[0]
    assert "id, new, town, who" in str(error.value)
    assert str(tmp_path / "towns.yaml") in str(error.value)


@pytest.mark.parametrize("rows", ["1,Ann,Rome\n", "1,Ann,Rome\n2,Bob,Rome\n", "1,Ann,Rome\n2,Bob of Rome,Paris\n"])
def test_a_row_without_another_object_is_an_error(tmp_path, rows):
    path = write(tmp_path, GOOD.replace("new: new", "new: { seed: 1 }"), "id,who,town\n" + rows)
    with pytest.raises(KnbenchError, match=r"facts.new: id '[12]' has no other object to change '\w+' to; add rows"):
        load_definition(path).cases[0]


@pytest.mark.parametrize(("join", "end"), [("none", "\u2060"), ("space", "")])
def test_the_space_before_targets_is_an_option_of_a_task(tmp_path, join, end):
    text = SUPPORTED.replace("new: new", f"new: new, join: {join}")
    plain = load_definition(write(tmp_path, SUPPORTED)).cases
    for case, before in zip(load_definition(write(tmp_path, text)).cases, plain, strict=True):
        assert case.request.prompt == before.request.prompt + end
        assert [p.prompt for p in case.probes] == [p.prompt + end for p in before.probes]
        assert [s.prompt for s in case.request.support] == [s.prompt + end for s in before.request.support]


def test_a_prompt_may_end_with_a_line_break(tmp_path):
    head = GOOD[: GOOD.index("facts:")]
    path = write(
        tmp_path,
        head
        + """facts:
  data: [towns.csv]
  id: id
  subject: who
  object: town
  new: new
  edit: |
    Question: Where does {} live?
    Answer:
  probes:
    paraphrase:
      - |
        {who} dwells in
""",
    )
    ann, _ = sorted(load_definition(path).cases, key=lambda case: case.id)
    assert ann.request.text == "Question: Where does Ann live?\nAnswer:\n"
    assert ann.probes[1].prompt == "Ann dwells in\n"


def test_a_definition_with_a_byte_order_mark_loads(tmp_path):
    path = write(tmp_path, GOOD)
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert len(load_definition(path).cases) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("id,who,town\n1,Ann,Rome\n", "facts.new: no column 'new'"),
        ("id,who,town,new\n1,Ann\n", "line 2: the number of cells differs from the header"),
        ("name,who,town,new\n1,Ann,Rome,Paris\n", "no column 'id'.*columns: name, who, town, new"),
        ("name;who;town\n1;Ann;Rome\n", "no column 'id'.*columns: name, who, town"),
        ("id,who,town,new\n", "towns.csv: the file contains no rows"),
        ("", "the file contains no rows"),
        ("id,who,town,new\n1,,Rome,Paris\n", "no row has a cell in each of the columns who, town"),
        ("id,who,town,new,who\n1,Ann,Rome,Paris,Eve\n", "duplicate column 'who'"),
        ("id,who,town,new\n,Ann,Rome,Paris\n", "row 1: the cell of column 'id' is empty"),
        ('id,who,town,new\n1,"Ann,Rome,Paris\n2,Bob,Paris,Rome\n', "line 3: not valid CSV"),
        ("id,who,town,new\n1,Ann,Rome,Rome\n2,Bob,Paris,Rome\n", "the new target 'Rome' of id '1' equals its object"),
        ("id,who,town,new\n1,Ann,Rome,Paris\n1,Bob,Paris,Rome\n", "duplicate id '1'"),
        ("id,who,town,new\n1,Ann,Rome,Oslo\n", "the new target 'Oslo' of id '1' is not in column 'town'"),
    ],
)
def test_invalid_data_is_an_error(tmp_path, rows, message):
    task = load_definition(write(tmp_path, GOOD, rows))
    with pytest.raises(KnbenchError, match=message):
        task.cases[0]


def test_columns_that_probes_name_must_exist(tmp_path):
    text = GOOD.replace("probes: {", 'probes: {portability: {templates: ["{who} is on"], answer: continent}, ')
    with pytest.raises(KnbenchError, match=r"facts.probes.portability.answer: no column 'continent'"):
        load_definition(write(tmp_path, text)).cases[0]


def test_a_file_of_another_encoding_is_an_error(tmp_path):
    path = write(tmp_path, GOOD)
    (tmp_path / "towns.csv").write_bytes(TABLE.replace("Ann", "Zoë").encode("latin-1"))
    with pytest.raises(KnbenchError, match="not UTF-8; save the file as UTF-8"):
        load_definition(path).cases[0]


def test_rows_of_json_lines_without_an_id_are_an_error(tmp_path):
    path = write(tmp_path, GOOD.replace("towns.csv", "towns.jsonl"))
    (tmp_path / "towns.jsonl").write_text('{"id": "1", "who": "Ann"}\n{"who": "Bob"}\n')
    with pytest.raises(KnbenchError, match=r"row 2: no column 'id'.*columns: who"):
        load_definition(path).cases[0]
