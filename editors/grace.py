"""GRACE: a codebook beside one linear module, which replaces the module's output near the keys of edited prompts.

Hartvigsen et al. 2023, "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors" (NeurIPS). The
input q of an MLP output projection at the last token of the prompt is the key of an edit. With the nearest key k_i of
the book, its radius e_i, and s = |q - k_i|, an edit

- adds an entry (q, v, e_0) if the book is empty or s > e_0 + e_i;
- otherwise, if the entry has another answer, adds (q, v, s / 2) and sets e_i = s / 2 - 1e-5;
- otherwise sets e_i = s if s > e_i.

Adam then trains v, or the value of the nearest entry if none was added, on the mean negative log-likelihood of the
target's tokens. For a prompt whose nearest key has s <= e_i, the output is replaced by the entry's value.

The decision is taken once per text, at the last token of the prompt, and the output of this token is replaced. The
released code replaces the output of the tokens before it (``replace = "prompt"``), takes the last token of the padded
batch for the key, and decides again at each generated token. It compares answers by the mean of the padded label
tensor; here the token ids are compared. A radius can grow when it is split, as in the released code. The radius of
the paper, 1.0, has no meaning in other models: it is calibrated as a quantile of the distances between unrelated
prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.editing import Edit, Editor, Memory, Reading, State, hyperparameter
from ..benchmark.models.hooks import edit_output, resume_at
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import TargetBatch
from .shared.calibration import low_quantile
from .shared.prompt_inputs import inputs_at_end
from .shared.published import published
from .shared.training import block_inputs
from .shared.warm_up import WARM_UP_TASKS, warm_up_requests

Replace = Literal["last", "prompt", "all"]
GAP = 1e-5
"""Distance between the two balls of a split entry."""


@dataclass(frozen=True, kw_only=True)
class GraceConfig:
    """Hyper-parameters of GRACE."""

    layer: int = hyperparameter(help="Layer whose MLP output projection has the codebook.")
    radius: float | None = hyperparameter(
        None, help="Radius e_0 of a new entry; none takes a quantile of the distances between unrelated prompts."
    )
    quantile: float = hyperparameter(0.01, help="This quantile.")
    calibration: int = hyperparameter(100, help="Number of tuning cases whose prompts are compared.")
    calibration_tasks: tuple[str, ...] = hyperparameter(WARM_UP_TASKS, help="Tasks of these cases, in turn.")
    start: Literal["warm", "cold"] = hyperparameter(
        "warm", help="First value of an entry: the module's output (warm) or uniform random numbers (cold)."
    )
    steps: int = hyperparameter(50, help="Number of optimisation steps of a value.")
    learning_rate: float = hyperparameter(1.0, help="Learning rate of Adam.")
    replace: Replace = hyperparameter(
        "last", help="Replaced positions: the last token of the prompt, the tokens of the prompt before it, or all."
    )
    expand: Literal["coverage", "moving_average"] = hyperparameter(
        "coverage", help="Whether an entry that covers a further prompt keeps its key or moves it half way."
    )

    def __post_init__(self) -> None:
        if self.layer < 0 or self.steps < 1 or self.learning_rate <= 0 or (self.radius is not None and self.radius < 0):
            raise ValueError("layer and radius must not be negative, steps at least 1, learning_rate above 0")
        if not 0 <= self.quantile <= 1 or self.calibration < 2:
            raise ValueError("quantile must be between 0 and 1, calibration at least 2")


@dataclass(frozen=True)
class Codebook(Memory):
    """Keys (n, in), values (n, out) and radii (n,). Settings: the module, the answers' tokens, and what is replaced."""

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest key and its number for each query, (query, in). The first key wins ties.

        The book must not be empty.
        """
        exact = "donot_use_mm_for_euclid_dist"  # the distance of a key to itself is 0
        return torch.cdist(queries.float(), self.tensors["keys"].to(queries.device), compute_mode=exact).min(1)

    def act(self, inputs: Tensor, outputs: Tensor, reading: Reading) -> Tensor:
        """Replace the output of the prompts that lie within the radius of their nearest key."""
        note = f"grace {self.settings['module']}"
        if note not in reading.notes:
            rows = torch.arange(len(inputs), device=inputs.device)
            distances, numbers = self.nearest(inputs[rows, reading.end.clamp_min(0)])
            hit = reading.has_prompt & (distances <= self.tensors["radii"].to(distances.device)[numbers])
            reading.notes[note] = torch.where(hit, numbers, -1)
        chosen = reading.notes[note]
        columns = torch.arange(inputs.shape[1], device=inputs.device)[None]
        where = (chosen >= 0)[:, None] & reading.mask
        where = where & replaced(self.settings["replace"], columns, reading.end[:, None])
        if not bool(where.any()):
            return outputs
        values = self.tensors["values"].to(outputs)[chosen.clamp_min(0)]
        return torch.where(where[..., None], values[:, None], outputs)


def replaced(replace: Replace, columns: Tensor, end: Tensor) -> Tensor:
    """Return which columns of a row are replaced whose prompt ends at a column, or -1 if it lies in the past."""
    if replace == "all":
        return torch.ones_like(columns, dtype=torch.bool)
    return columns == end if replace == "last" else columns < end


class Grace(Editor[GraceConfig]):
    """A codebook of learnt outputs of one module."""

    name = "grace"
    summary = "A codebook replaces the output of one MLP projection near the keys of edited prompts"
    paper = "Hartvigsen et al. 2023, Aging with GRACE (NeurIPS)"
    kind = "memory"
    Config = GraceConfig
    published = published("grace")

    def __init__(self, config: GraceConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: distances differ between models.
        self._radii: WeakKeyDictionary[LanguageModel, float] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at 0.83 of the depth, near the published ones."""
        return {"layer": round(0.83 * (lm.n_layers - 1))}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Calibrate the radius of new entries on tuning cases, unless the config sets it.

        Raises:
            KnbenchError: the layer or a task does not exist.
        """
        reporter.doing("distances between prompts")
        return {"radius": round(self.radius(lm), 6)}

    def radius(self, lm: LanguageModel) -> float:
        """Return the radius of new entries."""
        config = self.config
        if config.radius is not None:
            return config.radius
        if lm not in self._radii:
            requests = warm_up_requests(lm, config.calibration_tasks, config.calibration)
            prompts = list(dict.fromkeys((request.text, request.target_new) for request in requests))
            self._radii[lm] = low_quantile(inputs_at_end(lm, prompts, config.layer), config.quantile)
        return self._radii[lm]

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return the codebook with the requests, which are added one after the other.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, or a loss is not finite.
        """
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Add the requests to the codebook that the model has.

        Raises:
            ValueError: see :meth:`edit`.
        """
        del earlier, state
        module = lm.module_name(lm.mlp_out(self.config.layer))
        book = next((m for m in lm.memories.get(module, ()) if isinstance(m, Codebook)), None)
        losses, happened = [], []
        for request in requests:
            book, change, found = self.added(lm, request, book, module)
            losses.append([round(loss, 6) for loss in found])
            happened.append(change)
        assert book is not None, "an edit has at least one request"
        radii = [round(radius, 6) for radius in book.tensors["radii"].tolist()[-1:]]
        return Edit(memories={module: book}, diagnostics={"losses": losses, "changes": happened, "last_radius": radii})

    def added(
        self, lm: LanguageModel, request: EditRequest, book: Codebook | None, module: str, start: Tensor | None = None
    ) -> tuple[Codebook, str, list[float]]:
        """Return the book with one more fact.

        Args:
            lm: the model.
            request: the fact.
            book: the book, or None.
            module: name of the module.
            start: first value of a new entry, (out,); None follows the config.

        Returns:
            The book, what happened to it (``add``, ``split``, ``extend`` or ``none``), and the losses.

        Raises:
            ValueError: see :meth:`edit`.
        """
        trainer = _Trainer(lm, request, self.config)
        if start is None:
            start = trainer.output if self.config.start == "warm" else torch.rand_like(trainer.output)
        book, change, number = self.placed(book, module, trainer.query, trainer.label, start, self.radius(lm))
        value, losses = trainer.trained(book.tensors["values"][number])
        values = book.tensors["values"].clone()
        values[number] = value
        return dataclasses.replace(book, tensors={**book.tensors, "values": values}), change, losses

    def placed(
        self, book: Codebook | None, module: str, query: Tensor, label: list[int], start: Tensor, radius: float
    ) -> tuple[Codebook, str, int]:
        """Return the book in which a fact has its place, what happened to it, and the number of the fact's entry."""
        settings = {"module": module, "replace": self.config.replace}
        if book is None:
            first = {"keys": query[None], "values": start[None], "radii": torch.tensor([radius])}
            return Codebook(first, {**settings, "labels": [label]}, 1), "add", 0
        distances, numbers = book.nearest(query[None])
        distance, near = float(distances), int(numbers)
        keys, radii = book.tensors["keys"].clone(), book.tensors["radii"].clone()
        labels = book.settings["labels"]
        if distance > radius + float(radii[near]):
            change, own = "add", radius
        elif labels[near] != label:
            change, own = "split", distance / 2
            radii[near] = max(distance / 2 - GAP, 0.0)
        else:
            change = "none"
            if distance > float(radii[near]):
                change = "extend"
                radii[near] = distance
                if self.config.expand == "moving_average":
                    keys[near] = (keys[near] + query) / 2
            tensors = {**book.tensors, "keys": keys, "radii": radii}
            return dataclasses.replace(book, tensors=tensors), change, near
        tensors = {
            "keys": torch.cat([keys, query[None]]),
            "values": torch.cat([book.tensors["values"], start[None]]),
            "radii": torch.cat([radii, torch.tensor([own])]),
        }
        return Codebook(tensors, {**settings, "labels": [*labels, label]}, book.entries + 1), change, len(keys)


