"""Attributes an answer to neurons by integrated gradients, and selects the neurons that several prompts share.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers" (ACL), sections 2 and 3.

All neurons of one layer at the prediction position are scaled together from 0 to their value, and the gradients of the
answer's probability along this path are summed. Layers are independent of each other. The rows of all layers therefore
share one pass, in which those of layer l are appended to the batch at layer l. In a causal model the text before the
prediction position does not change. A row is then a single token that follows the keys and values of this text.
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
"""A neuron: its layer and its index."""

ROWS = 1600
"""Least number of rows of one pass, summed over the layers that each passes through."""
ROW_BYTES = {"cpu": 640 * 2**20, "cuda": 4 * 2**30}
"""Memory of the rows of one pass by the kind of device, at most, unless :data:`ROWS` need more. It is constant, because
the number of rows affects rounding."""

HEAD_ROWS = 128
"""Rows per call of the output head. More rows read its weight less often and need more memory."""


@dataclass(frozen=True)
class Integral:
    """Numerical integration of the gradients.

    Attributes:
        steps: number n of points of the Riemann sum.
        rule: ``right`` uses j/n for j = 1..n (Dai et al. 2022, equation 3), ``left`` uses j = 0..n-1 (their released
            code), ``inclusive`` uses n points from 0 to 1 with both ends (public ports).
        site: ``neurons`` is the input of the MLP's output projection. ``pre-activation`` is the input of the activation
            function, which public ports use for GPT and Llama models.

    Raises:
        ValueError: ``steps`` is below 1.
    """

    steps: int = 20
    rule: Rule = "right"
    site: NeuronSite = "neurons"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")

    def points(self) -> Tensor:
        """Return the scale factors of the neurons, (steps,)."""
        n = self.steps
        if self.rule == "inclusive":
            return torch.linspace(0, 1, n)
        return (torch.arange(n) + (self.rule == "right")) / n


def attributions(
    lm: LanguageModel, prompt: str, target: str, integral: Integral, *, suffix: str = ".", rows: int | None = None
) -> Tensor:
    """Attribute an answer's probability to every neuron of the model.

    The attribution is ``(w / n) * sum_j dP(target | prompt; w_i := point_j * w) / dw`` at the prediction position. For
    a target of several tokens it is the mean over them, each predicted after the true previous ones. With increasing
    steps, the sum over a layer converges to the difference between P and the P with the layer's neurons set to zero
    (completeness).

    Args:
        lm: a causal or masked model.
        prompt: the text up to the answer.
        target: the answer.
        integral: the numerical integration.
        suffix: the text after the answer. Only masked models read it.
        rows: maximum number of rows of one pass, summed over layers; None takes :func:`rows_per_pass`.

    Returns:
        Attributions of shape (layer, m), float32, on the CPU.

    Raises:
        ValueError: the answer cannot be tokenised after the prompt.
    """
    queries = lm.token_queries(prompt, target, suffix)
    return torch.stack([_token_attributions(lm, query, integral, rows) for query in queries]).mean(0)


def rows_per_pass(lm: LanguageModel, text: int = 0) -> int:
    """Return the number of rows of one pass, summed over layers, that the shape and the device of a model allow.

    More rows read each weight less often. A row keeps about ``20 d + 4 m`` values per layer for the gradients, and the
    keys and values of the text before it.

    Args:
        lm: the model.
        text: number of values of the keys and values of the text in one layer.
    """
    row = int((20 * lm.shape["width"] + 4 * lm.n_neurons + text) * lm.dtype.itemsize)
    return max(ROWS, ROW_BYTES.get(lm.device.type, ROW_BYTES["cpu"]) // row)


def _token_attributions(lm: LanguageModel, query: TokenQuery, integral: Integral, rows: int | None) -> Tensor:
    clean = _CleanPass(lm, query, integral.site)
    points = integral.points().to(lm.device)
    rows = rows or rows_per_pass(lm, clean.text_values)
    most = max(1, rows // (lm.n_layers * (lm.n_layers + 1) // 2))
    chunk = -(-len(points) // -(-len(points) // most))  # passes of equal size
    total = torch.zeros_like(clean.neurons, dtype=torch.float32)  # (layer, m)
    for start in range(0, len(points), chunk):
        factors = points[start : start + chunk]
        # One leaf per layer. Its gradient comes from the rows of this layer alone.
        scaled = [(factors[:, None] * w).to(w.dtype).requires_grad_() for w in clean.neurons]
        probability = clean.probabilities(scaled)
        gradients = torch.autograd.grad(probability.sum(), scaled)
        total += torch.stack([g.float().sum(0) for g in gradients])
    return (clean.neurons * total / len(points)).float().cpu()


class _CleanPass:
    """The unmodified pass over one text, and passes in which each layer has rows with other neuron values.

    Attributes:
        neurons: values at the integration site and the prediction position, (layer, m).
        text_values: number of values of the keys and values of the text in one layer, which each row of a causal model
            reads.
    """

    def __init__(self, lm: LanguageModel, query: TokenQuery, site: NeuronSite) -> None:
        self.lm, self.site, self.token = lm, site, query.token
        ids = torch.tensor([query.ids], device=lm.device)
        cache = DynamicCache() if lm.causal else None
        wanted: dict[str, tuple[nn.Module, Side]] = {}
        for layer in range(lm.n_layers):
            wanted[f"x{layer}"] = (lm.block(layer), "input")
            wanted[f"w{layer}"] = self._site(layer)
        position = torch.tensor([query.position], device=lm.device)
        batch_index = torch.zeros_like(position)
        inputs = {"past_key_values": cache, "use_cache": True} if cache is not None else {}
        with torch.no_grad(), capture(wanted) as captured, select_positions(lm, batch_index, position):
            lm.model(input_ids=ids, **inputs)
        m = lm.n_neurons  # a fused projection has the gate in its first m outputs
        self.neurons = torch.stack([captured[f"w{i}"][0, query.position, :m] for i in range(lm.n_layers)])
        states = [captured[f"x{i}"] for i in range(lm.n_layers)]  # (1, position, d)
        self.inputs: dict[str, Any] = {"input_ids": ids}
        self.states, self.position, self.text_values = states, query.position, 0
        if cache is not None:
            self.position, before = 0, query.position
            past = [(layer.keys[:, :, :before], layer.values[:, :, :before]) for layer in cache.layers]
            self.inputs = {
                "input_ids": ids[:, before:],
                "position_ids": position[None],
                "past_key_values": FixedPast(past),
                "use_cache": True,
            }
            self.states = [state[:, before : before + 1] for state in states]
            self.text_values = max(keys.numel() + values.numel() for keys, values in past)

    def _site(self, layer: int) -> tuple[nn.Module, Side]:
        if self.site == "neurons":
            return self.lm.mlp_out(layer), "input"
        return self.lm.mlp_in(layer), "output"

    def probabilities(self, values: Sequence[Tensor]) -> Tensor:
        """Return the probability of the token in rows whose neurons are replaced.

        Args:
            values: replacement of the neurons by layer, (row, m). All layers have the same number of rows.

        Returns:
            Probabilities of shape (layer * row,), layer by layer.
        """
        count = len(values[0])
        with ExitStack() as stack:
            for layer, value in enumerate(values):
                rows = self.states[layer].expand(count, -1, -1)
                stack.enter_context(append_rows(self.lm.block(layer), rows, first=layer == 0))
                stack.enter_context(_replaced(*self._site(layer), self._replacement(value)))
            head_input = stack.enter_context(
                capture_head_input(self.lm, self._at_position, through=not self.lm.head_is_last)
            )
            logits = self.lm.model(**self.inputs).logits
        if self.lm.head_is_last:
            return _probability_from_states(head_input[0], self.lm.head, self.token)
        return _probability(logits.reshape(-1, logits.shape[-1]), self.token)

    def _replacement(self, value: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that replaces the first values of the last rows of a state at the prediction position."""
        position, m = self.position, value.shape[-1]

        def replace(state: Tensor) -> Tensor:
            kept, last = state[: -len(value)], state[-len(value) :]  # (row, position, features)
            row = torch.cat([value[:, None], last[:, position : position + 1, m:]], dim=-1)
            return torch.cat([kept, torch.cat([last[:, :position], row, last[:, position + 1 :]], dim=1)])

        return replace

    def _at_position(self, state: Tensor) -> Tensor:
        """Return the rows of a state at the prediction position, (row, features)."""
        return state[:, self.position]


