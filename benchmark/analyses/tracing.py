"""Causal tracing: which states carry an answer from the subject to the end of the prompt.

Meng et al. 2022, section 2: the subject's embeddings are blurred by noise, one state is put back as it was in the clean
run, and the answer's probability that comes back with it is that state's indirect effect. Niu et al. 2024, section 4.3,
do the same to the cue of a grammatical rule.

The same numbers as one pass per state, with less work: what a state at position i of layer l can change lies at and
behind i, above l. The text before i is read from the blurred run's cache; rows of all layers share one pass, those of
layer l joining at layer l + 1; nothing is computed for positions before the subject, where clean and blurred agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from .base import by_task

Kind = Literal["state", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("state", "mlp", "attention")
ROLES = ("subject first", "subject middle", "subject last", "next", "further", "last")
"""What prompts are aligned by. A subject of one token is its own last; behind it come next, further and last."""
HEAD_ROWS = 64


@dataclass(frozen=True)
class TraceSettings:
    """How tracing is done.

    Attributes:
        samples: draws of the noise.
        noise: its standard deviation, in standard deviations of the subjects' embeddings.
        window: layers whose MLP or attention outputs are put back together, around the one that is named.
        seed: of the noise.
    """

    samples: int = 10
    noise: float = 3.0
    window: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.window < 1 or self.noise <= 0:
            raise ValueError("samples and window must be at least 1, noise above 0")


@dataclass(frozen=True)
class Trace:
    """What tracing one prompt gives.

    Attributes:
        clean: the answer's probability.
        corrupted: the same with a blurred subject, mean over samples.
        effects: of each kind, probability that comes back, mean over samples, (position, layer).
        roles: of each position, or None before the subject.
    """

    clean: float
    corrupted: float
    effects: Mapping[Kind, Tensor]
    roles: tuple[str | None, ...]


def subject_noise(lm: LanguageModel, task: Task, factor: float) -> float:
    """Return the noise's standard deviation: so many times that of the embeddings of a task's subjects."""
    embed = lm.model.get_input_embeddings()
    ids = []
    for subject in dict.fromkeys(case.request.subject for case in task.cases):
        ids += lm.tokenizer(f" {subject}", add_special_tokens=False).input_ids
    with torch.no_grad():
        found: Tensor = embed(torch.tensor(ids, device=lm.device)).float()
    return factor * float(found.std())


@torch.inference_mode()
def trace(lm: LanguageModel, request: EditRequest, scale: float, settings: TraceSettings) -> Trace:
    """Trace the true answer of one prompt.

    Args:
        lm: a causal model.
        request: whose prompt, subject and true target are traced; of a longer target, the first token.
        scale: standard deviation of the noise, see :func:`subject_noise`.
        settings: samples, window and seed.

    Raises:
        ValueError: the model is a masked one, or the prompt cannot be tokenised.
    """
    if not lm.causal:
        raise ValueError("tracing needs a causal model")
    context, target = lm.split(request.text, request.target_true)
    tokens, span = lm.subject_span(request.prompt, request.subject)
    if tokens.ids[: span[-1] + 1] != context[: span[-1] + 1]:
        raise ValueError(f"the subject {request.subject!r} shares a token with the answer")
    run = _Runs(lm, context, span, target[0], scale * _noise(lm, request, len(span), settings))
    layers, length = lm.n_layers, len(context)
    effects: dict[Kind, Tensor] = {kind: torch.zeros(length, layers) for kind in KINDS}
    for position in range(span[0], length):
        effects["state"][position] = run.restored_states(position) - run.corrupted
        for kind in ("mlp", "attention"):
            effects[kind][position] = run.restored_windows(position, kind, settings.window) - run.corrupted
    return Trace(run.clean, run.corrupted, effects, roles_of(span, length))


def _noise(lm: LanguageModel, request: EditRequest, count: int, settings: TraceSettings) -> Tensor:
    """Return standard normal draws, (sample, token of the subject, d), the same wherever they are drawn."""
    generator = torch.Generator().manual_seed(derived_seed(settings.seed, "trace", request.text))
    width = lm.shape["width"]
    return torch.randn(settings.samples, count, width, generator=generator).to(lm.device, lm.dtype)


def roles_of(span: range, length: int) -> tuple[str | None, ...]:
    """Return the role of each position of a prompt whose subject covers ``span``.

    >>> roles_of(range(1, 3), 6)
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


