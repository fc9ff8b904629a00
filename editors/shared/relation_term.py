"""The term of BIRD's loss: the subject's vector and a relation's vector sum up to the object's vector, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import EditRequest
from ...benchmark.models.hooks import Side, capture, capture_head_input, edit_output, resume_at
from ...benchmark.models.language_model import LanguageModel


class RelationTerm:
    """Maps delta to sum_c |s + r - o*| + |o* + r' - s| - beta (|s + r - o| + |o + r' - s|), over contexts c.

    Every vector is the mean over the tokens of its text of the last hidden state, after the final norm, in the context.
    s is that of the subject with delta added to an MLP's output at its last token. The new object o*, the old object o
    and the words r and r' of the relation and its inverse are read without delta. Without words, r or r' is 0.

    Args:
        lm: a causal model.
        request: the request, which has a subject and a true answer.
        relation: words of the relation from the subject to the object, and from the object to the subject; each may be
            empty.
        layer: the layer whose MLP output is changed.
        contexts: templates with a ``{}``.
        beta: weight of the old object.

    Raises:
        ValueError: a text has no token of its own in a context.
    """

    def __init__(
        self,
        lm: LanguageModel,
        request: EditRequest,
        relation: tuple[str, str],
        layer: int,
        contexts: Sequence[str],
        beta: float,
    ) -> None:
        self.lm, self.layer, self.beta = lm, layer, beta
        with torch.no_grad():
            self.new, self.old = (self._read(text, contexts) for text in (request.target_new, request.target_true))
            self.forward, self.inverse = (
                self._read(words, contexts) if words else torch.zeros_like(self.new) for words in relation
            )
            block: dict[str, tuple[nn.Module, Side]] = {"x": (lm.block(layer), "input")}
            with capture(block) as captured:
                self._read(request.subject, contexts)
            self.state = captured["x"].detach()
        self.subject, self.contexts = request.subject, tuple(contexts)

    def __call__(self, delta: Tensor) -> Tensor:
        """Return the term, a scalar, for delta of shape (d,)."""
        subject = self.subject_vectors(delta)

        def distance(old: bool) -> Tensor:
            target = self.old if old else self.new
            there = (subject + self.forward - target).norm(dim=-1)
            back = (target + self.inverse - subject).norm(dim=-1)
            total: Tensor = (there + back).sum()
            return total

        term: Tensor = distance(False) - self.beta * distance(True)
        return term

    def subject_vectors(self, delta: Tensor) -> Tensor:
        """Return s in every context, (context, d), with delta in place."""

        def add(output: Tensor) -> Tensor:
            place = torch.zeros(output.shape[:2], dtype=output.dtype, device=output.device)
            place[torch.arange(len(self._ends)), self._ends] = 1
            return output + place[..., None] * delta.to(output.dtype)

        with edit_output(self.lm.mlp(self.layer), add), resume_at(self.lm, self.layer, self.state):
            return self._read(self.subject, self.contexts)

    def _read(self, text: str, contexts: Sequence[str]) -> Tensor:
        """Return the vector of a text in every context, (context, d), float32."""
        lm = self.lm
        found = [lm.subject_span(lm.prompt_prefix + context, text) for context in contexts]
        batch = lm.pad([tokens.ids[: span[-1] + 1] for tokens, span in found])
        self._ends = [span[-1] for _, span in found]
        weights = torch.zeros(batch.ids.shape, device=lm.device)
        for row, (_, span) in enumerate(found):
            weights[row, span[0] : span[-1] + 1] = 1 / len(span)

        with capture_head_input(lm, lambda state: state, through=False) as captured:
            lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
        state = captured[0] if captured[0].dtype == torch.float64 else captured[0].float()
        return (weights[..., None] * state).sum(1)
