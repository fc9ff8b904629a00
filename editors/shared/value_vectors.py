"""Keys and target values of facts in one layer, as ROME and MEMIT define them, computed for many requests at once.

Meng et al. 2022, section 3.1: the *key* of a subject is what the MLP's output projection receives at the subject's
last token, averaged over contexts; its new *value* v* is the MLP output there that makes the model continue with the
new target. Meng et al. 2023 (MEMIT), section 4.3, seek the output of the whole block instead.

In a causal model a change at the subject's last token of layer l alters nothing before that token and nothing below
that layer. So everything up to there is computed once; each optimisation step runs only the tokens from the
subject's last one on, through the layers from l on, with the earlier keys and values taken from the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ...benchmark.core.schema import SLOT, EditRequest
from ...benchmark.models.hooks import FixedPast, Side, capture, edit_output, resume_at, select_positions
from ...benchmark.models.language_model import LanguageModel

EditSite = Literal["mlp", "block"]

KL_PROMPT = SLOT + " is a"
"""The prompt whose continuation shall not change: it holds what the subject is."""

TOGETHER = 8
"""Requests optimised at once: enough to make good use of reading every weight."""

POSITIONS = 48
"""Tokens of one pass at most, for each request optimised at once, which bounds the memory of its gradients."""


@dataclass(frozen=True)
class ValueObjective:
    """How v* is optimised: Adam on delta, added to an output at the subject's last token.

    The loss is the mean NLL of the target over contexts, plus ``kl_factor`` times KL(P_delta || P) at the subject's
    last token of "{subject} is a", plus ``weight_decay`` times |delta| / |v0|^2. The last of ``steps`` iterations
    evaluates and does not step; a loss below ``stop_below`` ends earlier; |delta| is kept within ``clamp`` |v0|.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    clamp: float
    kl_factor: float
    stop_below: float


@dataclass(frozen=True)
class ValueVector:
    """One request's key and value in a layer.

    Attributes:
        key: mean over contexts of the neurons at the subject's last token, (m,).
        bare_key: the neurons there without a context before the prompt, (m,).
        value: the output v* that is wanted there, of the MLP or of the block, (d,).
        bare_value: what it is there now, v0, (d,).
        losses: total loss at each iteration.
    """

    key: Tensor
    bare_key: Tensor
    value: Tensor
    bare_value: Tensor
    losses: tuple[float, ...]


@dataclass(frozen=True)
class _Row:
    """A text that the model reads: token ids, the subject's last position, and what shall be predicted where."""

    request: int
    ids: tuple[int, ...]
    subject: int
    columns: tuple[int, ...]  # positions whose prediction enters the loss
    targets: tuple[int, ...]  # wanted tokens there; empty for the row whose distribution shall not move


def _rows(lm: LanguageModel, request: EditRequest, contexts: Sequence[str]) -> list[_Row]:
    """Lay out a request: one row per context, the bare prompt first, and the row of the KL term."""
    rows = []
    for context in contexts:
        template = lm.prompt_prefix + context.replace(SLOT, request.prompt, 1)
        prompt, target = lm.split(template.replace(SLOT, request.subject, 1), request.target_new)
        _, span = lm.subject_span(f"{template} {request.target_new}", request.subject)
        columns = tuple(range(len(prompt) - 1, len(prompt) + len(target) - 1))
        rows.append(_Row(0, prompt + target[:-1], span[-1], columns, target))
    tokens, span = lm.subject_span(KL_PROMPT, request.subject)
    rows.append(_Row(0, tokens.ids[: span[-1] + 1], span[-1], (span[-1],), ()))
    return rows


def value_vectors(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    objective: ValueObjective,
    site: EditSite = "mlp",
) -> list[ValueVector]:
    """Compute keys and optimise values of all requests, each as if it were alone.

    Args:
        lm: a causal model.
        requests: the facts.
        layer: the layer.
        contexts: templates with a ``{}`` for the prompt; the first must be the empty one.
        objective: how to optimise.
        site: whose output is sought, the MLP's (ROME) or the block's (MEMIT).

    Raises:
        ValueError: a subject or target cannot be tokenised, or the loss is not a number.
    """
    if not contexts or contexts[0] != SLOT:
        raise ValueError(f"the first context must be the empty one, {SLOT!r}")
    laid_out = [_rows(lm, request, contexts) for request in requests]
    # Requests whose rest after the subject is equally long fill a batch without padding.
    alike: dict[int, list[int]] = {}
    for i, rows in enumerate(laid_out):
        alike.setdefault(max(len(row.ids) - row.subject for row in rows), []).append(i)
    found: dict[int, ValueVector] = {}
    for members in alike.values():
        for start in range(0, len(members), TOGETHER):
            group = members[start : start + TOGETHER]
            found.update(zip(group, _optimise(lm, [laid_out[i] for i in group], layer, objective, site), strict=True))
    return [found[i] for i in range(len(requests))]


