"""MEMIT, EMMET and AlphaEdit: many facts at once, spread over several MLP layers.

All three seek for each fact the output z of the last edited block, as MEMIT does (Meng et al. 2023, "Mass-Editing
Memory in a Transformer", ICLR, section 4.3), and then go through the layers: with K the keys of all facts (m, n) and
R what is still missing at the last block, divided by the layers left (d, n),

    W += R (K^T A K + lambda I)^-1 K^T A.

They differ in A (m, m) alone. With A = C^-1, by the Woodbury identity, this is MEMIT's R K^T (lambda C + K K^T)^-1, a
least-squares compromise with the keys of text; EMMET (Gupta et al. 2024, "A Unified Framework for Model Editing")
takes the same A and a small lambda, which makes the new facts equality constraints; AlphaEdit (Fang et al. 2025, ICLR)
takes for A the projection on the null space of C, so that what text uses is left exactly as it is. Written so, the
system to solve is as large as the number of facts, not as the layer is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import SLOT, EditRequest, JsonObject
from ..benchmark.editing import Edit
from ..benchmark.models.hooks import Side, capture, resume_at, select_positions, stop_after
from ..benchmark.models.language_model import LanguageModel
from .published import published
from .shared.contexts import ContextEditor
from .shared.covariance import SecondMoments
from .shared.value_config import ValueConfig
from .shared.value_vectors import value_vectors

ROWS = 64
"""Texts that are read at once."""


@dataclass(frozen=True, kw_only=True)
class MemitConfig(ValueConfig):
    """Hyper-parameters; those of the value z stand in :class:`ValueConfig`.

    Attributes:
        layers: whose MLP output projections are changed, in this order.
        ridge: lambda, the weight of the keys of text against the new ones.
    """

    layers: tuple[int, ...]
    ridge: float = 15000.0
    steps: int = 25
    clamp: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or min(self.layers) < 0 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers must be one or more, in rising order, such as 4|5|6")
        if self.ridge < 0:
            raise ValueError("ridge must not be negative")


class Memit(ContextEditor[MemitConfig]):
    """Mass-editing memory in a transformer."""

    name = "memit"
    summary = "Least-squares update of several MLP layers, for many facts at once"
    paper = "Meng et al. 2023 (ICLR)"
    Config: ClassVar[type] = MemitConfig
    published = published("memit")
    causal_only = True
    lengths = (10,)
    per_length = 5
    protects_earlier: ClassVar[bool] = False
    """Whether the keys of earlier edits enter the update."""

    def __init__(self, config: MemitConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.moments = SecondMoments(config.text(seed))

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Take up to five layers that end a quarter up, as the published settings for GPT-J and Llama do."""
        last = max(round(0.26 * lm.n_layers), 1)
        return {"layers": tuple(range(max(0, last - 4), last + 1))}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts and compute the second moments."""
        facts = super().prepare(lm, reporter)
        return {**facts, "second_moment": self.moments.prepare(lm, self.config.layers, reporter)}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Write all facts, layer after layer, each layer taking an equal share of what is still missing."""
        return self.edit_next(lm, requests, ())

    def edit_next(self, lm: LanguageModel, requests: Sequence[EditRequest], earlier: Sequence[EditRequest]) -> Edit:
        """As :meth:`edit`; only a method that protects earlier edits takes note of them."""
        layers, contexts = self.config.layers, self.contexts(lm)
        found = value_vectors(lm, requests, layers[-1], contexts, self.config.objective, site="block")
        wanted = torch.stack([f.value for f in found])  # (n, d)
        read = _Subjects(lm, requests, contexts, layers)
        old = _Subjects(lm, earlier, contexts, layers) if earlier and self.protects_earlier else None
        weights: dict[str, Tensor] = {}
        missing = []
        with ExitStack() as stack:
            for done, layer in enumerate(layers):
                keys, current = read.now(layer)  # (n, m), (n, d)
                rest = wanted - current
                missing.append(float(rest.norm(dim=-1).mean()))
                protected = None if old is None else old.now(layer)[0].T  # (m, earlier)
                update = self.update(lm, layer, keys.T, rest.T / (len(layers) - done), protected)
                name = lm.mlp_weight_name(layer)
                weight = lm.parameter(name).detach()
                weights[name] = (weight.float() + lm.as_stored(layer, update)).to(weight.dtype)
                stack.enter_context(Edit(weights={name: weights[name]}).applied(lm))
        losses = [[round(x, 6) for x in f.losses] for f in found]
        return Edit(weights=weights, diagnostics={"losses": losses, "missing": missing})

    def update(
        self, lm: LanguageModel, layer: int, keys: Tensor, rest: Tensor, earlier: Tensor | None = None
    ) -> Tensor:
        """Return R (K^T A K + lambda I)^-1 K^T A in float32, solved in float64.

        Args:
            lm: the model.
            layer: which layer.
            keys: K, (m, n).
            rest: R, (d, n).
            earlier: keys of earlier edits, (m, e), for a method that protects them.
        """
        weighed = self.weighed(lm, layer, keys, earlier)  # A K, (m, n)
        system = keys.double().T @ weighed
        system += self.config.ridge * torch.eye(len(system), dtype=system.dtype, device=system.device)
        update: Tensor = rest.double() @ torch.linalg.solve(system, weighed.T)
        return update.float()

    def weighed(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return A K in float64, (m, n)."""
        del earlier
        return self.moments.solve(lm, layer, keys)


@dataclass(frozen=True, kw_only=True)
class EmmetConfig(MemitConfig):
    """MEMIT's with a lambda that only keeps the system solvable."""

    ridge: float = 0.1


class Emmet(Memit):
    """Equality-constrained mass model editing."""

    name = "emmet"
    summary = "As MEMIT, with the new facts as equality constraints"
    paper = "Gupta et al. 2024, A Unified Framework for Model Editing"
    Config = EmmetConfig
    published = published("emmet")


@dataclass(frozen=True, kw_only=True)
class AlphaEditConfig(MemitConfig):
    """MEMIT's, and which directions count as unused.

    Attributes:
        threshold: eigenvalues of C under it belong to the null space; None takes the mean eigenvalue, since a bound
            that was published for one model means little at another's scale.
    """

    ridge: float = 10.0
    threshold: float | None = None


class AlphaEdit(Memit):
    """Null-space constrained editing."""

    name = "alphaedit"
    summary = "As MEMIT, with the update projected on directions that text does not use"
    paper = "Fang et al. 2025 (ICLR)"
    Config = AlphaEditConfig
    published = published("alphaedit")
    config: AlphaEditConfig
    protects_earlier = True

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute the preserved directions too."""
        facts = super().prepare(lm, reporter)
        with reporter.stage("directions that text uses", len(self.config.layers)) as step:
            for layer in self.config.layers:
                self.moments.preserved(lm, layer, self.config.threshold)
                step()
        return facts

    def weighed(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return the keys without their part in the preserved directions, and shielded from earlier edits' keys.

        With F the free part of the earlier keys, A is the inverse of I + F F^T / lambda on the null space, which is
        the paper's (K_p K_p^T P + K K^T P + lambda I)^-1 by the Woodbury identity (equation 14).

        Raises:
            ValueError: nothing is left of a key.
        """
        preserved = self.moments.preserved(lm, layer, self.config.threshold)  # (m, r)
        wide = keys.double()
        free = wide - preserved @ (preserved.T @ wide)
        if bool((free.norm(dim=0) < 1e-9 * wide.norm(dim=0)).any()):
            raise ValueError(f"layer {layer} has no direction that text leaves free; set threshold higher")
        if earlier is None:
            return free
        old = earlier.double()
        old = old - preserved @ (preserved.T @ old)  # F, (m, e)
        inner = old.T @ old
        inner += self.config.ridge * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        shielded: Tensor = free - old @ torch.linalg.solve(inner, old.T @ free)
        return shielded


class _Subjects:
    """Reads keys and block outputs at the subjects' last tokens, as often as the layers change.

    What stands below the first edited layer never changes and is computed once; what follows the subject and what
    lies above the last layer is not computed at all.
    """

    def __init__(
        self, lm: LanguageModel, requests: Sequence[EditRequest], contexts: Sequence[str], layers: Sequence[int]
    ) -> None:
        self.lm, self.first, self.last = lm, layers[0], layers[-1]
        self.n_requests, self.n_contexts = len(requests), len(contexts)
        rows = []
        for request in requests:
            for context in contexts:
                template = lm.prompt_prefix + context.replace(SLOT, request.prompt, 1)
                # With the target, as the value vectors read it: a token may cover the subject and what follows it.
                tokens, span = lm.subject_span(f"{template} {request.target_new}", request.subject)
                rows.append(tokens.ids[: span[-1] + 1])
        self.batches = [lm.pad(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
        below: dict[str, tuple[nn.Module, Side]] = {"x": (lm.block(self.first), "input")}
        self.states = []
        for batch in self.batches:
            with capture(below) as seen, stop_after(lm, self.first):
                self._run(batch)
            self.states.append(seen["x"])

    def _run(self, batch: Any) -> None:
        spot = torch.zeros(1, dtype=torch.long, device=self.lm.device)
        with torch.no_grad(), select_positions(self.lm, spot, spot):
            self.lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)

    def now(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys of a layer, (request, m), and the outputs of the last block, (request, d), in float32.

        The bare prompt's key and the mean of the others' count the same (Meng et al. 2023, released code); outputs
        are those of the bare prompt.
        """
        lm = self.lm
        wanted: dict[str, tuple[nn.Module, Side]] = {
            "k": (lm.mlp_out(layer), "input"),
            "v": (lm.block(self.last), "output"),
        }
        keys, outputs = [], []
        for batch, state in zip(self.batches, self.states, strict=True):
            with capture(wanted) as seen, resume_at(lm, self.first, state), stop_after(lm, self.last):
                self._run(batch)
            index = torch.arange(len(batch.ids), device=lm.device)
            keys.append(seen["k"][index, batch.lengths - 1].float())
            outputs.append(seen["v"][index, batch.lengths - 1].float())
        k = torch.cat(keys).view(self.n_requests, self.n_contexts, -1)
        bare, others = k[:, 0], k[:, 1:]
        v = torch.cat(outputs).view(self.n_requests, self.n_contexts, -1)[:, 0]
        return (bare + others.mean(1)) / 2 if self.n_contexts > 1 else bare, v
