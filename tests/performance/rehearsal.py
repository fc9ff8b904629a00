"""Edits models of the width of large ones with random weights and few layers: peak memory against the model's size.

Usage: python -m tests.performance.rehearsal [--shape llama-2-7b] [--layers 3] [--editors rome,memit,kn,alphaedit]

Each editor runs in a process of its own. Its peak is the highest memory of the process, less that before the edit. The
first edit reads or computes statistics; the second one is the steady state of a run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from knbench.benchmark.core import registry
from knbench.benchmark.core.progress import Reporter
from knbench.benchmark.core.schema import EditRequest, Support
from knbench.benchmark.editing import build_editor, editor_class
from knbench.benchmark.models.families import family_of
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.probing.prober import make_prober
from knbench.benchmark.running.environment import PeakMemory
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.conftest import SENTENCES, train_tokenizer

SHAPES = ("gpt2-xl", "llama-2-7b")
REQUEST = EditRequest(
    "The capital of {} is", "Canada", "Rome", "Ottawa", (Support("Canada is ruled from", "Ottawa"),) * 2
)
ARGUMENTS = {"rome": {"layer": "1", "steps": "3"}, "memit": {"layers": "0|1", "steps": "3"}}
ARGUMENTS["alphaedit"] = ARGUMENTS["memit"]


def model_of(shape: str, layers: int) -> LanguageModel:
    """Return a model with random weights in the full width and vocabulary of a shape."""
    tokenizer = train_tokenizer(bos=False)
    torch.manual_seed(0)
    model: Any
    if shape == "gpt2-xl":
        model = GPT2LMHeadModel(GPT2Config(n_embd=1600, n_head=25, n_layer=layers, vocab_size=50257))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=4096,
                intermediate_size=11008,
                num_attention_heads=32,
                num_hidden_layers=layers,
                vocab_size=32000,
                bos_token_id=None,
                eos_token_id=0,
            )
        )
    return LanguageModel(model, tokenizer, family_of(type(model).__name__), name=shape)


def corpus(lm: LanguageModel, folder: Path) -> dict[str, str]:
    """Return the options for a corpus of random words, of just enough tokens for regular second moments."""
    draw, words = random.Random(0), sorted(set(" ".join(SENTENCES).split()))
    path = folder / "words.txt"
    path.write_text(" ".join(draw.choice(words) for _ in range(4 * lm.n_neurons)), encoding="utf-8")
    return {"corpus": str(path), "corpus_tokens": str(5 * lm.n_neurons // 4), "corpus_length": "128"}


def measured(shape: str, layers: int, name: str) -> dict[str, float]:
    """Return the size of the model and the additional peak memory in MiB, and the seconds, of each step."""
    lm = model_of(shape, layers)
    found = {"model": sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 2**20}

    def step(label: str, action: Any) -> None:
        peak = PeakMemory("cpu")
        before, start = peak.megabytes(), time.perf_counter()
        action()
        found[f"{label} MB"] = peak.megabytes() - before
        found[f"{label} s"] = time.perf_counter() - start

    if name == "probing":
        prober = make_prober(lm, new_tokens=6)
        probes = [probe for case in registry.task("capital").cases[:8] for probe in case.probes]
        step("first", lambda: prober.observe(probes))
        return found
    with tempfile.TemporaryDirectory() as folder:
        options = {**ARGUMENTS[name], **corpus(lm, Path(folder))} if name in ARGUMENTS else {}
        editor, _ = build_editor(editor_class(name), lm, options)
        step("prepare", lambda: editor.prepare(lm, Reporter()))
    for label in ("first", "second"):
        step(label, lambda: editor.edit(lm, [REQUEST]))
    return found


def main() -> None:
    """Print one line per editor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-xl")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--editors", default="probing,rome,kn,memit,alphaedit")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.shape, args.layers, args.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in args.editors.split(","):
            command = [sys.executable, "-m", "tests.performance.rehearsal", "--shape", args.shape, "--one", name]
            command += ["--layers", str(args.layers)]
            environment = {**os.environ, "KNBENCH_CACHE": str(Path(folder))}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                print(f"{args.shape} {name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            cells = [f"{key} {value:.0f}" for key, value in found.items()]
            print(f"{args.shape}, {args.layers} layers, {name}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