def _probability(logits: Tensor, token: int) -> Tensor:
    probability: Tensor = _Probability.apply(logits.float(), token)  # type: ignore[no-untyped-call]
    return probability


def _probability_from_states(states: Tensor, head: nn.Module, token: int) -> Tensor:
    probability: Tensor = _ProbabilityFromStates.apply(states, head, token)  # type: ignore[no-untyped-call]
    return probability


class _ProbabilityFromStates(torch.autograd.Function):
    """The probability of a token from hidden states, in chunks of rows to free each (row, vocabulary) table."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: nn.Module, token: int) -> Tensor:
        is_linear = type(head) is nn.Linear and not head._forward_hooks and not head._forward_pre_hooks
        values, gradients = [], []
        for part in torch.split(states.detach(), HEAD_ROWS):
            value, gradient = (_through_linear if is_linear else _through_any)(part, head, token)
            values.append(value)
            gradients.append(gradient)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (gradients * gradient[:, None]).to(gradients.dtype), None, None


def _through_linear(states: Tensor, head: Any, token: int) -> tuple[Tensor, Tensor]:
    """Return the probability of a token and its gradient, with at most two tables of shape (row, vocabulary).

    dp/dz = p (e - softmax(z)), where e is the one-hot vector of the token, and dz/dx is the weight of the head.
    """
    # A softmax written in place has four times the rounding error of torch.softmax.
    table = nn.functional.linear(states, head.weight, head.bias).float().softmax(-1)
    value = table[:, token].clone()
    mean = table.to(head.weight.dtype) @ head.weight
    return value, value[:, None].to(mean.dtype) * (head.weight[token] - mean)


def _through_any(states: Tensor, head: nn.Module, token: int) -> tuple[Tensor, Tensor]:
    """Return the probability of a token and its gradient for any kind of head, by autograd."""
    with torch.enable_grad():
        value = _probability(head(states.requires_grad_()), token)
        (gradient,) = torch.autograd.grad(value.sum(), states)
    return value.detach(), gradient


class _Probability(torch.autograd.Function):
    """Softmax at one token. It keeps one (row, vocabulary) table; torch.softmax with indexing keeps three."""

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
def _replaced(module: nn.Module, side: Side, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the input or output of a module."""
    if side == "input":
        handle = module.register_forward_pre_hook(lambda _, args: (replace(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, __, output: replace(hidden(output)))
    try:
        yield
    finally:
        handle.remove()


# --- neuron selection --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """Parameters of the selection of neurons from several prompts (Dai et al. 2022, section 3.2).

    Attributes:
        threshold: minimum attribution of a neuron, as a share of the largest attribution of the prompt.
        sharing: initial fraction p of the prompts that must share a neuron.
        step: change of p per try.
        tries: maximum number of tries.
        fewest: minimum number of selected neurons.
        most: maximum number of selected neurons.

    Raises:
        ValueError: a value is out of range.
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
            raise ValueError("fewest must be between 1 and most, tries at least 1")


@dataclass(frozen=True)
class SharedNeurons:
    """The result of a search.

    Attributes:
        neurons: the selected neurons, in order of layer and index.
        sharing: the fraction (tau) of the prompts that share each of them.
    """

    neurons: tuple[Neuron, ...]
    sharing: float


def neurons_above(attribution: Tensor, threshold: float) -> set[Neuron]:
    """Return the neurons of one prompt whose attribution is at least a share of the largest.

    The result is empty if no attribution is positive.

    Args:
        attribution: the attributions of the prompt, (layer, m).
        threshold: the share.
    """
    top = float(attribution.max())
    if not top > 0:
        return set()
    return {(int(layer), int(i)) for layer, i in (attribution >= threshold * top).nonzero().tolist()}


def search(prompts: Sequence[Tensor], parameters: Search) -> SharedNeurons:
    """Return the neurons that a fraction p of the prompts share.

    p changes until the number of neurons is between ``fewest`` and ``most``. If one p gives too many and the next too
    few, the larger set is returned, because the smaller one may be empty. If p reaches the end of its range or the
    tries are exhausted, the last set is returned.

    Args:
        prompts: attributions of each prompt, (layer, m).
        parameters: the parameters of the search.
    """
    votes = Counter(neuron for attribution in prompts for neuron in neurons_above(attribution, parameters.threshold))
    ordered = sorted(votes)

    def shared(p: float) -> SharedNeurons:
        # Without rounding, a third of the tries would depend on the last bit of 0.7 + 0.05 + 0.05.
        needed = round(p * len(prompts), 9)
        return SharedNeurons(tuple(neuron for neuron in ordered if votes[neuron] >= needed), round(p, 4))

    def direction(result: SharedNeurons) -> int:
        """Return 1 if p must rise, -1 if it must fall, and 0 if the number of neurons is in range."""
        return (len(result.neurons) > parameters.most) - (len(result.neurons) < parameters.fewest)

    current = shared(parameters.sharing)
    for _ in range(parameters.tries - 1):
        sign = direction(current)
        p = current.sharing + sign * parameters.step
        if sign == 0 or not 0 < round(p, 4) <= 1:
            break
        following = shared(p)
        if direction(following) == -sign:
            return max((current, following), key=lambda result: len(result.neurons))
        current = following
    return current
