"""Which neurons an answer hangs on: integrated gradients over each layer's neurons, and the search for shared ones.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers" (ACL), sections 2 and 3.

All neurons of one layer at the prediction position are scaled together from nothing to their value, and the
gradients of the answer's probability on the way are summed. Layers are independent of each other, so the rows of all
layers share one pass: those of layer l join at layer l. In a causal model nothing before the prediction position can
change, so a row is a single token: all rows stand side by side behind one cached text, each seeing it and itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .hooks import FixedPast, Side, append_rows, capture, capture_head_input, hidden, select_positions
from .language_model import LanguageModel, TokenQuery

Rule = Literal["right", "left", "inclusive"]
NeuronSite = Literal["neurons", "pre-activation"]
Neuron = tuple[int, int]
"""Layer and index."""

ROWS = 1600
"""Rows of one pass, summed over the layers that they go through, at most; this bounds the memory."""

HEAD_ROWS = 64
"""Rows that go through the output head at once: its weight is read for each of them, and memory bounds their number."""


@dataclass(frozen=True)
class Integral:
    """How the integral of the gradients is taken.

    Attributes:
        steps: points n of the Riemann sum.
        rule: ``right`` takes j/n for j = 1..n (Dai et al. 2022, equation 3), ``left`` j = 0..n-1 (their released
            code), ``inclusive`` n points from 0 to 1 with both ends (the public ports).
        site: ``neurons`` are what the MLP's output projection receives; ``pre-activation`` is what the activation
            function receives, where the public ports hook GPT and Llama models.
    """

    steps: int = 20
    rule: Rule = "right"
    site: NeuronSite = "neurons"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    def points(self) -> Tensor:
        """Return the factors that the neurons are scaled by, (steps,)."""
        n = self.steps
        if self.rule == "inclusive":
            return torch.linspace(0, 1, n)
        return (torch.arange(n) + (self.rule == "right")) / n


def attributions(
    lm: LanguageModel, prompt: str, target: str, integral: Integral, *, suffix: str = ".", rows: int = ROWS
) -> Tensor:
    """Attribute an answer's probability to every neuron of the model.

    ``(w / n) * sum_j dP(target | prompt; w_i := point_j * w) / dw`` at the position where the answer is predicted. A
    target of several tokens gives the mean over them, each after the true previous ones. As the steps grow, the
    attributions of a layer sum to P minus P with that layer's neurons set to zero (completeness).

    Args:
        lm: a causal or masked model.
        prompt: the text up to the answer.
        target: the answer.
        integral: how to integrate.
        suffix: what follows the answer; only a masked model reads it.
        rows: rows of one pass at most, summed over layers.

    Returns:
        Attributions of shape (layer, m), float32, on the CPU.

    Raises:
        ValueError: the answer cannot be tokenised after the prompt.
    """
    token_queries = lm.token_queries(prompt, target, suffix)
    parts = [_attributions_of_one_token(lm, question, integral, rows) for question in token_queries]
    return torch.stack(parts).mean(0)


def _attributions_of_one_token(lm: LanguageModel, question: TokenQuery, integral: Integral, rows: int) -> Tensor:
    clean = _Clean(lm, question, integral.site)
    points = integral.points().to(lm.device)
    share = max(1, rows // (lm.n_layers * (lm.n_layers + 1) // 2))
    total = torch.zeros_like(clean.neurons, dtype=torch.float32)  # (layer, m)
    for start in range(0, len(points), share):
        factors = points[start : start + share]
        # A leaf for each layer, whose gradient is that of its own rows alone.
        scaled = [(factors[:, None] * w).to(w.dtype).requires_grad_() for w in clean.neurons]
        probability = clean.probabilities(scaled)
        gradients = torch.autograd.grad(probability.sum(), scaled)
        total += torch.stack([g.float().sum(0) for g in gradients])
    return (clean.neurons * total / len(points)).float().cpu()


class _Clean:
    """The unchanged pass over one text, and passes in which each layer's rows have other neurons.

    Attributes:
        neurons: the site's values at the asked position, (layer, m).
    """

    def __init__(self, lm: LanguageModel, question: TokenQuery, site: NeuronSite) -> None:
        self.lm, self.site, self.token = lm, site, question.token
        ids = torch.tensor([question.ids], device=lm.device)
        cache = DynamicCache() if lm.causal else None
        wanted: dict[str, tuple[nn.Module, Side]] = {}
        for layer in range(lm.n_layers):
            wanted[f"x{layer}"] = (lm.block(layer), "input")
            wanted[f"w{layer}"] = self._site(layer)
        place = torch.tensor([question.position], device=lm.device)
        first = torch.zeros_like(place)
        inputs = {"past_key_values": cache, "use_cache": True} if cache is not None else {}
        with torch.no_grad(), capture(wanted) as seen, select_positions(lm, first, place):
            lm.model(input_ids=ids, **inputs)
        self.neurons = torch.stack([seen[f"w{i}"][0, question.position] for i in range(lm.n_layers)])
        states = [seen[f"x{i}"] for i in range(lm.n_layers)]  # (1, position, d)
        self.inputs: dict[str, Any] = {"input_ids": ids}
        self.states, self.position, self.before = states, question.position, 0
        if cache is not None:
            self.before = before = question.position
            past = [(layer.keys[:, :, :before], layer.values[:, :, :before]) for layer in cache.layers]
            self.inputs = {
                "input_ids": ids[:, before:],
                "position_ids": place[None],
                "past_key_values": FixedPast(past),
                "use_cache": True,
            }
            self.states = [state[:, before : before + 1] for state in states]

    def _site(self, layer: int) -> tuple[nn.Module, Side]:
        if self.site == "neurons":
            return self.lm.mlp_out(layer), "input"
        return self.lm.mlp_in(layer), "output"

    def probabilities(self, values: Sequence[Tensor]) -> Tensor:
        """Return the token's probability in rows whose neurons are replaced.

        Args:
            values: for each layer, what its rows have there, (row, m), the same number of rows in every layer.

        Returns:
            Probabilities of shape (layer * row,), layer by layer.
        """
        count = len(values[0])
        mask = self._mask(count * len(values)) if self.lm.causal else None
        with ExitStack() as stack:
            for layer, value in enumerate(values):
                state, now = self.states[layer], count * (layer + 1)
                rows = state.expand(-1, count, -1) if self.lm.causal else state.expand(count, -1, -1)
                visible = mask[:, :, :now, : self.before + now] if mask is not None else None
                side = 1 if self.lm.causal else 0
                stack.enter_context(append_rows(self.lm.block(layer), rows, dim=side, mask=visible, first=layer == 0))
                stack.enter_context(_replacing(*self._site(layer), self._put(value)))
            asked = stack.enter_context(capture_head_input(self.lm, self._asked, through=not self.lm.head_is_last))
            logits = self.lm.model(**self.inputs).logits
        if self.lm.head_is_last:
            return _behind_head(asked[0], self.lm.head, self.token)
        return _probability(logits.reshape(-1, logits.shape[-1]), self.token)

    def _mask(self, rows: int) -> Tensor:
        """Let every row see the text before and itself, (1, 1, row, before + row), added to attention scores."""
        barred = torch.finfo(self.lm.dtype).min
        own = torch.full((rows, rows), barred, dtype=self.lm.dtype, device=self.lm.device).fill_diagonal_(0)
        return torch.cat([own.new_zeros(rows, self.before), own], dim=1)[None, None]

    def _put(self, value: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what gives the last rows of a state other values at the asked position."""
        if self.lm.causal:  # (1, row, features)
            return lambda state: torch.cat([state[:, : -len(value)], value[None]], dim=1)
        at = self.position  # (row, position, features)

        def put(state: Tensor) -> Tensor:
            kept, last = state[: -len(value)], state[-len(value) :]
            return torch.cat([kept, torch.cat([last[:, :at], value[:, None], last[:, at + 1 :]], dim=1)])

        return put

    def _asked(self, state: Tensor) -> Tensor:
        """Return the rows of a state at the asked position, (row, features)."""
        return state.reshape(-1, state.shape[-1]) if self.lm.causal else state[:, self.position]


