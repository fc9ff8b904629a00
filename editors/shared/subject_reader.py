"""Read keys and block outputs at the last tokens of subjects, repeatedly while layers are edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ...benchmark.core.schema import SLOT, EditRequest
from ...benchmark.models.hooks import Side, capture, resume_at, select_positions, stop_after
from ...benchmark.models.language_model import LanguageModel, Padded
from .mlp_contribution import output_changes

BATCH_SIZE = 64
"""Number of texts per forward pass."""


class SubjectReader:
    """Reads keys and outputs at the last token of each request's subject, in every context.

    The hidden states below the first edited layer never change and are computed once. The tokens after the subject
    and the layers above the last edited one are not computed.

    Args:
        lm: a causal model.
        requests: the requests.
        contexts: templates with a ``{}`` for the prompt; the first is ``{}`` itself.
        layers: the edited layers, in ascending order.
        site: the output to read in the last edited layer: of the block (MEMIT) or of the MLP (PMET).

    Raises:
        ValueError: no token covers a subject.
    """

    def __init__(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        contexts: Sequence[str],
        layers: Sequence[int],
        site: Literal["mlp", "block"] = "block",
    ) -> None:
        self.lm, self.first, self.last = lm, layers[0], layers[-1]
        self.output = lm.block(self.last) if site == "block" else lm.mlp(self.last)
        self.n_requests, self.n_contexts = len(requests), len(contexts)
        rows = []
        for request in requests:
            for context in contexts:
                template = lm.preface(request.text) + context.replace(SLOT, request.prompt, 1)
                # Tokenised with the target, as for the value vectors: a token may cover the end of the subject and
                # the text after it.
                tokens, span = lm.subject_span(template, request.subject, request.target_new)
                rows.append(tokens.ids[: span[-1] + 1])
        self.batches = [lm.pad(rows[i : i + BATCH_SIZE]) for i in range(0, len(rows), BATCH_SIZE)]
        block_input: dict[str, tuple[nn.Module, Side]] = {"x": (lm.block(self.first), "input")}
        self.states = []
        for batch in self.batches:
            with capture(block_input) as captured, stop_after(lm, self.first):
                self._forward(batch)
            self.states.append(captured["x"])

    def _forward(self, batch: Padded) -> None:
        position = torch.zeros(1, dtype=torch.long, device=self.lm.device)  # the head needs at least one
        with torch.no_grad(), select_positions(self.lm, position, position):
            self.lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Read the model with the edits that are applied now.

        A key is the average of the bare prompt's key and the mean over the other contexts (Meng et al. 2023, released
        code). An output is that of the bare prompt.

        Returns:
            Keys of the layer, (request, m), and outputs of the last edited block or MLP, (request, d), float32.
        """
        found = self._capture({"k": (self.lm.mlp_out(layer), "input"), "v": (self.output, "output")})
        bare, others = found["k"][:, 0], found["k"][:, 1:]
        return (bare + others.mean(1)) / 2 if self.n_contexts > 1 else bare, found["v"][:, 0]

    def output_changes(self, layer: int, changes: Tensor) -> Tensor:
        """Return the changes of a layer's MLP outputs that change the residual stream as wanted, for the bare prompts.

        Args:
            layer: the layer.
            changes: wanted changes of the residual stream, (request, d), float32.
        """
        if self.lm.mlp_norm(layer) is None:
            return changes / self.lm.mlp_scale
        outputs = self._capture({"m": (self.lm.mlp(layer), "output")})["m"][:, 0]
        return output_changes(self.lm, layer, outputs, changes)

    def _capture(self, wanted: Mapping[str, tuple[nn.Module, Side]]) -> dict[str, Tensor]:
        """Return inputs or outputs of modules at the last tokens of subjects, (request, context, width), float32."""
        lm, found = self.lm, dict[str, list[Tensor]]()
        for batch, state in zip(self.batches, self.states, strict=True):
            with capture(wanted) as captured, resume_at(lm, self.first, state), stop_after(lm, self.last):
                self._forward(batch)
            index = torch.arange(len(batch.ids), device=lm.device)
            for name in wanted:
                found.setdefault(name, []).append(captured[name][index, batch.lengths - 1].float())
        return {name: torch.cat(rows).view(self.n_requests, self.n_contexts, -1) for name, rows in found.items()}
