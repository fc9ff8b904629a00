"""Benchmark of the fast implementations against the reference implementations: ``make bench``.

Each line gives the median seconds of both, their ratio, and the largest relative difference of their results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from knbench.benchmark import editing
from knbench.benchmark.analyses.tracing import KINDS, TraceSettings, trace
from knbench.benchmark.core import registry
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.registry import task
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.editing import build_editor
from knbench.benchmark.models.attribution import ROWS, Integral, attributions
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.models.weights import WeightMonitor
from knbench.benchmark.probing.abilities import Abilities
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.running.environment import PeakMemory
from knbench.editors.rome import Rome, RomeConfig
from knbench.editors.shared.value_vectors import value_vectors
from rich.console import Console
from rich.table import Table

from tests.conftest import train_tokenizer
from tests.performance.board import board_lines
from tests.performance.overhead import CASES, overhead_table, share_line
from tests.references.slow_attribution import slow_attributions
from tests.references.slow_masked import slow_fill, slow_masked_answer
from tests.references.slow_probing import slow_answer
from tests.references.slow_rome import slow_value_vector
from tests.references.slow_tracing import slow_effects

REQUESTS = [
    EditRequest("The capital of {} is", country, new, true)
    for country, new, true in (
        ("Canada", "Rome", "Ottawa"),
        ("France", "Tokyo", "Paris"),
        ("Germany", "Madrid", "Berlin"),
        ("Egypt", "Lima", "Cairo"),
        ("Japan", "Oslo", "Tokyo"),
        ("Peru", "Cairo", "Lima"),
        ("Norway", "Paris", "Oslo"),
        ("Spain", "Berlin", "Madrid"),
    )
]


def timed(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    start = clock()
    result = action()
    return clock() - start, result


def compare(
    fast: Callable[[], Any], slow: Callable[[], Any], differ: Callable[[Any, Any], float], rounds: int
) -> tuple[float, float, float, float]:
    """Run both alternately. Return the median seconds of each, the median ratio and the largest difference.

    With one thread these are seconds of the CPU, which other processes disturb less.
    """
    fast()
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times, largest = [], 0.0
    for _ in range(rounds):
        (a, x), (b, y) = timed(fast, clock), timed(slow, clock)
        times.append((a, b))
        largest = max(largest, differ(x, y))
    median = statistics.median
    return median(a for a, _ in times), median(b for _, b in times), median(b / a for a, b in times), largest


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm() / y.norm())


def rome(lm: Any, requests: Sequence[EditRequest], rounds: int) -> tuple[float, float, float, float]:
    editor = Rome(RomeConfig(layer=5, weight_decay=1e-3))
    contexts, objective = editor.contexts(lm), editor.config.objective

    def differ(fast: Any, slow: Any) -> float:
        return max(relative(f.value, s["value"]) for f, s in zip(fast, slow, strict=True))

    return compare(
        lambda: value_vectors(lm, requests, 5, contexts, objective),
        lambda: [slow_value_vector(lm, request, 5, contexts, objective) for request in requests],
        differ,
        rounds,
    )


def probing(lm: Any, rounds: int) -> tuple[float, float, float, float]:
    probes = [probe for case in task("capital").cases[:6] for probe in case.probes]
    prober = make_prober(lm, new_tokens=0)

    def differ(fast: Any, slow: Any) -> float:
        return max(
            abs(getattr(f, side).logprob - s[side]["logprob"]) for f, s in zip(fast, slow, strict=True) for side in s
        )

    return compare(
        lambda: prober.observe(probes),
        lambda: [{s: slow_answer(lm, p.prompt, getattr(p, s)) for s in ("target", "rival")} for p in probes],
        differ,
        rounds,
    )


def probing_a_case(lm: Any, rounds: int) -> tuple[float, float, float, float]:
    """Compare packed rows and cached states with padded rows and ``generate``, with continuations of six tokens."""
    probes, fast, plain = task("capital").cases[0].probes, make_prober(lm), make_prober(lm)
    plain.__dict__["abilities"] = Abilities()

    def differ(a: Any, b: Any) -> float:
        if [o.generated for o in a] != [o.generated for o in b]:
            raise AssertionError("the continuations differ")
        return max(abs(x.target.logprob - y.target.logprob) for x, y in zip(a, b, strict=True))

    return compare(lambda: fast.observe(probes), lambda: plain.observe(probes), differ, rounds)


def masked_probing(rounds: int) -> tuple[float, float, float, float]:
    """Compare a case on a random model of BERT base's shape with one pass per token."""
    torch.manual_seed(0)
    toy = load_model("toy-bert")
    model = transformers.BertForMaskedLM(transformers.BertConfig()).eval()
    lm = LanguageModel(model, toy.tokenizer, family_of("BertForMaskedLM"), name="bert-base-shape")
    probes, prober = task("capital").cases[0].probes, make_prober(lm)

    def slow() -> list[tuple[float, str]]:
        found = []
        for probe in probes:
            logprob, _ = sum(slow_masked_answer(lm, probe, probe.target)), slow_masked_answer(lm, probe, probe.rival)
            found.append((logprob, slow_fill(lm, probe)))
        return found

    def differ(fast: Any, other: Any) -> float:
        if [o.generated for o in fast] != [text for _, text in other]:
            raise AssertionError("the filled masks differ")
        return max(abs(o.target.logprob - logprob) for o, (logprob, _) in zip(fast, other, strict=True))

    return compare(lambda: prober.observe(probes), slow, differ, rounds)


