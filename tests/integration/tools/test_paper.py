"""``python -m tools.paper``: every command runs, on stand-ins of the paper's architectures."""

from __future__ import annotations

import json

import pytest
from knbench.benchmark.commands.main import main
from knbench.benchmark.core import registry

from tests.conftest import make_lm
from tests.unit.tasks.readers.samples import bag, put
from tools import paper

WORDINGS = {
    "P36": ("capital", ("The capital of {} is [MASK].", "{}'s capital city is [MASK].")),
    "P1376": ("capital of", ("{} is the capital of [MASK].", "{}, the capital city of [MASK].")),
    "P101": ("field of work", ("{} works in the field of [MASK].", "{} is an expert in [MASK].")),
    "P103": ("native language", ("{} speaks [MASK].", "The mother tongue of {} is [MASK].")),
}
PAIRS = {
    "P36": [("Italy", "Rome"), ("France", "Paris"), ("Norway", "Oslo"), ("Peru", "Lima")],
    "P1376": [("Rome", "Italy"), ("Paris", "France"), ("Oslo", "Norway"), ("Lima", "Peru")],
    "P101": [("Ann", "physics"), ("Bob", "biology"), ("Cyd", "chemistry"), ("Dan", "history")],
    "P103": [("Ann", "French"), ("Bob", "Danish"), ("Cyd", "German"), ("Dan", "Greek")],
}


@pytest.fixture(scope="module")
def pararel(tmp_path_factory):
    bags = {r: [bag(w, f"{r}({label})", s, o) for s, o in PAIRS[r]] for r, (label, w) in WORDINGS.items()}
    return put(tmp_path_factory.mktemp("data") / "pararel.json", bags)


def test_the_commands_are_those_of_the_paper_and_valid(pararel, capsys):
    assert paper.run(["--pararel", pararel, "--dry-run"], main) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {"localise": 1, "suppress": 2, "trace": 2, "run": 3, "score": 3}
    assert [line.split()[1] for line in lines] == [name for name, count in counts.items() for _ in range(count)]
    assert "--model llama-2-7b --editors none,kn,rome --tasks pararel:P36,pararel:P1376,pararel:P101" in lines[6]
    commands = registry.registered(registry.COMMANDS)
    for command in paper.commands(paper.parse(["--pararel", pararel, "--limit", "2", "--steps", "3"])):
        parser = registry.load(commands[command[0]])
        if command[0] != "score":  # which wants its folder to exist
            parser.make_context(command[0], command[1:])


def test_a_missing_file_is_one_line(capsys):
    with pytest.raises(SystemExit):
        paper.parse(["--pararel", "nowhere.json"])
    assert "no file 'nowhere.json'; give the filled ParaRel" in capsys.readouterr().err


def test_a_failing_command_stops_the_rest(pararel, capsys):
    seen = []

    def failing(command):
        seen.append(command[0])
        raise SystemExit(2)

    assert paper.run(["--pararel", pararel], failing) == 2
    assert seen == ["localise"]


@pytest.mark.slow
@pytest.mark.long
def test_all_of_it_runs_on_stand_ins(pararel, tmp_path, capsys):
    """Trained toys of the shapes of BERT and GPT-2, and a tiny Llama with random weights."""
    llama = make_lm("llama")
    llama.model.save_pretrained(tmp_path / "llama")
    llama.tokenizer.save_pretrained(tmp_path / "llama")
    arguments = ["--pararel", pararel, "--causal", "toy-gpt2", str(tmp_path / "llama"), "--masked", "toy-bert"]
    options = ["--limit", "1", "--steps", "2", "--all-cases", "--device", "cpu"]
    assert paper.run([*arguments, *options, "--output", str(tmp_path / "paper")], main) == 0
    assert "symmetry" in capsys.readouterr().out
    for folder in (
        "toy-bert.localise",
        "toy-bert.suppress.determiners",
        "toy-bert.suppress.reflexives",
        "toy-gpt2.trace",
        "llama.trace",
    ):
        assert json.loads((tmp_path / "paper" / folder / "analysis.json").read_text())["parts"]["count"] > 0
    assert len(list((tmp_path / "paper").glob("*.edits/*/*/result.json"))) == 7 * (3 + 3 + 2)