def _probability(logits: Tensor, token: int) -> Tensor:
    found: Tensor = _Probability.apply(logits.float(), token)  # type: ignore[no-untyped-call]
    return found


def _behind_head(states: Tensor, head: nn.Module, token: int) -> Tensor:
    found: Tensor = _BehindHead.apply(states, head, token)  # type: ignore[no-untyped-call]
    return found


class _BehindHead(torch.autograd.Function):
    """A token's probability from hidden states, some rows at a time, so that no table of (row, vocabulary) stays."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: nn.Module, token: int) -> Tensor:
        plain = type(head) is nn.Linear and not head._forward_hooks and not head._forward_pre_hooks
        values, gradients = [], []
        for part in torch.split(states.detach(), HEAD_ROWS):
            value, gradient = (_through_linear if plain else _through_any)(part, head, token)
            values.append(value)
            gradients.append(gradient)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * gradient[:, None]).to(gradients.dtype), None, None


def _through_linear(states: Tensor, head: Any, token: int) -> tuple[Tensor, Tensor]:
    """Return a token's probability and its gradient, with two tables of (row, vocabulary) at most.

    dp/dz = p (e - softmax(z)), and dz/dx is the head's weight.
    """
    # The library's own softmax: one written out in place is four times less exact.
    table = nn.functional.linear(states, head.weight, head.bias).float().softmax(-1)
    value = table[:, token].clone()
    table *= -value[:, None]
    table[:, token] += value
    return value, table.to(head.weight.dtype) @ head.weight


def _through_any(states: Tensor, head: nn.Module, token: int) -> tuple[Tensor, Tensor]:
    """Return the same through a head of any kind."""
    with torch.enable_grad():
        value = _probability(head(states.requires_grad_()), token)
        (gradient,) = torch.autograd.grad(value.sum(), states)
    return value.detach(), gradient


class _Probability(torch.autograd.Function):
    """Softmax at one token, keeping one table of (row, vocabulary) where the ready-made operations keep three."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: int) -> Tensor:
        table = logits.softmax(-1)
        ctx.save_for_backward(table)
        ctx.token = token
        return table[:, token].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        weight = table[:, ctx.token] * gradient
        logits = table * -weight[:, None]
        logits[:, ctx.token] += weight
        return logits, None


