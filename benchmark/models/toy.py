"""Tiny models that this project trains itself, on the built-in tasks.

``toy-gpt2`` and ``toy-bert`` are trained on first use, on the true sentences of the built-in tasks and on nothing else.
They then know most of what is asked here, and no more of English. They run everywhere, without a download, and serve to
try out editors, plug-ins and masked models; what an editor does to them says little of what it does to a real model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from ..core import registry
from ..core.errors import unknown_name
from ..core.schema import Task, digest

ToyKind = Literal["gpt2", "bert"]
Report = Callable[[float], None]

_END = "<|endoftext|>"
_FRAME = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# --- what is true ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """A true sentence: ``prompt``, ``target`` and ``suffix``; of a whole sentence the target is all.

    ``weight`` tells how often a pass over all statements shows it, on average.
    """

    prompt: str
    target: str
    suffix: str
    weight: float = 1.0

    @property
    def text(self) -> str:
        """The sentence as it is written."""
        return _written(self.prompt, self.target, self.suffix)


def _written(prompt: str, target: str, suffix: str) -> str:
    return f"{prompt} {target}{suffix}" if prompt else target + suffix


def true_statements(
    tasks: Iterable[Task], *, request: float = 3.0, other: float = 0.5, linguistic: float = 0.25
) -> tuple[Statement, ...]:
    """Return what is true in the tasks before any edit, each sentence once, always in the same order.

    Of a fact task a prompt has one true target: if two differ, that of an edit request holds, else the first.
    (That the same words go on in two ways is no contradiction where only their form is asked for.)

    Args:
        tasks: where the sentences come from.
        request: the weight of the sentence that an edit request would change.
        other: the weight of any other sentence that states a fact.
        linguistic: the weight of a sentence that shows a phenomenon; they are many and follow few rules.
    """
    found: dict[str, Statement] = {}
    settled: dict[str, str] = {}
    ordered = sorted(tasks, key=lambda task: task.name)
    for first in (True, False):  # the requests of all tasks go before every probe, since they settle what is true
        for task in ordered:
            fact = task.kind == "fact"
            weight = (request if first else other) if fact else linguistic
            for prompt, target, suffix in _requested(task) if first else _probed(task):
                text = _written(prompt, target, suffix)
                if text in found or (fact and prompt and settled.setdefault(prompt, target) != target):
                    continue
                found[text] = Statement(prompt, target, suffix, weight)
    return tuple(found.values())


def built_in_tasks() -> tuple[Task, ...]:
    """Return the tasks that come with this project, without those of plug-ins."""
    tasks: Iterable[Task] = registry.load(registry.registered(registry.TASKS)["builtin"])()
    return tuple(tasks)


def _requested(task: Task) -> Iterator[tuple[str, str, str]]:
    for case in task.cases:
        text = case.request.text
        # What follows the target is told by the probe of the same prompt.
        suffix = next((probe.suffix for probe in case.probes if probe.prompt == text), ".")
        yield text, case.request.target_true, suffix


def _probed(task: Task) -> Iterator[tuple[str, str, str]]:
    for case in task.cases:
        for support in case.request.support:
            yield support.prompt, support.target, support.suffix
        for probe in case.probes:
            true = probe.rival if probe.expect == "new" else probe.target
            yield probe.prompt, true, "" if probe.kind == "minimal_pair" else probe.suffix
    for pair in task.pairs:
        yield "", pair["sentence_good"], ""


# --- tokenizers --------------------------------------------------------------------------------------------------


def _byte_level(sentences: Iterable[str], special: Iterable[str], vocabulary: int) -> Any:
    """Train a byte-level BPE, which can write any text; the same sentences give the same one."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(list(sentences), trainer)
    return inner


def causal_tokenizer(sentences: Iterable[str], vocabulary: int) -> Any:
    """Return a tokenizer in the manner of GPT-2's: the end-of-text token is also BOS, and is not put first."""
    inner = _byte_level(sentences, [_END], vocabulary)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=_END, eos_token=_END)