def scoring(count: int) -> str:
    """Time ``knbench score`` on ``count`` records with ten probes each, in a separate process without torch."""
    from tests.performance.records import write_run

    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), count)
        code = "import sys; from knbench.benchmark.commands.main import main; main(); sys.exit('torch' in sys.modules)"
        command = [sys.executable, "-c", code, "score", folder, "--any-version"]
        seconds, _ = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    return f"scoring {count:,} records: {seconds:.1f} s, without a model"


def gpt2_small() -> LanguageModel:
    """Return a random model of the shape of GPT-2 small: 12 layers, width 768, 3072 neurons, 50257 tokens."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    return LanguageModel(model, train_tokenizer(bos=False), family_of("GPT2LMHeadModel"), name="gpt2-small-shape")


def attribution(lm: LanguageModel, tokens: int, rounds: int) -> tuple[float, float, float, float]:
    prompt, integral = " ".join(["the"] * (tokens - 1)), Integral()  # the first "the" has two tokens
    (question,) = lm.token_queries(prompt, "is", ".")
    if len(question.ids) != tokens:
        raise AssertionError(f"the prompt has {len(question.ids)} tokens, not {tokens}")

    def differ(fast: torch.Tensor, slow: torch.Tensor) -> float:
        return float((fast - slow).abs().max() / slow.abs().max())

    return compare(
        lambda: attributions(lm, prompt, "is", integral),
        lambda: slow_attributions(lm, prompt, "is", integral),
        differ,
        rounds,
    )


def rows(lm: LanguageModel, rounds: int) -> tuple[float, float, float, float]:
    """Compare the rows of a pass that follow the model's shape with their least number."""
    prompt, integral = REQUESTS[0].text, Integral()
    return compare(
        lambda: attributions(lm, prompt, REQUESTS[0].target_true or "", integral),
        lambda: attributions(lm, prompt, REQUESTS[0].target_true or "", integral, rows=ROWS),
        relative,
        rounds,
    )


def verification(lm: LanguageModel, rounds: int) -> tuple[float, float, float, float]:
    """Compare the check after a case with the hash of all weights."""
    monitor, name = WeightMonitor(lm.model), lm.mlp_weight_name(5)
    return compare(
        lambda: monitor.changed([name]),
        lambda: [] if lm.fingerprint() == monitor.fingerprint else ["all"],
        lambda quick, complete: float(quick != complete),
        rounds,
    )


