"""WISE: a side copy of one MLP output projection, used for prompts on which it differs enough from the original.

Wang et al. 2024, "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language Models"
(NeurIPS). With the activation function s of the model, a = |s(W x) - s(W' x)| for each token, and d the mean of a
over the tokens of a prompt, an edit minimises over W'

    L = mean NLL(target) + H(d_out - d_in + gamma) + H(d_out - alpha) + H(beta - d_in),

where d_in belongs to the edited prompt in several contexts, d_out to an irrelevant prompt, and H is the mean of the
positive values. Stochastic gradient descent changes the entries of a random mask, which a group of edits shares. The
smallest mean of d_in of an edit, A, gives the threshold ``act_ratio`` A. After each group the copy is stored and W'
starts again from W; stored copies are merged with TIES (Yadav et al. 2023).

A prompt uses the copy with the largest d above its threshold, or W if there is none. The decision is taken at the end
of the prompt, from its tokens, and kept for the text. The released code takes one mean over the batch with its
padding, and decides again at each generated token. It lets weight decay shrink the entries outside of the mask, too,
and averages over the target's tokens in training; here both stay out. The margins of the paper depend on the scale of
the module and are set from the median of |s(W x)| over tuning prompts. The irrelevant prompts are those of tuning
cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject, derived_seed
from ..benchmark.editing import Edit, Memory, Reading, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.calibration import scope_cases
from .shared.contexts import ContextEditor, check_contexts
from .shared.prompt_inputs import Prompt, prompt_inputs
from .shared.published import published
from .shared.side_rows import SideRows, prompt_mean, steps_until_settled
from .shared.warm_up import WARM_UP_TASKS

NO_ACTIVATION = 1e9
"""Activation of a copy without edits."""


@dataclass(frozen=True, kw_only=True)
class WiseConfig:
    """Hyper-parameters of WISE."""

    layer: int = hyperparameter(help="Layer whose MLP output projection has side copies.")
    contexts: tuple[str, ...] | None = hyperparameter(
        None, help="Contexts of the prompt, the first of them {}; none samples ten from the model."
    )
    steps: int = hyperparameter(40, help="Maximum number of steps per edit.")
    learning_rate: float = hyperparameter(1.0, help="Learning rate of gradient descent.")
    weight_decay: float = hyperparameter(1e-5, help="Weight decay of the trained entries.")
    clamp: float = hyperparameter(1.0, help="Maximum change of an entry.")
    density: float = hyperparameter(0.2, help="Share of trained entries.")
    alpha: float | None = hyperparameter(None, help="Bound of d_out; none sets all margins from the module.")
    beta: float | None = hyperparameter(None, help="Lower bound of d_in.")
    gamma: float | None = hyperparameter(None, help="Distance of d_in and d_out.")
    act_ratio: float = hyperparameter(0.8, help="Threshold relative to the smallest activation of an edit.")
    save_every: int = hyperparameter(50, help="Number of edits per mask, after which the copy is stored.")
    merge_every: int = hyperparameter(100, help="Number of edits after which the stored copies are merged.")
    merge_density: float = hyperparameter(0.53, help="Share of a copy's largest changes that a merge keeps.")
    calibration: int = hyperparameter(50, help="Number of tuning cases for margins and irrelevant prompts.")
    calibration_tasks: tuple[str, ...] = hyperparameter(WARM_UP_TASKS, help="Tasks of these cases, in turn.")

    def __post_init__(self) -> None:
        check_contexts(self.contexts)
        if self.layer < 0 or self.steps < 1 or self.learning_rate <= 0 or self.weight_decay < 0 or self.clamp <= 0:
            raise ValueError("layer and weight_decay must not be negative, steps, learning_rate and clamp be above 0")
        if not 0 < self.density <= 1 or not 0 < self.merge_density <= 1 or self.act_ratio < 0 or self.calibration < 1:
            raise ValueError("density and merge_density must be in (0, 1], act_ratio not negative, calibration above 0")
        if self.save_every < 1 or self.merge_every % self.save_every:
            raise ValueError("merge_every must be a multiple of save_every")
        if len({value is None for value in (self.alpha, self.beta, self.gamma)}) > 1:
            raise ValueError("set all of alpha, beta and gamma, or none")


@dataclass(frozen=True)
class SideMemory(Memory):
    """Side copies of a linear module: ``copy 0``, ``copy 1``, ... (out, in), the last one in training, and its bias.

    Settings: the activation of each copy, the number of edits of the last one, the activation function, the ratio of
    the thresholds, and the module.
    """

    @property
    def copies(self) -> list[Tensor]:
        """The copies, the last one in training."""
        return [self.tensors[f"copy {i}"] for i in range(len(self.settings["activations"]))]

    def output(self, copy: Tensor, inputs: Tensor) -> Tensor:
        """Return the output of the module with a copy."""
        bias = self.tensors.get("bias")
        return torch.nn.functional.linear(inputs, copy.to(inputs), None if bias is None else bias.to(inputs))

    def act(self, inputs: Tensor, outputs: Tensor, reading: Reading) -> Tensor:
        """Use the copy that differs most, for prompts on which it reaches its threshold."""
        settings = self.settings
        note = f"wise {settings['module']}"
        if note not in reading.notes:
            distances = []
            for copy, activation in zip(self.copies, settings["activations"], strict=True):
                a = activation_distance(settings["function"], outputs, self.output(copy, inputs))
                d = prompt_mean(a, reading)
                above = reading.has_prompt & reading.prompt.any(1) & (d >= settings["act_ratio"] * activation)
                distances.append(torch.where(above, d, -1.0))
            best = torch.stack(distances).max(0)
            reading.notes[note] = torch.where(best.values >= 0, best.indices, -1)
        chosen = reading.notes[note]
        result = outputs
        for number in sorted({int(n) for n in chosen.tolist() if n >= 0}):
            where = (chosen == number)[:, None] & reading.mask
            result = torch.where(where[..., None], self.output(self.copies[number], inputs).to(outputs.dtype), result)
        return result


def activation_distance(function: str, first: Tensor, second: Tensor) -> Tensor:
    """Return |s(first) - s(second)| for each position, (row, position), float32. ``function`` names s."""
    difference: Tensor = (activated(function, first) - activated(function, second)).norm(dim=-1)
    return difference


def activated(function: str, values: Tensor) -> Tensor:
    """Return s(values), float32. ``function`` names s in transformers."""
    from transformers.activations import ACT2FN

    result: Tensor = ACT2FN[function](values.float())
    return result


def activation_function(lm: LanguageModel) -> str:
    """Return the name of the activation function in the configuration of a model."""
    config = lm.model.config.get_text_config()
    names = (getattr(config, name, None) for name in ("hidden_act", "activation_function", "hidden_activation"))
    return next((name for name in names if isinstance(name, str)), "gelu")


@dataclass(frozen=True)
class Margins:
    """The margins alpha, beta and gamma."""

    alpha: float
    beta: float
    gamma: float

    def loss(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return the loss of distances of edited prompts, (n,), and of irrelevant ones, (m,)."""
        terms = (
            outside[:, None] - inside[None] + self.gamma,
            outside - self.alpha,
            self.beta - inside,
        )
        return torch.stack([hinge(term) for term in terms]).sum()


