"""Trains the toy models that the package contains: ``python -m tools.train_toy_models``.

``toy-gpt2`` and ``toy-bert`` are trained from random weights on the true sentences of the built-in tasks and on nothing
else. Training takes two to six minutes per model on one CPU core. The weights are stored in float16, which halves their
size and does not change the answers that the models know.

The script must run again when the content of a built-in task changes. ``training.json`` beside the weights contains a
digest of the training configuration and of all statements, and a test compares it with the current one.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from knbench.benchmark.core import registry
from knbench.benchmark.core.files import write_json
from knbench.benchmark.core.schema import Task, digest
from knbench.benchmark.models.toy import (
    TRAINING,
    WEIGHTS,
    ToyKind,
    causal_tokenizer,
    masked_tokenizer,
    toy_folder,
)
from torch import Tensor, nn

Report = Callable[[float], None]

# --- statements --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """A true sentence: ``prompt``, ``target`` and ``suffix``. A sentence without a prompt is all target.

    Attributes:
        weight: average number of times that one epoch shows the statement.
    """

    prompt: str
    target: str
    suffix: str
    weight: float = 1.0

    @property
    def text(self) -> str:
        """The whole sentence."""
        return _join(self.prompt, self.target, self.suffix)


def _join(prompt: str, target: str, suffix: str) -> str:
    return f"{prompt} {target}{suffix}" if prompt else target + suffix


def true_statements(
    tasks: Iterable[Task], *, request: float = 3.0, other: float = 0.5, linguistic: float = 0.25
) -> tuple[Statement, ...]:
    """Return the sentences of the tasks that are true before any edit, each once, in a fixed order.

    In a fact task a prompt has one true target. If two differ, the target of an edit request takes precedence,
    otherwise the first. In a linguistic task a prompt may have several targets, since only their form matters.

    Args:
        tasks: the tasks that provide the sentences.
        request: weight of a sentence that an edit request changes.
        other: weight of any other sentence that states a fact.
        linguistic: weight of a sentence that shows a phenomenon. These are many and follow few rules.
    """
    statements: dict[str, Statement] = {}
    target_of: dict[str, str] = {}
    ordered = sorted(tasks, key=lambda task: task.name)
    for requests in (True, False):  # all requests precede all probes, because they take precedence
        for task in ordered:
            fact = task.kind == "fact"
            weight = (request if requests else other) if fact else linguistic
            for prompt, target, suffix in _request_sentences(task) if requests else _probe_sentences(task):
                text = _join(prompt, target, suffix)
                if text in statements or (fact and prompt and target_of.setdefault(prompt, target) != target):
                    continue
                statements[text] = Statement(prompt, target, suffix, weight)
    return tuple(statements.values())


def built_in_tasks() -> tuple[Task, ...]:
    """Return the tasks of this project, without those of plug-ins."""
    tasks: Iterable[Task] = registry.load(registry.registered(registry.TASKS)["builtin"])()
    return tuple(tasks)


def _request_sentences(task: Task) -> Iterator[tuple[str, str, str]]:
    for case in task.cases:
        text = case.request.text
        # A request has no suffix; the probe with the same prompt has one.
        suffix = next((probe.suffix for probe in case.probes if probe.prompt == text), ".")
        yield text, case.request.target_true, suffix


def _probe_sentences(task: Task) -> Iterator[tuple[str, str, str]]:
    for case in task.cases:
        for support in case.request.support:
            yield support.prompt, support.target, support.suffix
        for probe in case.probes:
            true_target = probe.rival if probe.expect == "new" else probe.target
            yield probe.prompt, true_target, "" if probe.kind == "minimal_pair" else probe.suffix
    for pair in task.pairs:
        yield "", pair["sentence_good"], ""


# --- configuration -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingConfig:
    """Architecture and training parameters of a toy model.

    Attributes:
        version: incremented when a change of this script changes the weights for the same values.
        seed: seed of the initial weights and of all sampling.
        threads: number of torch threads. One is nearly as fast for matrices of this size and is available everywhere.
        vocabulary: number of tokens. Most names have one or two.
        layers: number of transformer blocks.
        width: hidden size.
        mlp_width: hidden size of the MLPs.
        heads: number of attention heads.
        positions: maximum number of tokens.
        epochs: number of passes over the statements, each repeated according to its weight.
        batch: rows per optimiser step.
        learning_rate: maximum learning rate. It decays to 0 at the end.
        warmup: share of the training in which the learning rate rises to its maximum.
        decay_power: exponent of the decay. 1 is linear; a lower value keeps the rate high for longer.
        target_weight: loss weight of a target's tokens. Other tokens have weight 1.
        label_smoothing: probability that is distributed over all tokens, which keeps the model from becoming certain.
        single_share: share of the rows that contain only one statement. In the others an end-of-text token or another
            statement precedes it, so the model also learns its facts there.
        init_std: standard deviation of the initial weights.
        loss_share: share of the tokens outside a target that contribute to the loss, to save time. For a masked model
            this applies to dense epochs.
        plain_share: share of the epochs, the last ones, in which a masked model reads texts that contain masks, as in
            probing. Earlier epochs are dense, see :class:`_MaskedRows`.
        target_only_share: share of the rows of a plain epoch whose masks cover the target alone. Half of the remaining
            rows have masks on the target and elsewhere, the other half only elsewhere.
        mask_share: share of the tokens outside a target that are masked in those rows.
    """

    version: int = 1
    seed: int = 0
    threads: int = 1
    vocabulary: int = 3072
    layers: int = 4
    width: int = 128
    mlp_width: int = 512
    heads: int = 4
    positions: int = 128
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 3e-3
    warmup: float = 0.05
    decay_power: float = 1.0
    target_weight: float = 3.0
    label_smoothing: float = 0.02
    single_share: float = 0.6
    init_std: float = 0.02
    loss_share: float = 0.35
    plain_share: float = 0.2
    target_only_share: float = 0.5
    mask_share: float = 0.15


CONFIGS: Mapping[ToyKind, TrainingConfig] = {
    "gpt2": TrainingConfig(),
    "bert": TrainingConfig(
        version=2,
        layers=3,
        epochs=5,
        learning_rate=2e-3,
        decay_power=0.8,
        init_std=0.06,
        target_weight=2.0,
        single_share=0.8,
        loss_share=0.3,
    ),
}


def training_digest(kind: ToyKind, statements: Sequence[Statement]) -> str:
    """Return a sha256 over the configuration and the statements, which with machine and libraries fix the weights."""
    return digest([kind, vars(CONFIGS[kind]), [[s.prompt, s.target, s.suffix, s.weight] for s in statements]])


# --- rows --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Encoded:
    """Token ids of a statement without special tokens, and the range of its target (empty for a whole sentence)."""

    ids: tuple[int, ...]
    target: range


def _encode(tokenizer: Any, statements: Sequence[Statement], *, inside: bool) -> list[_Encoded]:
    """Encode statements as they appear at the start of a text or, with ``inside``, after a space."""
    lead = " " if inside else ""
    texts = [lead + s.text for s in statements]
    batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    encoded = []
    for statement, ids, spans in zip(statements, batch.input_ids, batch.offset_mapping, strict=True):
        start, end = len(lead + statement.prompt), len(lead + statement.text) - len(statement.suffix)
        hits = [i for i, (a, b) in enumerate(spans) if statement.prompt and a >= start and b <= end]
        encoded.append(_Encoded(tuple(ids), range(hits[0], hits[-1] + 1) if hits else range(0)))
    return encoded


@dataclass(frozen=True)
class _Visibility:
    """Attention mask and positions of a dense row.

    A token attends to itself and to every token whose ``order`` is at most its own ``limit``.

    Attributes:
        positions: position id of each token.
        order: rank at which each token becomes visible; ``_INVISIBLE`` for tokens that no other token attends to.
        limit: highest rank that each token attends to.
    """

    positions: tuple[int, ...]
    order: tuple[int, ...]
    limit: tuple[int, ...]


_INVISIBLE = 1 << 20


@dataclass(frozen=True)
class _Row:
    """A training text.

    Attributes:
        ids: input token ids.
        labels: token to predict and its loss weight, by input position.
        visibility: custom attention, or None for the attention of the model.
    """

    ids: tuple[int, ...]
    labels: Mapping[int, tuple[int, float]]
    visibility: _Visibility | None = None


class _Rows:
    """Samples the rows of an epoch: statements alone, at the start of a text, and after another statement."""

    def __init__(self, tokenizer: Any, statements: Sequence[Statement], config: TrainingConfig) -> None:
        self.weights = [s.weight for s in statements]
        self.at_start = _encode(tokenizer, statements, inside=False)
        self.inside = _encode(tokenizer, statements, inside=True)
        self.tokenizer = tokenizer
        self.config = config

    def batches(self, rng: random.Random, *, plain: bool) -> list[list[_Row]]:
        """Return the batches of an epoch. Rows of similar length share a batch, which keeps padding low."""
        indices = [i for i, weight in enumerate(self.weights) for _ in range(int(weight + rng.random()))]
        rng.shuffle(indices)
        rows = sorted((self._row(i, rng, plain=plain) for i in indices), key=lambda row: len(row.ids))
        size = self.config.batch
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(batches)
        return batches

    def _row(self, index: int, rng: random.Random, *, plain: bool) -> _Row:
        raise NotImplementedError


class _CausalRows(_Rows):
    """Rows for a model that predicts the next token."""

    def _row(self, index: int, rng: random.Random, *, plain: bool) -> _Row:  # noqa: ARG002
        end, draw = self.tokenizer.eos_token_id, rng.random()
        statement = self.at_start[index]
        prefix: tuple[int, ...] = ()
        if draw >= self.config.single_share:
            prefix = (end,)
        if draw >= (1 + self.config.single_share) / 2:
            statement, prefix = self.inside[index], self.at_start[rng.randrange(len(self.at_start))].ids
        ids = (*prefix, *statement.ids, end)
        share = self.config.loss_share if statement.target else 1.0
        labels = {i: (token, 1.0) for i, token in enumerate(ids[1:]) if rng.random() < share}
        for i in statement.target:
            position = len(prefix) + i
            labels[position - 1] = ids[position], self.config.target_weight
        return _Row(ids, labels)


class _MaskedRows(_Rows):
    """Rows for a model that fills masks.

    A text that contains masks trains so few tokens that a short training teaches hardly any fact. A dense row trains
    many: masks follow its text, each with the position id of a token, and no other token attends to them. Each mask
    attends to the tokens that precede its own in the row's order. The tokens of the text attend to no later token
    either, since they would otherwise leak it. This is the two-stream attention of XLNet (Yang et al. 2019) within one
    stack of layers. In half of the rows the order is that of the text; in the other half the target comes last.

    A plain row has masks in its text: on the target from one of its tokens to its end, as in probing, or elsewhere.
    """

    def _row(self, index: int, rng: random.Random, *, plain: bool) -> _Row:
        tokenizer, config = self.tokenizer, self.config
        statement = self.at_start[index]
        prefix: tuple[int, ...] = (tokenizer.cls_token_id,)
        if rng.random() >= config.single_share:
            statement, prefix = self.inside[index], (*prefix, *self.at_start[rng.randrange(len(self.at_start))].ids)
        ids = (*prefix, *statement.ids, tokenizer.sep_token_id)
        if not plain:
            target = range(len(prefix) + statement.target.start, len(prefix) + statement.target.stop)
            return self._dense(ids, target, rng)
        draw = rng.random() if statement.target else 1.0
        weights = {}
        if draw >= config.target_only_share:
            count = max(1, round(config.mask_share * len(statement.ids)))
            weights = dict.fromkeys(rng.sample(range(len(statement.ids)), count), 1.0)
        if draw < (1 + config.target_only_share) / 2:
            first = rng.randrange(len(statement.target))
            weights |= dict.fromkeys(statement.target[first:], config.target_weight)
        labels = {len(prefix) + i: (statement.ids[i], weight) for i, weight in weights.items()}
        return _Row(tuple(tokenizer.mask_token_id if i in labels else token for i, token in enumerate(ids)), labels)

    def _dense(self, ids: tuple[int, ...], target: range, rng: random.Random) -> _Row:
        positions = range(len(ids))
        sequence = tuple(positions)
        if target and rng.random() < 0.5:
            sequence = (*positions[: target.start], *positions[target.stop :], *target)
        order = {position: rank for rank, position in enumerate(sequence)}
        share = self.config.loss_share if target else 1.0
        weights = {position: 1.0 for position in positions[1:-1] if rng.random() < share}
        weights |= dict.fromkeys(target, self.config.target_weight)
        visibility = _Visibility(
            positions=(*positions, *weights),
            order=(*(order[p] for p in positions), *(_INVISIBLE for _ in weights)),
            limit=(*(order[p] for p in positions), *(order[p] - 1 for p in weights)),
        )
        labels = {len(ids) + i: (ids[p], weight) for i, (p, weight) in enumerate(weights.items())}
        return _Row((*ids, *(self.tokenizer.mask_token_id for _ in weights)), labels, visibility)


# --- models ------------------------------------------------------------------------------------------------------


def _gpt2(tokenizer: Any, config: TrainingConfig) -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=config.width,
            n_inner=config.mlp_width,
            n_layer=config.layers,
            n_head=config.heads,
            n_positions=config.positions,
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=config.init_std,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _bert(tokenizer: Any, config: TrainingConfig) -> Any:
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=config.init_std,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@dataclass(frozen=True)
class _Architecture:
    """The parts in which the toy models differ: tokenizer, model class, training rows, name of the output head."""

    tokenizer: Callable[[Iterable[str], int], Any]
    build: Callable[[Any, TrainingConfig], Any]
    rows: type[_Rows]
    head: str


_ARCHITECTURES: Mapping[ToyKind, _Architecture] = {
    "gpt2": _Architecture(causal_tokenizer, _gpt2, _CausalRows, "lm_head"),
    "bert": _Architecture(masked_tokenizer, _bert, _MaskedRows, "cls"),
}


# --- training ----------------------------------------------------------------------------------------------------


@contextmanager
def _reproducible(config: TrainingConfig) -> Iterator[None]:
    """Make torch's results depend on the seed alone, and restore its settings afterwards."""
    flags: Any = torch.utils.deterministic
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only, fill = torch.is_deterministic_algorithms_warn_only_enabled(), flags.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)  # threads share the terms of a sum, so their number changes last bits
        torch.use_deterministic_algorithms(True)
        flags.fill_uninitialized_memory = False  # costs a tenth of the time and changes no result
        try:
            yield
        finally:
            flags.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            torch.set_num_threads(threads)


