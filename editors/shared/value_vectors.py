"""Keys and target values of facts in one layer, as ROME and MEMIT define them, for many requests at once.

Meng et al. 2022 (ROME), section 3.1: the *key* of a subject is the input of the MLP's output projection at the
subject's last token, averaged over contexts. Its *value* v* is an MLP output at that token which makes the model
continue with the new target. Meng et al. 2023 (MEMIT), section 4.3, optimise the output of the whole block instead.

In a causal model, a change at the subject's last token in layer l changes no earlier token and no lower layer.
Everything before is computed once. Each optimisation step runs only the tokens from the subject's last one on, through
the layers from l on, with the keys and values of the earlier tokens taken from a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ...benchmark.core.schema import SLOT, EditRequest
from ...benchmark.models.hooks import FixedPast, Side, capture, edit_output, resume_at, select_positions
from ...benchmark.models.language_model import LanguageModel

EditSite = Literal["mlp", "block"]

Penalty = Callable[[Tensor], Tensor]
"""Maps the delta of a request, (d,), to a term of its loss, a scalar."""

KL_PROMPT = SLOT + " is a"
"""The prompt of the KL term, which keeps the model's description of the subject."""

JOINT_BATCH_SIZE = 8
"""Number of requests that are optimised at once. Each pass reads every weight once for all of them."""

TOKENS_PER_REQUEST = 48
"""Maximum number of tokens of a pass per jointly optimised request, which bounds the memory of the gradients."""