def _optimise(
    lm: LanguageModel, laid_out: Sequence[Sequence[_Row]], layer: int, objective: ValueObjective, site: EditSite
) -> list[ValueVector]:
    """Optimise the deltas of some requests in one batch; they share no term of the loss."""
    requests = range(len(laid_out))
    rows = [replace(row, request=i) for i in requests for row in laid_out[i]]
    read = _PrefixPass(lm, rows, layer, site)
    bare = [next(i for i, row in enumerate(rows) if row.request == r) for r in requests]
    v0 = read.values[bare]  # (request, d)
    limit = objective.clamp * v0.norm(dim=-1)
    delta = torch.zeros_like(v0, requires_grad=True)
    best = torch.zeros_like(v0)
    optimiser = torch.optim.Adam([delta], lr=objective.learning_rate)
    losses: list[list[float]] = [[] for _ in requests]
    active = list(requests)
    parts = read.tails(active, objective)
    for step in range(objective.steps):
        last = step == objective.steps - 1
        optimiser.zero_grad()
        decay = objective.weight_decay * delta[active].norm(dim=-1) / v0[active].norm(dim=-1) ** 2
        loss, pending = decay.detach().clone(), decay
        for part in parts:
            # One part's graph at a time: it is let go before the next is built. The last one waits for the verdict.
            if not last and pending.requires_grad:
                pending.sum().backward()
            with torch.set_grad_enabled(not last):
                pending = part.loss(delta)
            loss += pending.detach()
        for request, value in zip(active, loss.tolist(), strict=True):
            losses[request].append(value)
        if not bool(loss.isfinite().all()):
            raise ValueError("the loss of the value vector is not a number")
        ends = [r for r in active if last or losses[r][-1] < objective.stop_below]
        best[ends] = delta.detach()[ends]
        if len(ends) == len(active):
            break
        pending.sum().backward()
        optimiser.step()
        with torch.no_grad():
            norms = delta.norm(dim=-1)
            delta *= torch.where(norms > limit, limit / norms, torch.ones_like(norms))[:, None]
        if ends:
            active = [r for r in active if r not in ends]
            parts = read.tails(active, objective)
    keys = read.keys
    result = []
    for r in requests:
        mine = [i for i, row in enumerate(rows) if row.request == r and row.targets]
        result.append(
            ValueVector(
                key=keys[mine].mean(0),
                bare_key=keys[bare[r]],
                value=v0[r] + best[r],
                bare_value=v0[r],
                losses=tuple(losses[r]),
            )
        )
    return result