def masked_tokenizer(sentences: Iterable[str], vocabulary: int) -> Any:
    """Return a cased tokenizer that frames a text as BERT's does, though its pieces are byte-level."""
    inner = _byte_level(sentences, _FRAME, vocabulary)
    frame = [(token, inner.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    pad, unknown, start, end, mask = _FRAME
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=pad,
        unk_token=unknown,
        cls_token=start,
        sep_token=end,
        mask_token=mask,
    )


# --- training ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a toy model is made.

    Attributes:
        version: goes up whenever the code below would make another model from the same values.
        seed: of the first weights and of all that is drawn.
        threads: with which torch computes; one is hardly slower for matrices so small, and suits any machine.
        vocabulary: number of tokens; most names are one or two.
        layers, width, mlp_width, heads, positions: the size of the model.
        passes: how often the statements are gone through, each as often as its weight says.
        batch: rows of a step.
        rate: highest learning rate, reached after the share ``warm_up`` of the training; it falls to 0 at the end.
        fall: power of the share still to come by which it falls; 1 is a straight line, less keeps it high for longer.
        target_weight: weight of a target's tokens in the loss, where others weigh 1.
        smoothing: probability that is spread over all tokens, so that the model does not become certain.
        alone: share of the rows that hold one statement only; before the others stands an end of text or another
            statement, so that the model knows its facts there, too.
        spread: standard deviation of the first weights.
        asked: share of the tokens outside a target that a model is asked for, to save time; a masked one in its dense
            passes.
        plain: share of the passes, the last ones, in which a masked model reads texts with masks in them, as it will be
            asked; before them its passes are dense, see :class:`_MaskedRows`.
        only_target: share of the rows of a plain pass in which masks stand on the target alone; of the others, half
            have masks elsewhere as well, half only elsewhere.
        hidden: share of the tokens that get masks then.
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
    passes: int = 4
    batch: int = 64
    rate: float = 3e-3
    warm_up: float = 0.05
    fall: float = 1.0
    target_weight: float = 3.0
    smoothing: float = 0.02
    alone: float = 0.6
    spread: float = 0.02
    asked: float = 0.35
    plain: float = 0.2
    only_target: float = 0.5
    hidden: float = 0.15


RECIPES: Mapping[ToyKind, Recipe] = {
    "gpt2": Recipe(),
    "bert": Recipe(
        version=2, layers=3, passes=5, rate=2e-3, fall=0.8, spread=0.06, target_weight=2.0, alone=0.8, asked=0.3
    ),
}


def toy_kind(text: str) -> ToyKind:
    """Return the kind of toy model that a catalogue entry names.

    Raises:
        KnbenchError: there is no such kind.
    """
    for kind in RECIPES:
        if text == kind:
            return kind
    raise unknown_name("kind of toy model", text, RECIPES)


def recipe_digest(kind: ToyKind, statements: Sequence[Statement]) -> str:
    """Return a sha256 over all that decides the weights of a toy model, but for the machine and its libraries."""
    said = [[s.prompt, s.target, s.suffix, s.weight] for s in statements]
    return digest([kind, vars(RECIPES[kind]), said])


@contextmanager
def _reproducible(recipe: Recipe) -> Iterator[None]:
    """Make torch's results depend on the seed alone, and leave its settings as they were."""
    flags: Any = torch.utils.deterministic
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only, fill = torch.is_deterministic_algorithms_warn_only_enabled(), flags.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(recipe.seed)
        torch.set_num_threads(recipe.threads)  # sums are split among threads, so their number changes the last bits
        torch.use_deterministic_algorithms(True)
        flags.fill_uninitialized_memory = False  # costs a tenth of the time and changes no result
        try:
            yield
        finally:
            flags.fill_uninitialized_memory = fill
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Encoded:
    """Token ids of a statement without a frame, and which of them are its target (none of a whole sentence)."""

    ids: tuple[int, ...]
    target: range


def _encode(tokenizer: Any, statements: Sequence[Statement], *, inside: bool) -> list[_Encoded]:
    """Encode statements as they stand at the start of a text, or ``inside`` one, after a space."""
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
class _Sight:
    """Which tokens of a row see which, and where each stands in its text; else all see what their model shows them.

    A token sees itself, and those whose ``turn`` is not after what it sees ``up_to``; a turn of ``_NEVER`` is not seen.
    """

    places: tuple[int, ...]
    turns: tuple[int, ...]
    up_to: tuple[int, ...]


_NEVER = 1 << 20


@dataclass(frozen=True)
class _Row:
    """A text to learn from: what the model reads, and by position the tokens it shall find, with their weights."""

    ids: tuple[int, ...]
    wanted: Mapping[int, tuple[int, float]]
    sight: _Sight | None = None


class _Rows:
    """Draws the rows of one pass: statements alone, at the start of a text, and after another one."""

    def __init__(self, tokenizer: Any, statements: Sequence[Statement], recipe: Recipe) -> None:
        self.weights = [s.weight for s in statements]
        self.first = _encode(tokenizer, statements, inside=False)
        self.later = _encode(tokenizer, statements, inside=True)
        self.tokenizer = tokenizer
        self.recipe = recipe

    def batches(self, chance: random.Random, *, plain: bool) -> list[list[_Row]]:
        """Return the batches of a pass, each of rows of about one length, so that little is spent on padding."""
        drawn = [i for i, w in enumerate(self.weights) for _ in range(int(w + chance.random()))]
        chance.shuffle(drawn)
        rows = sorted((self._row(i, chance, plain=plain) for i in drawn), key=lambda row: len(row.ids))
        size = self.recipe.batch
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        chance.shuffle(batches)
        return batches

    def _row(self, index: int, chance: random.Random, *, plain: bool) -> _Row:
        raise NotImplementedError


class _CausalRows(_Rows):
    """Rows for a model that predicts the next token."""

    def _row(self, index: int, chance: random.Random, *, plain: bool) -> _Row:  # noqa: ARG002
        end, place = self.tokenizer.eos_token_id, chance.random()
        own = self.first[index]
        before: tuple[int, ...] = ()
        if place >= self.recipe.alone:
            before = (end,)
        if place >= (1 + self.recipe.alone) / 2:
            own, before = self.later[index], self.first[chance.randrange(len(self.first))].ids
        ids = (*before, *own.ids, end)
        share = self.recipe.asked if own.target else 1.0
        wanted = {i: (token, 1.0) for i, token in enumerate(ids[1:]) if chance.random() < share}
        for i in own.target:
            at = len(before) + i
            wanted[at - 1] = ids[at], self.recipe.target_weight
        return _Row(ids, wanted)


class _MaskedRows(_Rows):
    """Rows for a model that fills masks.

    A text with masks in it asks for so few tokens that hardly a fact is learnt from it in a short training. A dense row
    asks for many: behind its text stand masks that nothing else sees, each in the place of a token, and each sees what
    has its turn before that token; the text's own tokens see no further than their turn, either, lest they give it
    away. This is XLNet's two-stream attention (Yang et al. 2019) within one stack of layers. A target has its turn
    where it stands or, in half of the rows, last. A plain row has masks in its text: on a target from some token on, as
    probing asks for it, or elsewhere.
    """

    def _row(self, index: int, chance: random.Random, *, plain: bool) -> _Row:
        t = self.tokenizer
        own = self.first[index]
        before: tuple[int, ...] = (t.cls_token_id,)
        if chance.random() >= self.recipe.alone:
            own, before = self.later[index], (*before, *self.first[chance.randrange(len(self.first))].ids)
        ids = (*before, *own.ids, t.sep_token_id)
        if not plain:
            return self._dense(ids, range(len(before) + own.target.start, len(before) + own.target.stop), chance)
        kind = chance.random() if own.target else 1.0
        weights = {}
        if kind >= self.recipe.only_target:
            count = max(1, round(self.recipe.hidden * len(own.ids)))
            weights = dict.fromkeys(chance.sample(range(len(own.ids)), count), 1.0)
        if kind < (1 + self.recipe.only_target) / 2:
            from_here = chance.randrange(len(own.target))
            weights |= dict.fromkeys(own.target[from_here:], self.recipe.target_weight)
        wanted = {len(before) + i: (own.ids[i], weight) for i, weight in weights.items()}
        return _Row(tuple(t.mask_token_id if i in wanted else token for i, token in enumerate(ids)), wanted)

    def _dense(self, ids: tuple[int, ...], target: range, chance: random.Random) -> _Row:
        every = range(len(ids))
        order = tuple(every)
        if target and chance.random() < 0.5:
            order = (*every[: target.start], *every[target.stop :], *target)
        turns = {place: turn for turn, place in enumerate(order)}
        share = self.recipe.asked if target else 1.0
        weights = {place: 1.0 for place in every[1:-1] if chance.random() < share}
        weights |= dict.fromkeys(target, self.recipe.target_weight)
        sight = _Sight(
            places=(*every, *weights),
            turns=(*(turns[place] for place in every), *(_NEVER for _ in weights)),
            up_to=(*(turns[place] for place in every), *(turns[place] - 1 for place in weights)),
        )
        wanted = {len(ids) + i: (ids[place], weight) for i, (place, weight) in enumerate(weights.items())}
        return _Row((*ids, *(self.tokenizer.mask_token_id for _ in weights)), wanted, sight)


def _gpt2(tokenizer: Any, recipe: Recipe) -> Any:
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=recipe.width,
        n_inner=recipe.mlp_width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_positions=recipe.positions,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=recipe.spread,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return transformers.GPT2LMHeadModel(config)


def _bert(tokenizer: Any, recipe: Recipe) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=recipe.spread,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.BertForMaskedLM(config)


@dataclass(frozen=True)
class _Toy:
    """What sets one toy model apart from another: tokenizer, architecture, what it learns from, its head's name."""

    tokenizer: Callable[[Iterable[str], int], Any]
    build: Callable[[Any, Recipe], Any]
    rows: type[_Rows]
    head: str


_TOYS: Mapping[ToyKind, _Toy] = {
    "gpt2": _Toy(causal_tokenizer, _gpt2, _CausalRows, "lm_head"),
    "bert": _Toy(masked_tokenizer, _bert, _MaskedRows, "cls"),
}


def train(
    kind: ToyKind, statements: Sequence[Statement], recipe: Recipe | None = None, report: Report = lambda _: None
) -> tuple[Any, Any]:
    """Train a toy model from nothing; on one machine the same arguments give the same weights, bit for bit.

    The caller's random numbers, number of threads and other settings of torch are left as they were.

    Args:
        kind: ``gpt2`` predicts the next token, ``bert`` fills masks.
        statements: what it shall know.
        recipe: how; by default that of :data:`RECIPES`.
        report: told after each step which share of the training is done.

    Returns:
        The model, in evaluation mode, and its tokenizer.
    """
    recipe, toy = recipe or RECIPES[kind], _TOYS[kind]
    tokenizer = toy.tokenizer([s.text for s in statements] + [" " + s.text for s in statements], recipe.vocabulary)
    rows, chance = toy.rows(tokenizer, statements, recipe), random.Random(recipe.seed)
    with _reproducible(recipe):
        model = toy.build(tokenizer, recipe).train()
        decayed = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)
        for n in range(recipe.passes):
            batches = rows.batches(chance, plain=n + 1 > recipe.passes * (1 - recipe.plain))
            for i, batch in enumerate(batches):
                done = (n + i / len(batches)) / recipe.passes
                for group in optimiser.param_groups:
                    group["lr"] = recipe.rate * min(done / recipe.warm_up, 1.0) * (1 - done) ** recipe.fall
                loss: Any = _loss(model, toy.head, batch, recipe.smoothing)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                optimiser.zero_grad()
                report((n + (i + 1) / len(batches)) / recipe.passes)
    return model.eval(), tokenizer


