"""Runs the experiments of Niu et al. (2024) and prints their tables: ``python -m tools.paper --pararel FILE``.

Facts of ParaRel are edited on causal models by ROME and by knowledge neurons, and judged by symmetry (P36, P1376) and
synonymous invariance (P101). On masked models, knowledge neurons are located and suppressed, for facts and for
phenomena.
docs/data.md says which experiment of the paper each command belongs to.

Everything is resumable: start the same command to continue. The models of the paper need the hub and a GPU; other
models take their place with ``--causal`` and ``--masked``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CAUSAL = ("gpt2-xl", "llama-2-7b")
MASKED = ("bert-base-cased",)
EDITED = ("pararel:P36", "pararel:P1376", "pararel:P101")
TRACED = (*EDITED, "mother-tongue")
LOCATED = ("capital", "capital-inverse", "field-of-work", "mother-tongue")
"""P36, P1376, P101 and P103 as built-in tasks, whose cases state further wordings, as localisation needs."""
SUPPRESSED = {"det-noun-agreement": "determiners", "anaphor-gender": "reflexives"}
"""Tasks whose neurons are suppressed, with the class of words whose probabilities are compared."""
PHENOMENA = ("det-noun-agreement", "subject-verb-agreement", "anaphor-gender", "anaphor-number")

Main = Callable[[list[str]], None]


def commands(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the arguments of each ``knbench`` command, in the order of the paper's sections."""
    data = ["--data", f"pararel={options.pararel}"]
    device = ["--device", options.device]
    limit = ["--limit", str(options.limit)] if options.limit else []
    every = ["--all-cases"] if options.all_cases else []
    located = ",".join((*LOCATED, *PHENOMENA))
    # Suppression compares at least two cases.
    pairs = ["--limit", str(max(options.limit, 2))] if options.limit else []
    fast = ["--steps", str(options.steps)] if options.steps else []
    for model in options.masked:
        output = ["--output", str(_folder(options.output, model, "localise"))]
        yield ["localise", "--model", model, "--tasks", located, *device, *every, *fast, *output]
        for task, words in SUPPRESSED.items():
            output = ["--output", str(_folder(options.output, model, f"suppress.{words}"))]
            yield [
                "suppress", "--model", model, "--tasks", task, "--words", words, *device, *every, *pairs, *output
            ]  # fmt: skip
    for model in options.causal:
        output = ["--output", str(_folder(options.output, model, "trace"))]
        yield ["trace", "--model", model, "--tasks", ",".join(TRACED), *data, *device, *every, *limit, *output]
    for model in (*options.causal, *options.masked):
        editors = "none,kn,rome" if model in options.causal else "none,kn"
        tasks = ",".join((*EDITED, *PHENOMENA))
        output = ["--output", str(_folder(options.output, model, "edits"))]
        yield ["run", "--model", model, "--editors", editors, "--tasks", tasks, *data, *device, *limit, *output]
    for model in (*options.causal, *options.masked):
        yield [
            "score",
            str(_folder(options.output, model, "edits")),
            "--any-version",
            "--markdown",
            "--protocol",
            "paper",
        ]


def _folder(output: Path, model: str, part: str) -> Path:
    return output / f"{Path(model).name}.{part}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.paper", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pararel", required=True, type=Path, help="ParaRel, data_all_allbags.json")
    parser.add_argument("--causal", nargs="*", default=CAUSAL, help=f"causal models (default: {' '.join(CAUSAL)})")
    parser.add_argument("--masked", nargs="*", default=MASKED, help=f"masked models (default: {' '.join(MASKED)})")
    parser.add_argument("--limit", type=int, help="maximum number of cases per task, for quick trials")
    parser.add_argument("--steps", type=int, help="steps of integrated gradients (default: those of knbench localise)")
    parser.add_argument("--all-cases", action="store_true", help="also locate facts that the model does not know")
    parser.add_argument("--device", default="auto", help="a torch device (default: auto)")
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), help="folder of all runs and analyses")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    options = parser.parse_args(arguments)
    if not options.pararel.is_file():
        parser.error(f"--pararel: no file '{options.pararel}'; give the filled ParaRel of the knowledge-neuron papers")
    return options


def run(arguments: Sequence[str], main: Main) -> int:
    """Run all commands and return 0, or stop at the first that fails and return its exit status.

    Args:
        arguments: the command line.
        main: runs one ``knbench`` command; it may raise ``SystemExit``.
    """
    options = parse(arguments)
    for command in commands(options):
        print("knbench", *command, flush=True)
        status = 0 if options.dry_run else _status(main, command)
        if status:
            print(f"stopped: knbench {command[0]} ended with status {status}", file=sys.stderr)
            return status
    return 0


def _status(main: Main, command: list[str]) -> int:
    try:
        main(command)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    from knbench.benchmark.commands.main import main

    sys.exit(run(sys.argv[1:], main))