class _Trainer:
    """Trains the value of one request. The layers below the module are computed once.

    Attributes:
        query: input of the module at the key token, (in,), float32.
        output: its output there, (out,), float32.
        label: ids of the target's tokens.
    """

    def __init__(self, lm: LanguageModel, request: EditRequest, config: GraceConfig) -> None:
        self._lm, self._config = lm, config
        self._batch = TargetBatch.of(lm, [request])
        self.label: list[int] = self._batch.targets.tolist()
        self._end = self._batch.columns[:1]
        self.query = inputs_at_end(lm, [(request.text, request.target_new)], config.layer)[0].float().clone()
        with torch.no_grad(), lm.without_memories():
            output: Tensor = lm.mlp_out(config.layer)(self.query.to(lm.dtype)[None])
        self.output = output[0].float().clone()
        with lm.without_memories():
            self._state = block_inputs(lm, self._batch, config.layer)

    def trained(self, start: Tensor) -> tuple[Tensor, list[float]]:
        """Return the trained value, and the loss before each step.

        Raises:
            ValueError: a loss is not finite.
        """
        lm, config = self._lm, self._config
        value = start.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([value], lr=config.learning_rate)
        columns = torch.arange(self._state.shape[1], device=lm.device)
        where = replaced(config.replace, columns, self._end)[None, :, None]
        losses = []
        for _ in range(config.steps):
            with (
                torch.enable_grad(),
                lm.without_memories(),
                resume_at(lm, config.layer, self._state),
                edit_output(lm.mlp_out(config.layer), lambda out: torch.where(where, value.to(out.dtype), out)),
                self._batch.target_logits_only(lm),
            ):
                loss = self._batch.token_loss(lm.model(**self._batch.inputs).logits)
            losses.append(float(loss.detach()))
            if not bool(loss.isfinite()):
                raise ValueError("the loss of the value is not a number; set a lower learning_rate")
            (value.grad,) = torch.autograd.grad(loss, [value])
            optimiser.step()
        return value.detach(), losses