def windows(layers: int, window: int) -> list[range]:
    """Return, for each layer, the layers around it that are put back together.

    >>> windows(4, 2)
    [range(0, 1), range(0, 2), range(1, 3), range(2, 4)]
    """
    return [range(max(0, n - window // 2), min(layers, n + (window + 1) // 2)) for n in range(layers)]


class _Runs:
    """The clean run and the blurred one of a prompt, and runs in which something of the clean is put back.

    Attributes:
        clean: probability of the answer in the clean run.
        corrupted: mean probability in the blurred one.
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
        with capture(wanted) as seen, select_positions(lm, rows, last):
            logits = lm.model(input_ids=self.ids, use_cache=False).logits
        self.kept = seen  # of shape (1, position, d) each
        self.clean = float(logits.float().softmax(-1).reshape(-1, logits.shape[-1])[0, token])

        def blur(embedded: Tensor) -> Tensor:
            blurred = embedded.clone()
            blurred[:, span[0] : span[-1] + 1] += noise
            return blurred

        cache = DynamicCache()
        inputs: dict[str, tuple[nn.Module, Side]] = {f"x{n}": (lm.block(n), "input") for n in layers}
        rows, last = torch.arange(self.samples), torch.full((self.samples,), len(ids) - 1)
        embed = lm.model.get_input_embeddings()
        with capture(inputs) as states, edit_output(embed, blur), select_positions(lm, rows, last):
            repeated = self.ids.expand(self.samples, -1)
            logits = lm.model(input_ids=repeated, past_key_values=cache, use_cache=True).logits
        self.states = [states[f"x{n}"] for n in layers]  # (sample, position, d)
        self.past = [(layer.keys, layer.values) for layer in cache.layers]
        self.corrupted = float(logits.float().softmax(-1).reshape(self.samples, -1)[:, token].mean())

    def restored_states(self, position: int) -> Tensor:
        """Return the answer's probability with one block's output put back at a position, for each layer, (layer,)."""
        final = len(self.ids[0]) - 1
        # Behind the last block nothing moves between positions any more.
        top = torch.tensor([self.clean if position == final else self.corrupted])
        starts = {n: n + 1 for n in range(self.lm.n_layers - 1)}
        if not starts:
            return top

        def entering(cell: int) -> Tensor:
            state = self.states[cell + 1][:, position:].clone()
            state[:, 0] = self.kept[f"out{cell}"][0, position]
            return state

        return torch.cat([self._run(position, starts, entering, None, {}), top])

    def restored_windows(self, position: int, kind: str, window: int) -> Tensor:
        """Return the same with the MLP or attention outputs of a window of layers put back, (layer,)."""
        reach = dict(enumerate(windows(self.lm.n_layers, window)))
        starts = {cell: layers[0] for cell, layers in reach.items()}
        return self._run(position, starts, lambda cell: self.states[starts[cell]][:, position:], kind, reach)

    def _run(
        self,
        position: int,
        starts: Mapping[int, int],
        entering: Any,
        kind: str | None,
        reach: Mapping[int, range],
    ) -> Tensor:
        """Run all cells in one pass, each joining at its layer.

        Args:
            position: from which the text is computed; what stands before is read from the blurred run's cache.
            starts: at which block each cell joins, rising.
            entering: the hidden states that a cell joins with, (sample, position, d).
            kind: whose outputs are put back at the first position, or None.
            reach: in which layers, for each cell.
        """
        lm, count = self.lm, self.samples
        first, past = min(starts.values()), []
        for n, (keys, values) in enumerate(self.past):
            joined = max(1, sum(start <= n for start in starts.values()))
            past.append(tuple(t[:, :, :position].repeat(joined, 1, 1, 1) for t in (keys, values)))
        length = self.ids.shape[1] - position
        mask = torch.full((length, length), torch.finfo(lm.dtype).min, dtype=lm.dtype, device=lm.device).triu(1)
        mask = torch.cat([mask.new_zeros(length, position), mask], dim=1)[None, None]
        with ExitStack() as stack:
            stack.enter_context(resume_at(lm, first, self.states[first][:1, position:]))
            for n in range(first, lm.n_layers):
                cells = [cell for cell, start in starts.items() if start == n]
                rows = torch.cat([entering(cell) for cell in cells]) if cells else self.states[n][:0, position:]
                stack.enter_context(append_rows(lm.block(n), rows, dim=0, mask=mask, first=n == first))
                touched = [i for i, cell in enumerate(starts) if n in reach.get(cell, ())]
                if kind is not None and touched:
                    rows_of = slice(touched[0] * count, (touched[-1] + 1) * count)
                    module = lm.mlp(n) if kind == "mlp" else lm.attention(n)
                    stack.enter_context(edit_output(module, _putting(self.kept[f"{kind}{n}"][0, position], rows_of)))
            asked = stack.enter_context(capture_head_input(lm, lambda x: x[:, -1], through=not lm.head_is_last))
            logits = lm.model(
                input_ids=self.ids[:, position:],
                position_ids=torch.arange(position, self.ids.shape[1], device=lm.device)[None],
                past_key_values=FixedPast(past),
                use_cache=True,
            ).logits
        if lm.head_is_last:
            parts = [lm.head(part).float().softmax(-1)[:, self.token] for part in torch.split(asked[0], HEAD_ROWS)]
            found = torch.cat(parts)
        else:
            found = logits.reshape(len(asked[0]), -1).float().softmax(-1)[:, self.token]
        return found.view(len(starts), count).mean(1).cpu()


def _putting(value: Tensor, rows: slice) -> Any:
    def put(output: Tensor) -> Tensor:
        changed = output.clone()
        changed[rows, 0] = value
        return changed

    return put


# --- over prompts ------------------------------------------------------------------------------------------------


def by_role(found: Trace) -> dict[str, dict[str, list[float]]]:
    """Return the effects of each kind by role, the mean over positions that share one, per layer."""
    table: dict[str, dict[str, list[float]]] = {}
    for kind, effects in found.effects.items():
        for role in ROLES:
            at = [i for i, r in enumerate(found.roles) if r == role]
            if at:
                table.setdefault(kind, {})[role] = effects[at].mean(0).tolist()
    return table


def summarise_traces(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the average indirect effect of each task: per kind and role, a mean over prompts for each layer."""
    table = []
    for task, members in by_task(rows).items():
        good = [row for row in members if row["failure"] is None]
        kinds: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            for role in ROLES:
                effects = [row["effects"][kind][role] for row in good if role in row["effects"].get(kind, {})]
                if effects:
                    mean = torch.tensor(effects).double().mean(0)
                    kinds.setdefault(kind, {})[role] = {"prompts": len(effects), "effect": mean.tolist()}
        peaks = {kind: _peak(found) for kind, found in kinds.items()}
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


def _peak(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return where the largest average effect stands."""
    role, layer = max(
        ((role, layer) for role, row in found.items() for layer in range(len(row["effect"]))),
        key=lambda at: found[at[0]]["effect"][at[1]],
    )
    return {"role": role, "layer": layer, "effect": found[role]["effect"][layer]}
