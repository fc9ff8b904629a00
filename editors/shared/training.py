"""Fine-tuning of a few weight matrices on requests in mini-batches, shared by FT-M, LocFT-BF and CrispEdit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...benchmark.editing import hyperparameter
from ...benchmark.models.hooks import Side, capture, resume_at, select_positions, stop_after
from ...benchmark.models.language_model import LanguageModel
from .batches import TargetBatch

FORWARD_ROWS = 64
"""Number of texts per pass through the layers below the trained ones."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Hyper-parameters of the training loop."""

    epochs: int = hyperparameter(25, help="Maximum number of passes over the requests.")
    batch_size: int = hyperparameter(1, help="Number of requests per optimisation step.")
    learning_rate: float = hyperparameter(5e-4, help="Learning rate of the optimiser.")
    weight_decay: float = hyperparameter(0.0, help="Weight decay of the optimiser, which pulls weights towards zero.")
    stop_below: float = hyperparameter(
        1e-2,
        help="A mini-batch with a loss below this value makes no step; the training stops after an epoch whose mean "
        "loss is below it.",
    )

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                "epochs and batch_size must be at least 1, learning_rate above 0, weight_decay must not be negative"
            )


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes:
        weights: trained tensors by parameter name, in the type of the parameters.
        losses: by epoch, the loss of each mini-batch before its step.
        epoch_losses: by epoch, the mean loss of its mini-batches, weighted by their sizes.
    """

    weights: dict[str, Tensor]
    losses: list[list[float]]
    epoch_losses: list[float]


def in_order(count: int) -> Iterator[list[int]]:
    """Yield the order of the requests for each epoch, always the given one."""
    while True:
        yield list(range(count))


def shuffled(count: int, seed: int) -> Iterator[list[int]]:
    """Yield a new random order of the requests for each epoch. Only the count and the seed determine the orders."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(count, generator=generator).tolist()


MakeOptimiser = Callable[[list[Tensor]], torch.optim.Optimizer]
ProjectGradient = Callable[[str, Tensor], Tensor]


def adam(config: TrainingConfig) -> MakeOptimiser:
    """Return a function that makes Adam with the values of a config."""
    return lambda tensors: torch.optim.Adam(tensors, lr=config.learning_rate, weight_decay=config.weight_decay)


def train(
    lm: LanguageModel,
    batch: TargetBatch,
    start: Mapping[str, Tensor],
    first_layer: int,
    config: TrainingConfig,
    orders: Iterable[Sequence[int]],
    *,
    loss: Literal["requests", "tokens"] = "requests",
    make_optimiser: MakeOptimiser | None = None,
    project: ProjectGradient | None = None,
) -> Trained:
    """Train copies of some weights on the target tokens of a batch.

    The layers below the first trained one are computed once. The copies are kept in float32; one optimiser is used for
    all epochs and mini-batches.

    Args:
        lm: the model, which is left unchanged.
        batch: all requests.
        start: initial values by parameter name. They may differ from the parameters of the model.
        first_layer: the lowest layer with a trained parameter.
        config: parameters of the loop.
        orders: the order of the requests, as rows of the batch, for each epoch.
        loss: mean over requests of the mean over their tokens (``requests``), or mean over all tokens of a mini-batch
            (``tokens``).
        make_optimiser: makes the optimiser of the copies, in the order of ``start``; None takes Adam.
        project: maps the name and the gradient of a weight to the gradient that the optimiser receives.

    Raises:
        ValueError: a loss is not finite.
    """
    types = {name: lm.parameter(name).dtype for name in start}
    copies = {name: tensor.detach().float().clone().requires_grad_() for name, tensor in start.items()}
    optimiser = (make_optimiser or adam(config))(list(copies.values()))
    states = block_inputs(lm, batch, first_layer)
    losses: list[list[float]] = []
    means: list[float] = []
    for order in orders:
        losses.append([])
        sizes = []
        for at in range(0, len(order), config.batch_size):
            members = order[at : at + config.batch_size]
            part = batch.select(members)
            state = states[list(members), : part.inputs["input_ids"].shape[1]]
            weights = {name: copy.to(types[name]) for name, copy in copies.items()}
            with torch.enable_grad(), resume_at(lm, first_layer, state), part.target_logits_only(lm):
                logits = functional_call(lm.model, weights, kwargs=part.inputs).logits
                value = part.loss(logits) if loss == "requests" else part.token_loss(logits)
            losses[-1].append(float(value.detach()))
            sizes.append(len(members))
            if not bool(value.isfinite()):
                raise ValueError("the loss of the training is not a number; set a lower learning_rate")
            if losses[-1][-1] < config.stop_below:
                continue
            gradients = torch.autograd.grad(value, list(copies.values()))
            for (name, copy), gradient in zip(copies.items(), gradients, strict=True):
                copy.grad = gradient if project is None else project(name, gradient)
            optimiser.step()
        means.append(sum(n * x for n, x in zip(sizes, losses[-1], strict=True)) / sum(sizes))
        if means[-1] < config.stop_below or len(losses) == config.epochs:
            break
    return Trained({name: copy.detach().to(types[name]) for name, copy in copies.items()}, losses, means)


def block_inputs(lm: LanguageModel, batch: TargetBatch, layer: int) -> Tensor:
    """Return the input of a block for all texts, (request, position, d)."""
    wanted: dict[str, tuple[nn.Module, Side]] = {"x": (lm.block(layer), "input")}
    position = torch.zeros(1, dtype=torch.long, device=lm.device)  # the head needs at least one
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    parts = []
    for at in range(0, len(ids), FORWARD_ROWS):
        rows = slice(at, at + FORWARD_ROWS)
        inputs = {**batch.inputs, "input_ids": ids[rows], "attention_mask": mask[rows]}
        with (
            torch.no_grad(),
            capture(wanted) as captured,
            stop_after(lm, layer),
            select_positions(lm, position, position),
        ):
            lm.model(**inputs)
        parts.append(captured["x"].detach())
    return torch.cat(parts)