def train(
    kind: ToyKind,
    statements: Sequence[Statement],
    config: TrainingConfig | None = None,
    report: Report = lambda _: None,
) -> tuple[Any, Any]:
    """Train a toy model from random weights.

    On one machine the same arguments give the same weights, bit for bit. The random state, number of threads and other
    settings of torch are restored.

    Args:
        kind: ``gpt2`` predicts the next token, ``bert`` fills masks.
        statements: the training sentences.
        config: defaults to the entry of :data:`CONFIGS`.
        report: called after each step with the completed share of the training.

    Returns:
        The float32 model, in evaluation mode, and its tokenizer.
    """
    config, architecture = config or CONFIGS[kind], _ARCHITECTURES[kind]
    texts = [s.text for s in statements] + [" " + s.text for s in statements]
    tokenizer = architecture.tokenizer(texts, config.vocabulary)
    rows, rng = architecture.rows(tokenizer, statements, config), random.Random(config.seed)
    with _reproducible(config):
        model = architecture.build(tokenizer, config).train()
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
        for epoch in range(config.epochs):
            batches = rows.batches(rng, plain=epoch + 1 > config.epochs * (1 - config.plain_share))
            for i, batch in enumerate(batches):
                done = (epoch + i / len(batches)) / config.epochs
                for group in optimiser.param_groups:
                    group["lr"] = (
                        config.learning_rate * min(done / config.warmup, 1.0) * (1 - done) ** config.decay_power
                    )
                loss: Any = _loss(model, architecture.head, batch, config.label_smoothing)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                optimiser.zero_grad()
                report((epoch + (i + 1) / len(batches)) / config.epochs)
    return model.eval(), tokenizer


