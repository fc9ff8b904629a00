"""Causal tracing: the states that carry an answer from the subject to the end of the prompt.

Meng et al. 2022, section 2: noise is added to the embeddings of the subject (the corrupted run), and one state is
restored to its value in the clean run. The increase of the answer's probability is the indirect effect of that state.
Niu et al. 2024, section 4.3, apply the method to the cue of a grammatical rule.

The result equals that of one forward pass per state, with less computation. A state at position i of layer l affects
only positions from i on in layers above l. Keys and values of positions before i are read from the cache of the
corrupted run. The rows of all layers share one pass, in which the rows of layer l are appended at layer l + 1.
Positions before the subject are not traced, because the clean and the corrupted run agree there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..core.schema import EditRequest, Task, derived_seed
from ..models.hooks import (
    FixedPast,
    Side,
    append_rows,
    capture,
    capture_head_input,
    edit_output,
    resume_at,
    select_positions,
)
from ..models.language_model import LanguageModel
from .base import group_by_task

Kind = Literal["state", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("state", "mlp", "attention")
ROLES = ("subject first", "subject middle", "subject last", "next", "further", "last")
"""Roles of tokens, by which prompts of different length are aligned. The token of a one-token subject is its last."""
HEAD_ROWS = 64
"""Rows per pass through the output head, which limits the memory for logits."""


@dataclass(frozen=True)
class TraceSettings:
    """Settings of causal tracing.

    Attributes:
        samples: number of noise samples.
        noise: standard deviation of the noise, in standard deviations of the subjects' embeddings.
        window: number of consecutive layers whose MLP or attention outputs are restored together.
        seed: seed of the noise.

    Raises:
        ValueError: ``samples`` or ``window`` is below 1, or ``noise`` is not positive.
    """

    samples: int = 10
    noise: float = 3.0
    window: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.window < 1 or self.noise <= 0:
            raise ValueError("samples and window must be at least 1, and noise must be positive")


@dataclass(frozen=True)
class TraceResult:
    """The result of tracing one prompt.

    Attributes:
        clean: probability of the answer in the clean run.
        corrupted: probability of the answer in the corrupted run, mean over samples.
        effects: indirect effects of each kind, mean over samples, of shape (position, layer).
        roles: role of each position, or None before the subject.
    """

    clean: float
    corrupted: float
    effects: Mapping[Kind, Tensor]
    roles: tuple[str | None, ...]


def noise_scale(lm: LanguageModel, task: Task, factor: float) -> float:
    """Return the standard deviation of the noise: ``factor`` times that of the embeddings of the task's subjects.

    Subjects are tokenised after a space, as within a prompt. The released code of Meng et al. 2022 tokenises them
    without the space, which can give another value (23% smaller on a toy model).
    """
    embed = lm.model.get_input_embeddings()
    ids = []
    for subject in dict.fromkeys(case.request.subject for case in task.cases if case.request.subject):
        ids += lm.tokenizer(f" {subject}", add_special_tokens=False).input_ids
    with torch.no_grad():
        embeddings: Tensor = embed(torch.tensor(ids, device=lm.device)).float()
    return factor * float(embeddings.std())


@torch.inference_mode()
def trace(lm: LanguageModel, request: EditRequest, scale: float, settings: TraceSettings) -> TraceResult:
    """Trace the true answer of one prompt.

    Args:
        lm: a causal model.
        request: the prompt, subject and true target. Only the first token of the target is traced.
        scale: standard deviation of the noise, see :func:`noise_scale`.
        settings: samples, window and seed.

    Raises:
        ValueError: the model is not causal, the prompt cannot be tokenised, or subject and answer share a token.
    """
    if not lm.causal:
        raise ValueError("tracing needs a causal model")
    context, target = lm.split(request.text, request.target_true)
    tokens, span = lm.subject_span(request.prompt, request.subject, request.target_true)
    if tokens.ids[: span[-1] + 1] != context[: span[-1] + 1]:
        raise ValueError(f"the subject {request.subject!r} shares a token with the answer")
    runs = _TracingRuns(lm, context, span, target[0], scale * sample_noise(lm, request, len(span), settings))
    layers, length = lm.n_layers, len(context)
    effects: dict[Kind, Tensor] = {kind: torch.zeros(length, layers) for kind in KINDS}
    for position in range(span[0], length):
        effects["state"][position] = runs.restored_states(position) - runs.corrupted
        for kind in ("mlp", "attention"):
            effects[kind][position] = runs.restored_windows(position, kind, settings.window) - runs.corrupted
    return TraceResult(runs.clean, runs.corrupted, effects, token_roles(span, length))


def sample_noise(lm: LanguageModel, request: EditRequest, count: int, settings: TraceSettings) -> Tensor:
    """Return standard normal noise of shape (sample, subject token, d).

    The noise is drawn on the CPU from the seed and the prompt; it is the same on every device.
    """
    generator = torch.Generator().manual_seed(derived_seed(settings.seed, "trace", request.text))
    width = lm.model.get_input_embeddings().weight.shape[1]
    return torch.randn(settings.samples, count, width, generator=generator).to(lm.device, lm.dtype)


def token_roles(span: range, length: int) -> tuple[str | None, ...]:
    """Return the role of each position of a prompt whose subject covers ``span``.

    >>> token_roles(range(1, 3), 6)
    (None, 'subject first', 'subject last', 'next', 'further', 'last')
    """
    roles: list[str | None] = [None] * length
    for position in range(span[0], length):
        if position == span[-1]:
            roles[position] = "subject last"
        elif position == span[0]:
            roles[position] = "subject first"
        elif position < span[-1]:
            roles[position] = "subject middle"
        elif position == length - 1:
            roles[position] = "last"
        else:
            roles[position] = "next" if position == span[-1] + 1 else "further"
    return tuple(roles)


def layer_windows(layers: int, window: int) -> list[range]:
    """Return for each layer the layers around it that are restored together.

    >>> layer_windows(4, 2)
    [range(0, 1), range(0, 2), range(1, 3), range(2, 4)]
    """
    return [range(max(0, n - window // 2), min(layers, n + (window + 1) // 2)) for n in range(layers)]


class _TracingRuns:
    """The clean and the corrupted run of a prompt, and corrupted runs with restored states.

    A cell is a layer whose state, or whose window of outputs, is restored at a position.

    Attributes:
        clean: probability of the answer in the clean run.
        corrupted: probability of the answer in the corrupted run, mean over samples.
    """

    def __init__(self, lm: LanguageModel, ids: Sequence[int], span: range, token: int, noise: Tensor) -> None:
        self.lm, self.token, self.samples = lm, token, len(noise)
        self.ids = torch.tensor([list(ids)], device=lm.device)
        layers = range(lm.n_layers)
        wanted: dict[str, tuple[nn.Module, Side]] = {}
        for n in layers:
            wanted |= {
                f"out{n}": (lm.block(n), "output"),
                f"mlp{n}": (lm.mlp(n), "output"),
                f"attention{n}": (lm.attention(n), "output"),
            }
        rows, last = torch.zeros(1, dtype=torch.long), torch.tensor([len(ids) - 1])
        with capture(wanted) as outputs, select_positions(lm, rows, last):
            logits = lm.model(input_ids=self.ids, use_cache=False).logits
        self.clean_outputs = outputs  # each of shape (1, position, d)
        self.clean = float(logits.float().softmax(-1).reshape(-1, logits.shape[-1])[0, token])

        def corrupt(embeddings: Tensor) -> Tensor:
            corrupted = embeddings.clone()
            corrupted[:, span[0] : span[-1] + 1] += noise
            return corrupted

        cache = DynamicCache()
        inputs: dict[str, tuple[nn.Module, Side]] = {f"x{n}": (lm.block(n), "input") for n in layers}
        rows, last = torch.arange(self.samples), torch.full((self.samples,), len(ids) - 1)
        embed = lm.model.get_input_embeddings()
        with capture(inputs) as states, edit_output(embed, corrupt), select_positions(lm, rows, last):
            repeated = self.ids.expand(self.samples, -1)
            logits = lm.model(input_ids=repeated, past_key_values=cache, use_cache=True).logits
        self.states = [states[f"x{n}"] for n in layers]  # (sample, position, d)
        self.past = [(layer.keys, layer.values) for layer in cache.layers]
        self.corrupted = float(logits.float().softmax(-1).reshape(self.samples, -1)[:, token].mean())

    def restored_states(self, position: int) -> Tensor:
        """Return the answer's probability with the output of one block restored at a position, of shape (layer,)."""
        final = len(self.ids[0]) - 1
        # After the last block no information moves between positions.
        top = torch.tensor([self.clean if position == final else self.corrupted])
        starts = {n: n + 1 for n in range(self.lm.n_layers - 1)}
        if not starts:
            return top

        def initial_state(cell: int) -> Tensor:
            state = self.states[cell + 1][:, position:].clone()
            state[:, 0] = self.clean_outputs[f"out{cell}"][0, position]
            return state

        return torch.cat([self._run(position, starts, initial_state, None, {}), top])

    def restored_windows(self, position: int, kind: str, window: int) -> Tensor:
        """Return the answer's probability with outputs of a layer window restored at a position, of shape (layer,)."""
        restored_layers = dict(enumerate(layer_windows(self.lm.n_layers, window)))
        starts = {cell: layers[0] for cell, layers in restored_layers.items()}
        return self._run(position, starts, lambda cell: self.states[starts[cell]][:, position:], kind, restored_layers)

    def _run(
        self,
        position: int,
        starts: Mapping[int, int],
        initial_state: Callable[[int], Tensor],
        kind: str | None,
        restored_layers: Mapping[int, range],
    ) -> Tensor:
        """Run all cells in one pass. The rows of a cell are appended at its first block.

        Args:
            position: first position that is computed. Earlier positions are read from the corrupted run's cache.
            starts: first block of each cell, in ascending order.
            initial_state: returns the input of a cell's first block, of shape (sample, position, d).
            kind: ``mlp`` or ``attention``, whose outputs are restored at the first position; None restores none.
            restored_layers: layers in which each cell's outputs are restored.

        Returns:
            Probability of the answer for each cell, mean over samples.
        """
        lm, count = self.lm, self.samples
        first, past = min(starts.values()), []
        for n, (keys, values) in enumerate(self.past):
            active = max(1, sum(start <= n for start in starts.values()))
            past.append(tuple(t[:, :, :position].repeat(active, 1, 1, 1) for t in (keys, values)))
        length = self.ids.shape[1] - position
        mask = torch.full((length, length), torch.finfo(lm.dtype).min, dtype=lm.dtype, device=lm.device).triu(1)
        mask = torch.cat([mask.new_zeros(length, position), mask], dim=1)[None, None]
        with ExitStack() as stack:
            stack.enter_context(resume_at(lm, first, self.states[first][:1, position:]))
            for n in range(first, lm.n_layers):
                cells = [cell for cell, start in starts.items() if start == n]
                rows = torch.cat([initial_state(cell) for cell in cells]) if cells else self.states[n][:0, position:]
                stack.enter_context(append_rows(lm.block(n), rows, mask=mask, first=n == first))
                restored = [i for i, cell in enumerate(starts) if n in restored_layers.get(cell, ())]
                if kind is not None and restored:
                    restored_rows = slice(restored[0] * count, (restored[-1] + 1) * count)
                    module = lm.mlp(n) if kind == "mlp" else lm.attention(n)
                    clean_output = self.clean_outputs[f"{kind}{n}"][0, position]
                    stack.enter_context(edit_output(module, _restore(clean_output, restored_rows)))
            head_input = stack.enter_context(capture_head_input(lm, lambda x: x[:, -1], through=not lm.head_is_last))
            logits = lm.model(
                input_ids=self.ids[:, position:],
                position_ids=torch.arange(position, self.ids.shape[1], device=lm.device)[None],
                past_key_values=FixedPast(past),
                use_cache=True,
            ).logits
        if lm.head_is_last:
            chunks = torch.split(head_input[0], HEAD_ROWS)
            probabilities = torch.cat([lm.head(chunk).float().softmax(-1)[:, self.token] for chunk in chunks])
        else:
            probabilities = logits.reshape(len(head_input[0]), -1).float().softmax(-1)[:, self.token]
        return probabilities.view(len(starts), count).mean(1).cpu()