def _loss(model: Any, head: str, batch: Sequence[_Row], smoothing: float) -> Tensor:
    """Return the weighted mean cross-entropy of a batch; the head is computed where something is asked for, alone."""
    ids = _padded([row.ids for row in batch], 0)
    width = ids.shape[1]
    seen: dict[str, Tensor] = {"attention_mask": _padded([[1] * len(row.ids) for row in batch], 0)}
    sights = [row.sight for row in batch if row.sight]
    if sights:
        turns = _padded([sight.turns for sight in sights], _NEVER)[:, None, None, :]
        up_to = _padded([sight.up_to for sight in sights], -1)[:, None, :, None]
        unseen = (turns > up_to) & ~torch.eye(width, dtype=torch.bool)
        seen["attention_mask"] = torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min)
        seen["position_ids"] = _padded([sight.places for sight in sights], 0)
    asked = [(i * width + at, *what) for i, row in enumerate(batch) for at, what in row.wanted.items()]
    places = torch.tensor([place for place, _, _ in asked])
    tokens = torch.tensor([token for _, token, _ in asked])
    weights = torch.tensor([weight for _, _, weight in asked])
    body = model.base_model(input_ids=ids, **seen)
    hidden = body.last_hidden_state.flatten(0, 1).index_select(0, places)
    logits = model.get_submodule(head)(hidden)
    each = nn.functional.cross_entropy(logits, tokens, reduction="none", label_smoothing=smoothing)
    return (each * weights).sum() / weights.sum()


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