def _loss(model: Any, head: str, batch: Sequence[_Row], label_smoothing: float) -> Tensor:
    """Return the weighted mean cross-entropy of a batch. The head is computed at labelled positions only."""
    ids = _pad([row.ids for row in batch], 0)
    width = ids.shape[1]
    inputs: dict[str, Tensor] = {"attention_mask": _pad([[1] * len(row.ids) for row in batch], 0)}
    visibilities = [row.visibility for row in batch if row.visibility]
    if visibilities:
        order = _pad([v.order for v in visibilities], _INVISIBLE)[:, None, None, :]
        limit = _pad([v.limit for v in visibilities], -1)[:, None, :, None]
        hidden = (order > limit) & ~torch.eye(width, dtype=torch.bool)
        lowest = torch.finfo(torch.float32).min
        inputs["attention_mask"] = torch.zeros(hidden.shape).masked_fill(hidden, lowest)
        inputs["position_ids"] = _pad([v.positions for v in visibilities], 0)
    labels = [(i * width + at, *label) for i, row in enumerate(batch) for at, label in row.labels.items()]
    positions = torch.tensor([position for position, _, _ in labels])
    tokens = torch.tensor([token for _, token, _ in labels])
    weights = torch.tensor([weight for _, _, weight in labels])
    body = model.base_model(input_ids=ids, **inputs)
    states = body.last_hidden_state.flatten(0, 1).index_select(0, positions)
    logits = model.get_submodule(head)(states)
    losses = nn.functional.cross_entropy(logits, tokens, reduction="none", label_smoothing=label_smoothing)
    return (losses * weights).sum() / weights.sum()


def _pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


# --- storage -----------------------------------------------------------------------------------------------------


def save(kind: ToyKind, model: Any, tokenizer: Any, statements: Sequence[Statement], folder: Path) -> None:
    """Write a model in float16, its tokenizer and ``training.json`` to a folder, and remove previous content."""
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / WEIGHTS).chmod(0o644)  # safetensors creates the file for its owner only
    weights = (folder / WEIGHTS).read_bytes()
    write_json(
        folder / TRAINING,
        {
            "training_digest": training_digest(kind, statements),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "statements": len(statements),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the toy models and replace the weights in the package."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    parser = argparse.ArgumentParser(description="Train the toy models and replace the weights in the package.")
    parser.add_argument("--kind", action="append", choices=list(CONFIGS), help="Model to train. Default: all.")
    kinds = parser.parse_args(arguments).kind or list(CONFIGS)
    statements = true_statements(built_in_tasks())
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for kind in kinds:
            bar = progress.add_task(f"toy-{kind}", total=1.0)

            def report(share: float, bar: TaskID = bar) -> None:
                progress.update(bar, completed=share)

            model, tokenizer = train(kind, statements, report=report)
            save(kind, model, tokenizer, statements, toy_folder(kind))


if __name__ == "__main__":
    main()