def _restore(value: Tensor, rows: slice) -> Callable[[Tensor], Tensor]:
    """Return a function that sets the first position of some rows to a value of shape (d,)."""

    def change(output: Tensor) -> Tensor:
        changed = output.clone()
        changed[rows, 0] = value
        return changed

    return change


def mean_effects_by_role(result: TraceResult) -> dict[str, dict[str, list[float]]]:
    """Return the effects of each kind by role and layer, averaged over the positions with the same role."""
    table: dict[str, dict[str, list[float]]] = {}
    for kind, effects in result.effects.items():
        for role in ROLES:
            positions = [i for i, r in enumerate(result.roles) if r == role]
            if positions:
                table.setdefault(kind, {})[role] = effects[positions].mean(0).tolist()
    return table


def summarise_traces(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the average indirect effect of each task by kind, role and layer, and its maximum for each kind.

    Args:
        rows: one row per prompt with ``clean``, ``corrupted``, ``effects`` from :func:`mean_effects_by_role`, ``task``,
            ``kind`` and ``failure``.
    """
    table = []
    for task, members in group_by_task(rows).items():
        good = [row for row in members if row["failure"] is None]
        kinds: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            for role in ROLES:
                effects = [row["effects"][kind][role] for row in good if role in row["effects"].get(kind, {})]
                if effects:
                    mean = torch.tensor(effects).double().mean(0)
                    kinds.setdefault(kind, {})[role] = {"prompts": len(effects), "effect": mean.tolist()}
        peaks = {kind: _peak(roles) for kind, roles in kinds.items()}
        table.append(
            {
                "task": task,
                "kind": members[0]["kind"],
                "prompts": len(good),
                "failed": len(members) - len(good),
                "clean": sum(row["clean"] for row in good) / len(good) if good else None,
                "corrupted": sum(row["corrupted"] for row in good) / len(good) if good else None,
                "effects": kinds,
                "peaks": peaks,
            }
        )
    return table


def _peak(roles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the role and layer with the largest average effect."""
    role, layer = max(
        ((role, layer) for role, row in roles.items() for layer in range(len(row["effect"]))),
        key=lambda cell: roles[cell[0]]["effect"][cell[1]],
    )
    return {"role": role, "layer": layer, "effect": roles[role]["effect"][layer]}