@contextmanager
def _replacing(module: nn.Module, side: Side, put: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change a module's input or output."""
    if side == "input":
        handle = module.register_forward_pre_hook(lambda _, args: (put(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, __, output: put(hidden(output)))
    try:
        yield
    finally:
        handle.remove()


# --- searching ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """How neurons are chosen from the attributions of several prompts (Dai et al. 2022, section 3.2).

    Attributes:
        threshold: of one prompt, neurons count whose attribution is at least this share of its largest.
        sharing: fraction p of the prompts that must have a neuron, at first.
        step: how far p is moved per try.
        tries: how often at most.
        fewest: how many neurons shall remain at least.
        most: how many at most.
    """

    threshold: float = 0.2
    sharing: float = 0.7
    step: float = 0.05
    tries: int = 20
    fewest: int = 2
    most: int = 5

    def __post_init__(self) -> None:
        if not (0 < self.threshold <= 1 and 0 < self.sharing <= 1 and self.step > 0):
            raise ValueError("threshold and sharing must be above 0 and at most 1, step above 0")
        if not 1 <= self.fewest <= self.most or self.tries < 1:
            raise ValueError("fewest must be at least 1 and at most most, tries at least 1")


@dataclass(frozen=True)
class Found:
    """The neurons that a search ended with, by layer and index, and the sharing fraction (tau) at which it did."""

    neurons: tuple[Neuron, ...]
    sharing: float


def strongest(attribution: Tensor, threshold: float) -> set[Neuron]:
    """Return the neurons of one prompt that reach a share of its largest attribution; none if nothing is positive."""
    top = float(attribution.max())
    if not top > 0:
        return set()
    return {(int(layer), int(i)) for layer, i in (attribution >= threshold * top).nonzero().tolist()}


def search(found: Sequence[Tensor], how: Search) -> Found:
    """Return the neurons that enough of the prompts share.

    The fraction p moves until ``fewest`` to ``most`` neurons remain. Where one p gives too many and the next too few,
    the larger set is taken, since the smaller may be empty; so it is where p reaches its end.

    Args:
        found: attributions of each prompt, (layer, m).
        how: the search.
    """
    votes = Counter(neuron for attribution in found for neuron in strongest(attribution, how.threshold))
    ordered = sorted(votes)

    def shared(p: float) -> Found:
        # Rounded: a third of the tries would else hang on the last bit of 0.7 + 0.05 + 0.05.
        needed = round(p * len(found), 9)
        return Found(tuple(neuron for neuron in ordered if votes[neuron] >= needed), round(p, 4))

    def direction(now: Found) -> int:
        return (len(now.neurons) > how.most) - (len(now.neurons) < how.fewest)

    now = shared(how.sharing)
    for _ in range(how.tries - 1):
        way = direction(now)
        p = now.sharing + way * how.step
        if way == 0 or not 0 < round(p, 4) <= 1:
            break
        following = shared(p)
        if direction(following) == -way:
            return max((now, following), key=lambda f: len(f.neurons))
        now = following
    return now