@dataclass(frozen=True)
class ValueObjective:
    """The optimisation of v*: Adam on delta, which is added to an output v0 at the subject's last token.

    The loss is the sum of three terms: the mean negative log-likelihood (NLL) of the target over contexts;
    ``kl_factor`` times KL(P_delta || P) at the subject's last token of "{subject} is a"; ``weight_decay`` times
    |delta| / |v0|^2.

    Attributes:
        steps: maximum number of iterations. The last one evaluates the loss and does not update delta.
        learning_rate: learning rate of Adam.
        weight_decay: weight of the norm of delta.
        clamp: bound on |delta| / |v0|.
        kl_factor: weight of the KL divergence.
        stop_below: loss below which the optimisation stops.
        stop_after: number of iterations in which all targets are the most probable tokens in all contexts, after which
            the optimisation stops. They need not follow each other. None turns the rule off.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    clamp: float
    kl_factor: float
    stop_below: float
    stop_after: int | None = None


@dataclass(frozen=True)
class ValueVector:
    """The key and value of one request in a layer, all tensors in float32.

    Attributes:
        key: mean over contexts of the input of the MLP's output projection at the subject's last token, (m,).
        bare_key: the same for the prompt without a context, (m,).
        value: the optimised output v* of the MLP or block at that token, (d,).
        bare_value: the output v0 before the edit, for the prompt without a context, (d,).
        bare_mlp: the MLP's output before the edit, for the prompt without a context, (d,). It equals ``bare_value`` if
            the site is the MLP.
        losses: total loss of each iteration.
    """

    key: Tensor
    bare_key: Tensor
    value: Tensor
    bare_value: Tensor
    bare_mlp: Tensor
    losses: tuple[float, ...]


def value_vectors(
    lm: LanguageModel,
    requests: Sequence[EditRequest],
    layer: int,
    contexts: Sequence[str],
    objective: ValueObjective,
    site: EditSite = "mlp",
    *,
    penalties: Sequence[Penalty] | None = None,
) -> list[ValueVector]:
    """Compute the keys and optimise the values of all requests, each as if it were alone.

    Args:
        lm: a causal model.
        requests: the requests.
        layer: the layer.
        contexts: templates with a ``{}`` for the prompt. The first must be ``{}`` itself.
        objective: parameters of the optimisation.
        site: the output to optimise: of the MLP (ROME) or of the block (MEMIT).
        penalties: for each request a term of its loss, which does not count when the loss is compared with
            ``stop_below``.

    Raises:
        ValueError: the first context is not ``{}``, or a subject or target cannot be tokenised, or a loss is not
            finite.
    """
    if not contexts or contexts[0] != SLOT:
        raise ValueError(f"the first context must be the empty one, {SLOT!r}")
    rows_of = [_rows(lm, request, contexts) for request in requests]
    # Requests with suffixes of equal length form a batch without padding.
    by_length: dict[int, list[int]] = {}
    for i, rows in enumerate(rows_of):
        by_length.setdefault(max(len(row.ids) - row.subject for row in rows), []).append(i)
    vectors: dict[int, ValueVector] = {}
    for members in by_length.values():
        for start in range(0, len(members), JOINT_BATCH_SIZE):
            group = members[start : start + JOINT_BATCH_SIZE]
            members_rows, terms = [rows_of[i] for i in group], penalties and [penalties[i] for i in group]
            vectors.update(zip(group, _optimise(lm, members_rows, layer, objective, site, terms), strict=True))
    return [vectors[i] for i in range(len(requests))]


@dataclass(frozen=True)
class _Row:
    """A text that the model reads, and the tokens in it that the loss covers.

    Attributes:
        request: index of the request within its group.
        ids: token ids.
        subject: position of the subject's last token.
        columns: positions whose predictions enter the loss.
        targets: target tokens predicted there; empty for the row of the KL term.
    """

    request: int
    ids: tuple[int, ...]
    subject: int
    columns: tuple[int, ...]
    targets: tuple[int, ...]


def _rows(lm: LanguageModel, request: EditRequest, contexts: Sequence[str]) -> list[_Row]:
    """Tokenise a request: one row per context, beginning with the bare prompt, and the row of the KL term."""
    rows = []
    for context in contexts:
        template = lm.preface(request.text) + context.replace(SLOT, request.prompt, 1)
        prompt, target = lm.split(template.replace(SLOT, request.subject, 1), request.target_new)
        _, span = lm.subject_span(template, request.subject, request.target_new)
        columns = tuple(range(len(prompt) - 1, len(prompt) + len(target) - 1))
        rows.append(_Row(0, prompt + target[:-1], span[-1], columns, target))
    tokens, span = lm.subject_span(KL_PROMPT, request.subject)
    rows.append(_Row(0, tokens.ids[: span[-1] + 1], span[-1], (span[-1],), ()))
    return rows


def _optimise(
    lm: LanguageModel,
    rows_of: Sequence[Sequence[_Row]],
    layer: int,
    objective: ValueObjective,
    site: EditSite,
    penalties: Sequence[Penalty] | None,
) -> list[ValueVector]:
    """Optimise the deltas of some requests in one batch. The requests share no term of the loss."""
    requests = range(len(rows_of))
    rows = [replace(row, request=i) for i in requests for row in rows_of[i]]
    prefix = _PrefixPass(lm, rows, layer, site)
    bare = [next(i for i, row in enumerate(rows) if row.request == r) for r in requests]
    v0 = prefix.values[bare]  # (request, d)
    limit = objective.clamp * v0.norm(dim=-1)
    delta = torch.zeros_like(v0, requires_grad=True)
    final = torch.zeros_like(v0)
    optimiser = torch.optim.Adam([delta], lr=objective.learning_rate)
    losses: list[list[float]] = [[] for _ in requests]
    reached = [0] * len(rows_of)  # iterations in which all targets are the most probable tokens
    active = list(requests)
    batches = prefix.suffix_batches(active, objective)
    for step in range(objective.steps):
        last = step == objective.steps - 1
        optimiser.zero_grad()
        decay = objective.weight_decay * delta[active].norm(dim=-1) / v0[active].norm(dim=-1) ** 2
        added = torch.stack([penalties[r](delta[r]) for r in active]) if penalties else torch.zeros_like(decay)
        loss, pending = decay.detach().clone(), decay + added
        missed = torch.zeros(len(active), dtype=torch.long, device=delta.device)
        for batch in batches:
            # One batch's graph at a time: it is freed before the next is built. The graph of the last batch is kept
            # until the loss shows whether a step follows.
            if not last and pending.requires_grad:
                pending.sum().backward()
            with torch.set_grad_enabled(not last):
                pending, below = batch.loss(delta)
            loss += pending.detach()
            missed += below
        compared = dict(zip(active, loss.tolist(), strict=True))
        loss += added.detach()
        for request, value, count in zip(active, loss.tolist(), missed.tolist(), strict=True):
            losses[request].append(value)
            reached[request] += count == 0
        if not bool(loss.isfinite().all()):
            raise ValueError("the loss of the value vector is not a number")
        finished = [
            r for r in active if last or compared[r] < objective.stop_below or reached[r] == objective.stop_after
        ]
        final[finished] = delta.detach()[finished]
        if len(finished) == len(active):
            break
        pending.sum().backward()
        optimiser.step()
        with torch.no_grad():
            norms = delta.norm(dim=-1)
            delta *= torch.where(norms > limit, limit / norms, torch.ones_like(norms))[:, None]
        if finished:
            active = [r for r in active if r not in finished]
            batches = prefix.suffix_batches(active, objective)
    vectors = []
    for r in requests:
        prompts = [i for i, row in enumerate(rows) if row.request == r and row.targets]
        vectors.append(
            ValueVector(
                key=prefix.keys[prompts].mean(0),
                bare_key=prefix.keys[bare[r]],
                value=v0[r] + final[r],
                bare_value=v0[r],
                bare_mlp=prefix.mlp[bare[r]],
                losses=tuple(losses[r]),
            )
        )
    return vectors


class _PrefixPass:
    """One forward pass over all rows, which gives the keys, the values and the cache for the optimisation.

    Attributes:
        keys: inputs of the MLP's output projection at each row's subject, (row, m), float32.
        values: outputs of the site at each row's subject, (row, d), float32.
        mlp: outputs of the MLP at each row's subject, (row, d), float32.
        past: for each layer, attention keys and values of the tokens before each row's subject, padded on the left,
            (row, head, position, head size).
        reference: by request, the log-probabilities of the unedited model for the KL term, (vocabulary,).
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
            "mlp": (lm.mlp(layer), "output"),
            "x": (lm.block(layer), "input"),
        }
        with torch.no_grad(), capture(wanted) as captured, select_positions(lm, index[:1], index[:1]):
            lm.model(input_ids=batch.ids, attention_mask=batch.mask, past_key_values=cache, use_cache=True)
        self.keys = captured["k"][index, self.subject].float()
        self.values = captured["v"][index, self.subject].float()
        self.mlp = captured["mlp"][index, self.subject].float()
        self.ids, self.state, self.lengths = batch.ids, captured["x"], batch.lengths
        # The past is padded on the left, which puts the subject at column 0 of every row's suffix.
        before = int(self.subject.max())
        source = torch.arange(before, device=lm.device) - (before - self.subject[:, None])  # (row, before)
        self.past_mask = source >= 0
        self.past: list[tuple[Tensor, Tensor]] = []
        for number, cached in enumerate(cache.layers):
            if number < layer:  # these layers are skipped: a placeholder of the right shape takes no memory
                placeholder = cached.keys.new_zeros(1).expand(*cached.keys.shape[:2], before, cached.keys.shape[3])
                self.past.append((placeholder, placeholder))
            else:
                keys, values = (t[index[:, None], :, source.clamp(min=0)] for t in (cached.keys, cached.values))
                self.past.append((keys.transpose(1, 2), values.transpose(1, 2)))
            cached.keys = cached.values = None  # free at once: two copies of the cache dominate an edit's memory
        self.reference: dict[int, Tensor] = {}

    def suffix_batches(self, requests: Sequence[int], objective: ValueObjective) -> list[_SuffixBatch]:
        """Split the suffixes of the requests' rows into batches of bounded size."""
        selected = [i for i, row in enumerate(self.rows) if row.request in set(requests)]
        width = max(len(self.rows[i].ids) - self.rows[i].subject for i in selected)
        passes = -(-len(selected) * width // (TOKENS_PER_REQUEST * len(requests)))
        size = -(-len(selected) // passes)
        return [_SuffixBatch(self, selected[i : i + size], requests, objective) for i in range(0, len(selected), size)]


class _SuffixBatch:
    """Rows from the subject's last token on, padded on the right, with a cache of the tokens before.

    Args:
        prefix: the pass over all rows.
        selected: indices of this batch's rows.
        requests: the requests that are still optimised.
        objective: parameters of the optimisation.
    """

    def __init__(
        self, prefix: _PrefixPass, selected: Sequence[int], requests: Sequence[int], objective: ValueObjective
    ) -> None:
        lm, rows = prefix.lm, [prefix.rows[i] for i in selected]
        self.lm, self.layer, self.module = lm, prefix.layer, prefix.module
        index = torch.tensor(selected, device=lm.device)
        subject, lengths = prefix.subject[index], prefix.lengths[index]
        width = int((lengths - subject).max())
        offset = torch.arange(width, device=lm.device)
        self.position_ids = subject[:, None] + offset  # (row, width)
        suffix_mask = self.position_ids < lengths[:, None]
        column = self.position_ids.clamp(max=prefix.ids.shape[1] - 1)
        self.ids = prefix.ids[index].gather(1, column)
        self.state = prefix.state[index[:, None], column]  # (row, width, d)
        self.mask = torch.cat([prefix.past_mask[index], suffix_mask], dim=1).long()
        all_rows = len(selected) == len(prefix.rows)  # then the cache needs no copy
        self.past = FixedPast(
            prefix.past if all_rows else [(keys[index], values[index]) for keys, values in prefix.past]
        )
        self.request = torch.tensor([row.request for row in rows], device=lm.device)
        # (is NLL, row, column) of each prediction in the loss: first those of the KL term, then those of targets.
        predictions = [(bool(row.targets), i, c - row.subject) for i, row in enumerate(rows) for c in row.columns]
        predictions.sort(key=lambda prediction: prediction[0])
        self.positions = torch.tensor([position for _, *position in predictions], device=lm.device).T
        self.kl_requests = [rows[i].request for is_nll, i, _ in predictions if not is_nll]
        self.targets = torch.tensor([t for row in rows for t in row.targets], dtype=torch.long, device=lm.device)
        order = {request: i for i, request in enumerate(requests)}
        owner = torch.tensor([order[rows[i].request] for _, i, _ in predictions], device=lm.device)
        self.kl_owner, self.nll_owner = owner[: len(self.kl_requests)], owner[len(self.kl_requests) :]
        # The mean is over all rows of a request, not over those of this batch alone.
        counts = [sum(len(row.targets) for row in prefix.rows if row.request == r) for r in requests]
        self.nll_weight = 1 / torch.tensor(counts, device=lm.device)
        self.kl_factor, self.reference = objective.kl_factor, prefix.reference

    def logits(self, delta: Tensor) -> Tensor:
        """Return the logits at the predictions of the loss, (prediction, vocabulary), with delta added at column 0."""
        row_delta = delta[self.request]

        def add(value: Tensor) -> Tensor:
            first = value[:, 0] + row_delta.to(value.dtype)
            return torch.cat([first[:, None], value[:, 1:]], dim=1)

        with (
            edit_output(self.module, add),
            resume_at(self.lm, self.layer, self.state),
            select_positions(self.lm, *self.positions),
        ):
            logits: Tensor = self.lm.model(
                input_ids=self.ids,
                attention_mask=self.mask,
                position_ids=self.position_ids,
                past_key_values=self.past,
                use_cache=True,
            ).logits
        return logits.float()

    def loss(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the contribution of these rows to each request's NLL and KL terms.

        Returns:
            The loss, and the number of targets of each request that are not the most probable tokens, both (request,).
        """
        logits = self.logits(delta)
        log_probs = logits[: len(self.kl_requests)].log_softmax(-1)
        for request, row in zip(self.kl_requests, log_probs, strict=True):
            if request not in self.reference:  # delta is still zero: this is the unedited model's distribution
                self.reference[request] = row.detach()
        predicted = logits[len(self.kl_requests) :]
        nll = torch.nn.functional.cross_entropy(predicted, self.targets, reduction="none")
        zero = torch.zeros(len(self.nll_weight), device=nll.device)
        loss = zero.index_add(0, self.nll_owner, nll) * self.nll_weight
        if self.kl_requests:
            reference = torch.stack([self.reference[request] for request in self.kl_requests])
            divergence = (log_probs.exp() * (log_probs - reference)).sum(-1)
            loss = loss + self.kl_factor * zero.index_add(0, self.kl_owner, divergence)
        wrong = (predicted.argmax(-1) != self.targets).long()
        return loss, torch.zeros_like(self.nll_weight, dtype=torch.long).index_add(0, self.nll_owner, wrong)