def hinge(values: Tensor) -> Tensor:
    """Return the mean of the positive values, or 0."""
    positive = values > 0
    return torch.where(positive, values, 0).sum() / positive.sum().clamp_min(1)


class Wise(ContextEditor[WiseConfig]):
    """Side copies of one MLP output projection with routing by their distance from the original."""

    name = "wise"
    summary = "A side copy of one MLP projection is used where its output differs enough from the original"
    paper = "Wang et al. 2024, WISE (NeurIPS)"
    kind = "memory"
    Config = WiseConfig
    published = published("wise")
    per_length = 5

    def __init__(self, config: WiseConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # Keyed by model: margins depend on its scale, and its tokenizer decides which prompts can be read.
        self._margins: WeakKeyDictionary[LanguageModel, tuple[Margins, list[Prompt]]] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at 0.83 of the depth. A masked model, which writes no contexts, reads the prompt alone."""
        return {"layer": round(0.83 * (lm.n_layers - 1)), **({} if lm.causal else {"contexts": ("{}",)})}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and set the margins from tuning prompts.

        Raises:
            KnbenchError: the layer or a task does not exist.
        """
        margins, prompts = self._calibrated(lm)
        found = {name: round(value, 6) for name, value in vars(margins).items()}
        return {**super().prepare(lm, reporter), "margins": found, "irrelevant": len(prompts), "split": "tune"}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train a side copy on the requests, one after the other.

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
        """Continue with the copies that the model has.

        Raises:
            ValueError: see :meth:`edit`.
        """
        del earlier, state
        module = lm.module_name(lm.mlp_out(self.config.layer))
        memory = next((m for m in lm.memories.get(module, ()) if isinstance(m, SideMemory)), None)
        losses = []
        for request in requests:
            memory, found = self.trained(lm, request, memory or self._empty(lm, module))
            losses.append([round(loss, 6) for loss in found])
        assert memory is not None, "an edit has at least one request"
        activations = [round(value, 6) for value in memory.settings["activations"]]
        return Edit(memories={module: memory}, diagnostics={"losses": losses, "activations": activations})

    def mask(self, shape: torch.Size, group: int) -> Tensor:
        """Return which entries a group of edits may change, (out, in), bool."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "wise mask", str(group)))
        return torch.rand(shape, generator=generator) < self.config.density

    def trained(self, lm: LanguageModel, request: EditRequest, memory: SideMemory) -> tuple[SideMemory, list[float]]:
        """Return the memory with one more edit, and the losses.

        Raises:
            ValueError: see :meth:`edit`.
        """
        config = self.config
        margins, irrelevant = self._calibrated(lm)
        other = irrelevant[memory.entries % len(irrelevant)]
        rows = SideRows.of(lm, request, self.contexts(lm), config.layer, [other])
        memory = self._next_group(lm, memory)
        original, start = self._original(lm), memory.copies[-1]
        mask = self.mask(start.shape, memory.entries // config.save_every).to(start.device)
        copy = start.clone().requires_grad_()
        losses: list[float] = []
        inside = start.new_zeros(1)
        for _ in steps_until_settled(config.steps, losses):
            found: list[Tensor] = []

            logits = rows.forward(partial(_record_and_replace, memory, copy, found))
            distances = prompt_mean(found[0], rows.reading)
            inside = distances[: rows.edited]
            loss = rows.loss(logits) + margins.loss(inside, distances[rows.edited :])
            losses.append(float(loss.detach()))
            if not bool(loss.isfinite()):
                raise ValueError("the loss of the side copy is not a number; set a lower learning_rate")
            (gradient,) = torch.autograd.grad(loss, [copy])
            with torch.no_grad():
                step = config.learning_rate * (gradient + config.weight_decay * copy)
                copy -= torch.where(mask, step, 0.0)
                copy.copy_(torch.maximum(torch.minimum(copy, original + config.clamp), original - config.clamp))
        activations = list(memory.settings["activations"])
        activations[-1] = min(activations[-1], float(inside.detach().mean()))
        tensors = {**memory.tensors, f"copy {len(activations) - 1}": copy.detach()}
        settings = {**memory.settings, "activations": activations}
        return SideMemory(tensors, settings, memory.entries + 1), losses

    def _empty(self, lm: LanguageModel, module: str) -> SideMemory:
        bias = getattr(lm.mlp_out(self.config.layer), "bias", None)
        tensors = {"copy 0": self._original(lm)}
        if bias is not None:
            tensors["bias"] = bias.detach().float().clone()
        settings = {
            "activations": [NO_ACTIVATION],
            "act_ratio": self.config.act_ratio,
            "function": activation_function(lm),
            "module": module,
        }
        return SideMemory(tensors, settings, 0)

    def _next_group(self, lm: LanguageModel, memory: SideMemory) -> SideMemory:
        """Return the memory with a new copy if the last group is complete, and with merged copies if it is time."""
        config, done = self.config, memory.entries
        if not done or done % config.save_every:
            return memory
        copies, activations, original = memory.copies, list(memory.settings["activations"]), self._original(lm)
        if done % config.merge_every == 0:
            count = config.merge_every // config.save_every
            copies = [*copies[:-count], merged_copies(original, copies[-count:], config.merge_density)]
            activations = [*activations[:-count], min(activations[-count:])]
        tensors: Mapping[str, Tensor] = {f"copy {i}": copy for i, copy in enumerate([*copies, original])}
        kept = {name: tensor for name, tensor in memory.tensors.items() if name == "bias"}
        settings = {**memory.settings, "activations": [*activations, NO_ACTIVATION]}
        return SideMemory({**tensors, **kept}, settings, memory.entries)

    def _original(self, lm: LanguageModel) -> Tensor:
        layer = self.config.layer
        weight = lm.parameter(lm.mlp_weight_name(layer)).detach()
        return lm.as_stored(layer, weight).float().clone().contiguous()

    def _calibrated(self, lm: LanguageModel) -> tuple[Margins, list[Prompt]]:
        """Return the margins, and prompts with answers that no edit concerns."""
        if lm not in self._margins:
            config = self.config
            cases = scope_cases(lm, config.calibration_tasks, config.calibration)
            prompts = [(case.outside[-1].prompt, case.outside[-1].target) for case in cases]
            if config.alpha is not None and config.beta is not None and config.gamma is not None:
                margins = Margins(config.alpha, config.beta, config.gamma)
            else:
                beta = 0.5 * self._median_output(lm, prompts)
                margins = Margins(beta / 4, beta, beta / 2)
            self._margins[lm] = margins, prompts
        return self._margins[lm]

    def _median_output(self, lm: LanguageModel, prompts: Sequence[Prompt]) -> float:
        """Return the median of |s(W x)| over the tokens of some prompts."""
        module, function = lm.mlp_out(self.config.layer), activation_function(lm)
        norms = []
        for inputs, reading in prompt_inputs(lm, prompts, self.config.layer):
            with torch.no_grad():
                outputs: Tensor = module(inputs)
            norms.append(activated(function, outputs).norm(dim=-1)[reading.prompt])
        return float(torch.cat(norms).median())


def _record_and_replace(
    memory: SideMemory, copy: Tensor, found: list[Tensor], inputs: Tensor, outputs: Tensor
) -> Tensor:
    """Return the output of a copy, and append its distance from the original."""
    side = memory.output(copy, inputs)
    found.append(activation_distance(memory.settings["function"], outputs, side))
    return side.to(outputs.dtype)


def merged_copies(original: Tensor, copies: Sequence[Tensor], density: float) -> Tensor:
    """Return the TIES merge of copies with equal weights, (out, in).

    Of each change the largest entries are kept. At each entry, the changes with the sign of their sum are averaged.

    Args:
        original: the matrix that the copies started from.
        copies: the copies.
        density: share of the entries that are kept, by their absolute value.
    """
    changes = torch.stack([trimmed(copy - original, density) for copy in copies])
    sign = torch.where(changes.sum(0) >= 0, 1.0, -1.0)
    agree = (torch.where(changes >= 0, 1.0, -1.0) == sign) & (changes != 0)
    counts = agree.sum(0).clamp_min(1)
    return original + torch.where(agree, changes, 0).sum(0) / counts


def trimmed(change: Tensor, density: float) -> Tensor:
    """Return a change whose smallest entries are set to 0."""
    kept = max(round(density * change.numel()), 1)
    order = change.abs().flatten().topk(kept).indices
    mask = torch.zeros(change.numel(), dtype=torch.bool)
    mask[order] = True
    return torch.where(mask.view_as(change), change, 0.0)
