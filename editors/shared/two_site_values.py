"""Target values of facts at two sites of one layer, the outputs of the MLP and of the attention, as PMET defines them.

Li et al. 2024, "PMET: Precise Model Editing in a Transformer" (AAAI), section 3. The deltas delta_m and delta_a are
added at the subject's last token. The layers below are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import SLOT, EditRequest
from ...benchmark.models.hooks import Side, capture, edit_output, resume_at, select_positions
from ...benchmark.models.language_model import LanguageModel
from .value_vectors import KL_PROMPT, ValueObjective

REACHED_FACTOR = 0.1
"""Factor of the NLL while all targets are the most probable tokens."""

REACHED_DIVERGENCE = 0.01
"""Weighted KL divergence at which the optimisation stops while all targets are the most probable tokens."""


@dataclass(frozen=True)
class TwoSiteValue:
    """The optimised outputs of one request, float32.

    Attributes:
        mlp: output z_m of the MLP, (d,).
        attention: output z_a of the attention, (d,). It is not written into the model.
        bare_mlp: output m0 of the MLP before the edit, for the prompt without a context, (d,).
        bare_attention: output a0 of the attention, in the same way, (d,).
        losses: total loss of each iteration.
    """

    mlp: Tensor
    attention: Tensor
    bare_mlp: Tensor
    bare_attention: Tensor
    losses: tuple[float, ...]


def two_site_value(
    lm: LanguageModel,
    request: EditRequest,
    layer: int,
    contexts: Sequence[str],
    objective: ValueObjective,
    *,
    attention: bool = True,
) -> TwoSiteValue:
    """Optimise delta_m and delta_a of one request with Adam.

    The loss is phi NLL + ``kl_factor`` KL(P_delta || P) + ``weight_decay`` (|delta_m| / |m0|^2 + |delta_a| / |a0|^2),
    with the mean NLL of the target over contexts and the KL divergence at the subject's last token of "{subject} is a".
    Each norm is bounded by ``clamp`` times that of its output. After an iteration in which all targets in all contexts
    are the most probable tokens, phi is 0.1, otherwise it is 1. A small weighted KL divergence in such an iteration
    ends the optimisation.

    Args:
        lm: a causal model.
        request: the request.
        layer: the layer.
        contexts: templates with a ``{}`` for the prompt. The first must be ``{}`` itself.
        objective: parameters of the optimisation.
        attention: whether delta_a is optimised; otherwise it stays 0.

    Raises:
        ValueError: a subject or target cannot be tokenised, or a loss is not finite.
    """
    rows = _Rows(lm, request, contexts, layer)
    start = rows.outputs  # m0 and a0, (d,) each
    deltas = [torch.zeros_like(value, requires_grad=True) for value in start[: 2 if attention else 1]]
    optimiser = torch.optim.Adam(deltas, lr=objective.learning_rate)
    with torch.no_grad():
        reference = rows.logits(deltas)[-1].log_softmax(-1)
    losses: list[float] = []
    factor = 1.0
    for step in range(objective.steps):
        with torch.enable_grad():
            logits = rows.logits(deltas)
            nll = torch.nn.functional.cross_entropy(logits[:-1], rows.targets)
            log_probs = logits[-1].log_softmax(-1)
            divergence = objective.kl_factor * (log_probs.exp() * (log_probs - reference)).sum()
            reached = bool((logits[:-1].argmax(-1) == rows.targets).all())
            norms = [delta.norm() / value.norm() ** 2 for delta, value in zip(deltas, start, strict=False)]
            loss = factor * nll + divergence + objective.weight_decay * torch.stack(norms).sum()
        losses.append(float(loss.detach()))
        factor = REACHED_FACTOR if reached else 1.0  # of the next iteration, as in the released code
        if not bool(loss.isfinite()):
            raise ValueError("the loss of the value vector is not a number")
        close = reached and float(divergence.detach()) <= REACHED_DIVERGENCE
        if losses[-1] < objective.stop_below or close or step == objective.steps - 1:
            break
        for delta, gradient in zip(deltas, torch.autograd.grad(loss, deltas), strict=True):
            delta.grad = gradient
        optimiser.step()
        with torch.no_grad():
            for delta, value in zip(deltas, start, strict=False):
                limit = objective.clamp * value.norm()
                if delta.norm() > limit:
                    delta *= limit / delta.norm()
    ends = [value + delta.detach() for value, delta in zip(start, deltas, strict=False)]
    return TwoSiteValue(ends[0], ends[1] if attention else start[1], start[0], start[1], tuple(losses))


class _Rows:
    """The prompt in every context and the row of the KL term, read up to the layer.

    Attributes:
        outputs: outputs m0 of the MLP and a0 of the attention at the subject of the bare prompt, (d,), float32.
        targets: target tokens of all contexts, (token,).
    """

    def __init__(self, lm: LanguageModel, request: EditRequest, contexts: Sequence[str], layer: int) -> None:
        self.lm, self.layer = lm, layer
        ids, subjects, positions = [], [], []
        targets: list[int] = []
        for row, context in enumerate(contexts):
            template = lm.preface(request.text) + context.replace(SLOT, request.prompt, 1)
            prompt, target = lm.split(template.replace(SLOT, request.subject, 1), request.target_new)
            _, span = lm.subject_span(template, request.subject, request.target_new)
            ids.append(prompt + target[:-1])
            subjects.append(span[-1])
            positions += [(row, len(prompt) - 1 + i) for i in range(len(target))]
            targets += target
        tokens, span = lm.subject_span(KL_PROMPT, request.subject)
        ids.append(tokens.ids[: span[-1] + 1])
        subjects.append(span[-1])
        positions.append((len(contexts), span[-1]))
        self.batch = lm.pad(ids)
        self.index = torch.arange(len(ids), device=lm.device)
        self.subjects = torch.tensor(subjects, device=lm.device)
        self.positions = torch.tensor(positions, device=lm.device).T
        self.targets = torch.tensor(targets, device=lm.device)
        self.sites = (lm.mlp_out(layer), lm.projection("attention_out", layer))
        wanted: dict[str, tuple[nn.Module, Side]] = {
            "m": (self.sites[0], "output"),
            "a": (self.sites[1], "output"),
            "x": (lm.block(layer), "input"),
        }
        with torch.no_grad(), capture(wanted) as captured:
            self._forward()
        self.state = captured["x"].detach()
        self.outputs = [captured[key][0, subjects[0]].detach().float() for key in ("m", "a")]

    def logits(self, deltas: Sequence[Tensor]) -> Tensor:
        """Return the logits at the targets and then those of the KL term, (token + 1, vocabulary), float32.

        Args:
            deltas: delta_m, or delta_m and delta_a, added at the subject's last token of each row.
        """
        with ExitStack() as stack:
            for module, delta in zip(self.sites, deltas, strict=False):
                stack.enter_context(edit_output(module, partial(self._add, delta=delta)))
            stack.enter_context(resume_at(self.lm, self.layer, self.state))
            return self._forward()

    def _add(self, output: Tensor, delta: Tensor) -> Tensor:
        place = torch.zeros(output.shape[:2], dtype=output.dtype, device=output.device)
        place[self.index, self.subjects] = 1
        return output + place[..., None] * delta.to(output.dtype)

    def _forward(self) -> Tensor:
        with select_positions(self.lm, *self.positions):
            logits: Tensor = self.lm.model(
                input_ids=self.batch.ids, attention_mask=self.batch.mask, use_cache=False
            ).logits
        return logits.float()