def tracing(lm: LanguageModel) -> tuple[float, float, float, float]:
    """Trace one prompt with ten noise samples: single states, MLP windows and attention windows."""
    settings, request = TraceSettings(), REQUESTS[0]

    def differ(fast: Any, slow: Any) -> float:
        return max(float((fast.effects[kind] - slow[kind]).abs().max()) for kind in KINDS)

    return compare(
        lambda: trace(lm, request, 0.1, settings), lambda: slow_effects(lm, request, 0.1, settings), differ, 1
    )


def memory(name: str) -> str:
    """Return as JSON the memory in MB that one edit needs in addition to the model and the process before it."""
    lm = load_model("smollm2-135m")
    editor, _ = build_editor(editing.editor_class(name), lm)
    editor.prepare(lm, Reporter())
    request = registry.task("capital").cases[0].request
    size = sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**20
    peak, before = PeakMemory("cpu"), psutil.Process().memory_info().rss / 2**20
    seconds, _ = timed(lambda: editor.edit(lm, [request]))
    return json.dumps({"model": size, "more": peak.megabytes() - before, "seconds": seconds})


def memory_table() -> Table:
    """Measure each editor in a separate process. Methods that are trained before their first edit are left out."""
    table = Table(title="Peak memory of one edit, SmolLM2-135M", title_justify="left")
    for column in ("editor", "additional MB", "relative to the model", "s"):
        table.add_column(column, justify="left" if column == "editor" else "right")
    for name in registry.registered(registry.EDITORS):
        if editing.editor_class(name).trains:
            table.add_row(name, "", "", "is trained first")
            continue
        command = [sys.executable, "-m", "tests.performance.bench", "--memory-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        share = f"{100 * found['more'] / found['model']:.0f}%"
        table.add_row(name, f"{found['more']:.0f}", share, f"{found['seconds']:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="number of threads; with 1, seconds of the CPU are measured")
    parser.add_argument("--only", metavar="WORD", help="print only the comparisons whose name contains a word")
    parser.add_argument("--memory-of", metavar="EDITOR", help="print the peak memory of one editor as JSON and exit")
    args = parser.parse_args()
    if args.memory_of:
        print(memory(args.memory_of))
        return
    rounds = args.rounds
    torch.set_num_threads(args.threads or torch.get_num_threads())
    lm = load_model("smollm2-135m")
    small = gpt2_small()
    table = Table(title=f"{lm.name}, {torch.get_num_threads()} threads, {rounds} rounds", title_justify="left")
    for name in ("computation", "fast s", "slow s", "ratio", "largest difference"):
        table.add_column(name, justify="left" if name == "computation" else "right")
    for name, measure in (
        ("ROME v*, 21 contexts, one request", lambda: rome(lm, REQUESTS[:1], rounds)),
        ("ROME v*, 21 contexts, eight requests together", lambda: rome(lm, REQUESTS, rounds)),
        ("KN attribution, GPT-2 small's shape, 5 tokens", lambda: attribution(small, 5, rounds)),
        ("KN attribution, GPT-2 small's shape, 21 tokens", lambda: attribution(small, 21, rounds)),
        ("KN attribution of a prompt, rows of a pass", lambda: rows(lm, rounds)),
        ("verification after an edit of one matrix", lambda: verification(lm, rounds)),
        ("probing 60 probes, log-probabilities", lambda: probing(lm, rounds)),
        ("probing a case with continuations", lambda: probing_a_case(lm, rounds)),
        ("masked probing of a case, BERT base's shape", lambda: masked_probing(rounds)),
        ("causal tracing of one prompt, one round", lambda: tracing(lm)),
    ):
        if args.only and args.only not in name:
            continue
        fast, slow, ratio, largest = measure()
        table.add_row(name, f"{fast:.2f}", f"{slow:.2f}", f"{ratio:.1f}", f"{largest:.1e}")
    Console(width=110).print(table)
    if args.only:
        return
    print(scoring(10_000))
    print("\n".join(board_lines()))
    Console(width=110).print(memory_table())
    print(share_line(CASES))
    Console(width=110).print(overhead_table())


if __name__ == "__main__":
    main()
