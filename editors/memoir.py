"""MEMOIR: a matrix beside one MLP output projection, of which each edit writes and reads its own sparse columns.

Wang et al. 2025, "MEMOIR: Lifelong Model Editing with Minimal Overwrite and Informed Retention for LLMs". The mean of
the inputs k_t over the tokens of a prompt, minus its mean over other prompts, gives the q features with the largest
absolute value; a fixed random permutation maps them to a mask M of the columns. With a matrix W_m that starts at
zero,

    y = W k + W_m (M k).

An edit trains W_m with the mask of its prompt, in several contexts, by gradient descent with clipped gradients. A
prompt uses the stored mask with the largest share of common columns if this overlap reaches a threshold, and W_m is
off otherwise.

The decision is taken at the end of the prompt, from its tokens, and kept for the text: the released code computes the
mask again at each generated token, by which the memory goes off after the first one. Its weight decay also shrinks
the columns of other edits; here it is off by default and concerns the edit's own columns. Its permutation has no
seed. The threshold is calibrated on tuning cases between the overlaps of paraphrases and of other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject, derived_seed
from ..benchmark.editing import Edit, Memory, Reading, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.calibration import best_threshold, scope_cases
from .shared.contexts import ContextEditor, check_contexts
from .shared.prompt_inputs import Prompt, prompt_inputs
from .shared.published import published
from .shared.side_rows import SideRows, prompt_mean, steps_until_settled
from .shared.warm_up import WARM_UP_TASKS


@dataclass(frozen=True, kw_only=True)
class MemoirConfig:
    """Hyper-parameters of MEMOIR."""

    layer: int = hyperparameter(help="Layer whose MLP output projection has the memory.")
    columns: int = hyperparameter(help="Number q of columns that an edit writes.")
    contexts: tuple[str, ...] | None = hyperparameter(
        None, help="Contexts of the prompt, the first of them {}; none samples ten from the model."
    )
    steps: int = hyperparameter(50, help="Maximum number of steps per edit.")
    learning_rate: float = hyperparameter(1.0, help="Learning rate of gradient descent.")
    clip: float = hyperparameter(1.0, help="Maximum norm of a gradient.")
    weight_decay: float = hyperparameter(0.0, help="Weight decay of the edit's own columns.")
    threshold: float | None = hyperparameter(
        None, help="Overlap from which the memory is used; none calibrates it on tuning cases."
    )
    calibration: int = hyperparameter(100, help="Number of tuning cases for the threshold and the mean.")
    calibration_tasks: tuple[str, ...] = hyperparameter(WARM_UP_TASKS, help="Tasks of these cases, in turn.")

    def __post_init__(self) -> None:
        check_contexts(self.contexts)
        if self.layer < 0 or self.columns < 1 or self.steps < 1 or self.calibration < 1:
            raise ValueError("layer must not be negative, columns, steps and calibration must be at least 1")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0:
            raise ValueError("learning_rate and clip must be above 0, weight_decay must not be negative")


@dataclass(frozen=True)
class SparseMemory(Memory):
    """The matrix ``residual`` (out, in), and the ``masks`` of the edits as bits, (edit, in / 8).

    Further tensors: the ``mean`` of inputs (in,), and the ``order`` of the columns (in,). Settings: the number of
    columns of a mask, the threshold, and the module.
    """

    def mask(self, mean_input: Tensor) -> Tensor:
        """Return the mask of prompts from the means of their inputs, (prompt, in), bool."""
        features = (mean_input.float() - self.tensors["mean"].to(mean_input.device)).abs()
        order = self.tensors["order"].to(features.device)
        columns = order[features.topk(self.settings["columns"], dim=1).indices]
        return torch.zeros_like(features, dtype=torch.bool).scatter(1, columns, value=True)

    def stored(self) -> Tensor:
        """Return the stored masks, (edit, in), bool."""
        return unpacked(self.tensors["masks"], self.tensors["residual"].shape[1])

    def act(self, inputs: Tensor, outputs: Tensor, reading: Reading) -> Tensor:
        """Add the output of the stored columns for prompts that share enough of them."""
        settings = self.settings
        note = f"memoir {settings['module']}"
        masks = self.stored().to(inputs.device)
        if note not in reading.notes:
            query = self.mask(prompt_mean(inputs, reading))
            best = ((query.float() @ masks.float().T) / settings["columns"]).max(1)
            used = reading.has_prompt & reading.prompt.any(1) & (best.values >= settings["threshold"])
            reading.notes[note] = torch.where(used, best.indices, -1)
        chosen = reading.notes[note]
        where = (chosen >= 0)[:, None] & reading.mask
        if not bool(where.any()):
            return outputs
        residual = self.tensors["residual"].to(inputs)
        masked = inputs * masks[chosen.clamp_min(0)][:, None].to(inputs.dtype)
        return torch.where(where[..., None], outputs + masked @ residual.T, outputs)


def packed(masks: Tensor) -> Tensor:
    """Return boolean rows as bits, (row, columns / 8), uint8."""
    return torch.from_numpy(np.packbits(masks.cpu().numpy(), axis=1))


def unpacked(bits: Tensor, columns: int) -> Tensor:
    """Return the boolean rows of :func:`packed`, (row, columns)."""
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), axis=1, count=columns)).bool()


class _Calibrated(NamedTuple):
    mean: Tensor
    threshold: float
    accuracy: float | None


class Memoir(ContextEditor[MemoirConfig]):
    """A sparse residual memory beside one MLP output projection."""

    name = "memoir"
    summary = "A sparse matrix beside one MLP projection, with columns chosen by the prompt"
    paper = "Wang et al. 2025, MEMOIR"
    kind = "memory"
    Config = MemoirConfig
    published = published("memoir")
    per_length = 5

    def __init__(self, config: MemoirConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: means and overlaps differ between models.
        self._calibrations: WeakKeyDictionary[LanguageModel, _Calibrated] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at 0.86 of the depth and 0.286 of the columns, as the published values for Llama-3.

        A masked model, which writes no contexts, reads the prompt alone.
        """
        values = {"layer": round(0.86 * (lm.n_layers - 1)), "columns": max(round(0.286 * lm.n_neurons), 1)}
        return values if lm.causal else {**values, "contexts": ("{}",)}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and compute the mean input and the threshold from tuning cases.

        Raises:
            KnbenchError: the layer or a task does not exist.
        """
        found = self._calibrated(lm)
        return {
            **super().prepare(lm, reporter),
            "threshold": round(found.threshold, 6),
            "balanced_accuracy": found.accuracy,
            "split": "tune",
        }

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Write the requests to a memory, one after the other.

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
        """Write the requests to the memory that the model has.

        Raises:
            ValueError: see :meth:`edit`.
        """
        del earlier, state
        module = lm.module_name(lm.mlp_out(self.config.layer))
        memory = next((m for m in lm.memories.get(module, ()) if isinstance(m, SparseMemory)), None)
        losses = []
        for request in requests:
            memory, found = self.written(lm, request, memory or self.empty(lm, module))
            losses.append([round(loss, 6) for loss in found])
        assert memory is not None, "an edit has at least one request"
        return Edit(memories={module: memory}, diagnostics={"losses": losses})

    def written(
        self, lm: LanguageModel, request: EditRequest, memory: SparseMemory
    ) -> tuple[SparseMemory, list[float]]:
        """Return the memory with one more fact, and the losses.

        Raises:
            ValueError: see :meth:`edit`.
        """
        config = self.config
        rows = SideRows.of(lm, request, self.contexts(lm), config.layer)
        mask = memory.mask(mean_inputs(lm, [(request.text, request.target_new)], config.layer))[0]
        residual = memory.tensors["residual"].clone().requires_grad_()
        losses: list[float] = []
        for _ in steps_until_settled(config.steps, losses):
            loss = rows.loss(rows.forward(partial(_with_residual, residual, mask)))
            losses.append(float(loss.detach()))
            if not bool(loss.isfinite()):
                raise ValueError("the loss of the memory is not a number; set a lower learning_rate")
            (gradient,) = torch.autograd.grad(loss, [residual])
            with torch.no_grad():
                gradient = gradient * (config.clip / gradient.norm().clamp_min(config.clip))
                residual -= config.learning_rate * (gradient + config.weight_decay * residual * mask)
        stored = memory.stored()
        if not bool((stored == mask.cpu()).all(1).any()):
            stored = torch.cat([stored, mask.cpu()[None]])
        tensors = {**memory.tensors, "residual": residual.detach(), "masks": packed(stored)}
        return SparseMemory(tensors, memory.settings, memory.entries + 1), losses

    def empty(self, lm: LanguageModel, module: str) -> SparseMemory:
        """Return a memory without facts."""
        calibrated, width = self._calibrated(lm), lm.n_neurons
        tensors = {
            "residual": torch.zeros((lm.shape["width"], width), device=lm.device),
            "masks": packed(torch.zeros((0, width), dtype=torch.bool)),
            "mean": calibrated.mean,
            "order": self._order(width),
        }
        settings = {"columns": self.config.columns, "threshold": calibrated.threshold, "module": module}
        return SparseMemory(tensors, settings, 0)

    def _order(self, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "memoir columns"))
        return torch.randperm(width, generator=generator)

    def _calibrated(self, lm: LanguageModel) -> _Calibrated:
        if lm not in self._calibrations:
            config = self.config
            if config.columns > lm.n_neurons:
                raise ValueError(f"columns must be at most the {lm.n_neurons} columns of the projection")
            cases = scope_cases(lm, config.calibration_tasks, config.calibration)
            other = mean_inputs(lm, [(c.outside[-1].prompt, c.outside[-1].target) for c in cases], config.layer)
            mean = other.mean(0)
            if config.threshold is not None:
                self._calibrations[lm] = _Calibrated(mean, config.threshold, None)
                return self._calibrations[lm]
            probe = SparseMemory({"mean": mean, "order": self._order(lm.n_neurons)}, {"columns": config.columns})

            def masks(prompts: list[Prompt]) -> Tensor:
                return probe.mask(mean_inputs(lm, prompts, config.layer))

            own = masks([(case.request.text, case.request.target_new) for case in cases])
            scores: dict[str, list[float]] = {"inside": [], "outside": []}
            for kind, found in scores.items():
                pairs = [(i, p) for i, case in enumerate(cases) for p in getattr(case, kind)]
                queries = masks([(p.prompt, p.target) for _, p in pairs])
                overlaps = (queries & own[[i for i, _ in pairs]]).sum(1) / config.columns
                found += overlaps.tolist()
            threshold, accuracy = best_threshold(scores["inside"], scores["outside"])
            self._calibrations[lm] = _Calibrated(mean, threshold, round(accuracy, 4))
        return self._calibrations[lm]


def _with_residual(residual: Tensor, mask: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return the output of the module plus that of some columns of the memory."""
    return outputs + ((inputs * mask.to(inputs.dtype)).float() @ residual.T).to(outputs.dtype)


def mean_inputs(lm: LanguageModel, prompts: Sequence[Prompt], layer: int) -> Tensor:
    """Return the mean input of the MLP output projection over the tokens of each prompt, (prompt, m), float32."""
    return torch.cat([prompt_mean(x.float(), reading) for x, reading in prompt_inputs(lm, prompts, layer)])