class _PrefixPass:
    """One pass over all rows, from which the keys, the values and every later step are taken.

    Attributes:
        keys: neurons at each row's subject, (row, m), float32.
        values: the site's output at each row's subject, (row, d), float32.
        unmoved: by request, the log-probabilities that the KL term holds on to, (vocabulary,).
    """

    def __init__(self, lm: LanguageModel, rows: Sequence[_Row], layer: int, site: EditSite) -> None:
        self.lm, self.rows, self.layer = lm, rows, layer
        self.module = lm.mlp(layer) if site == "mlp" else lm.block(layer)
        batch = lm.pad([row.ids for row in rows])
        index = torch.arange(len(rows), device=lm.device)
        self.subject = torch.tensor([row.subject for row in rows], device=lm.device)
        cache = DynamicCache()
        wanted: dict[str, tuple[nn.Module, Side]] = {
            "k": (lm.mlp_out(layer), "input"),
            "v": (self.module, "output"),
            "x": (lm.block(layer), "input"),
        }
        with torch.no_grad(), capture(wanted) as seen, select_positions(lm, index[:1], index[:1]):
            lm.model(input_ids=batch.ids, attention_mask=batch.mask, past_key_values=cache, use_cache=True)
        self.keys = seen["k"][index, self.subject].float()
        self.values = seen["v"][index, self.subject].float()
        self.ids, self.state, self.lengths = batch.ids, seen["x"], batch.lengths
        # The past is padded left, so that the subject is column 0 of every row's rest.
        before = int(self.subject.max())
        source = torch.arange(before, device=lm.device) - (before - self.subject[:, None])  # (row, before)
        self.inside = source >= 0
        self.past: list[tuple[Tensor, Tensor]] = []  # (row, head, before, head size)
        for number, old in enumerate(cache.layers):
            if number < layer:  # skipped from now on: what has the right shape takes no memory
                placeholder = old.keys.new_zeros(1).expand(*old.keys.shape[:2], before, old.keys.shape[3])
                self.past.append((placeholder, placeholder))
            else:
                keys, values = (t[index[:, None], :, source.clamp(min=0)] for t in (old.keys, old.values))
                self.past.append((keys.transpose(1, 2), values.transpose(1, 2)))
            old.keys = old.values = None  # let go at once: two copies of the cache are much of an edit's memory
        self.unmoved: dict[int, Tensor] = {}

    def tails(self, requests: Sequence[int], objective: ValueObjective) -> list[_SuffixBatch]:
        """Lay out the rows of some requests from their subject's last token on, in passes of bounded size."""
        mine = [i for i, row in enumerate(self.rows) if row.request in set(requests)]
        width = max(len(self.rows[i].ids) - self.rows[i].subject for i in mine)
        passes = -(-len(mine) * width // (POSITIONS * len(requests)))
        size = -(-len(mine) // passes)
        return [_SuffixBatch(self, mine[i : i + size], requests, objective) for i in range(0, len(mine), size)]


class _SuffixBatch:
    """Rows from the subject's last token on, padded right, over a cache of what stands before it."""

    def __init__(
        self, read: _PrefixPass, picked: Sequence[int], requests: Sequence[int], objective: ValueObjective
    ) -> None:
        lm, rows = read.lm, [read.rows[i] for i in picked]
        self.lm, self.layer, self.module = lm, read.layer, read.module
        pick = torch.tensor(picked, device=lm.device)
        subject, lengths = read.subject[pick], read.lengths[pick]
        width = int((lengths - subject).max())
        offset = torch.arange(width, device=lm.device)
        self.position_ids = subject[:, None] + offset  # (row, width)
        inside = self.position_ids < lengths[:, None]
        place = self.position_ids.clamp(max=read.ids.shape[1] - 1)
        self.ids = read.ids[pick].gather(1, place)
        self.state = read.state[pick[:, None], place]  # (row, width, d)
        self.mask = torch.cat([read.inside[pick], inside], dim=1).long()
        everything = len(picked) == len(read.rows)
        self.past = FixedPast(read.past if everything else [(keys[pick], values[pick]) for keys, values in read.past])
        self.request = torch.tensor([row.request for row in rows], device=lm.device)
        # Where the loss looks: first the distributions that shall not move, then the targets' tokens.
        looked = [(bool(row.targets), i, c - row.subject) for i, row in enumerate(rows) for c in row.columns]
        looked.sort(key=lambda spot: spot[0])
        self.spots = torch.tensor([spot[1:] for spot in looked], device=lm.device).T
        self.kl_requests = [rows[i].request for wanted, i, _ in looked if not wanted]
        self.targets = torch.tensor([t for row in rows for t in row.targets], dtype=torch.long, device=lm.device)
        order = {request: i for i, request in enumerate(requests)}
        owner = torch.tensor([order[rows[i].request] for _, i, _ in looked], device=lm.device)
        self.kl_owner, self.nll_owner = owner[: len(self.kl_requests)], owner[len(self.kl_requests) :]
        # Over all of a request's rows, not only those of this part.
        counts = [sum(len(row.targets) for row in read.rows if row.request == r) for r in requests]
        self.share = 1 / torch.tensor(counts, device=lm.device)
        self.kl_factor, self.unmoved = objective.kl_factor, read.unmoved

    def logits(self, delta: Tensor) -> Tensor:
        """Return logits where the loss looks, with delta added at column 0, (spot, vocabulary)."""
        added = delta[self.request]

        def add(value: Tensor) -> Tensor:
            moved = value[:, 0] + added.to(value.dtype)
            return torch.cat([moved[:, None], value[:, 1:]], dim=1)

        with (
            edit_output(self.module, add),
            resume_at(self.lm, self.layer, self.state),
            select_positions(self.lm, *self.spots),
        ):
            logits: Tensor = self.lm.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.position_ids,
                past_key_values=self.past,
                use_cache=True,
            ).logits
        return logits.float()

    def loss(self, delta: Tensor) -> Tensor:
        """Return these rows' part of each request's NLL and KL, (request,)."""
        logits = self.logits(delta)
        now = logits[: len(self.kl_requests)].log_softmax(-1)
        for request, row in zip(self.kl_requests, now, strict=True):
            if request not in self.unmoved:  # delta is still zero: this is the model's own distribution
                self.unmoved[request] = row.detach()
        picked = torch.nn.functional.cross_entropy(logits[len(self.kl_requests) :], self.targets, reduction="none")
        zero = torch.zeros(len(self.share), device=picked.device)
        loss = zero.index_add(0, self.nll_owner, picked) * self.share
        if self.kl_requests:
            before = torch.stack([self.unmoved[request] for request in self.kl_requests])
            divergence = (now.exp() * (now - before)).sum(-1)
            loss = loss + self.kl_factor * zero.index_add(0, self.kl_owner, divergence)
        return loss
