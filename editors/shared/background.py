"""Inputs and output gradients of linear modules over background text, for methods that keep its loss low.

For a linear module y = W h, the gradient of the loss with respect to W is the sum of g h^T over tokens, with g = dL/dy.
The moments E[h h^T] and E[g g^T] are the two factors of a Kronecker approximation of the loss's curvature (K-FAC).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...benchmark.core.errors import KnbenchError
from ...benchmark.core.progress import Reporter
from ...benchmark.core.schema import JsonObject
from ...benchmark.models.hooks import Side, capture, edit_output
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.precision import in_float64
from .covariance import BATCH_SIZE, Corpus, text_rows

ModuleRows = tuple[Tensor, Tensor]
"""Inputs h, (token, in), and output gradients g, (token, out), of a module, float32."""


@dataclass(frozen=True)
class Moments:
    """Second moments of a module over text, float32.

    Attributes:
        inputs: E[h h^T], (in, in).
        gradients: E[g g^T], (out, out), with g in nats per unit of the output.
        tokens: number of tokens.
    """

    inputs: Tensor
    gradients: Tensor
    tokens: int


def text_gradients(
    lm: LanguageModel, rows: Tensor, modules: Mapping[str, nn.Module], batch_size: int = BATCH_SIZE
) -> Iterator[dict[str, ModuleRows]]:
    """Yield inputs and output gradients of modules, one batch of texts after the other.

    The loss is the sum over all tokens but the first of their negative log-likelihood given the tokens before. The last
    position of a text predicts nothing and is left out. The model is left unchanged: no parameter needs a gradient.

    Args:
        lm: a causal model.
        rows: token ids, (text, length).
        modules: linear modules by name.
        batch_size: texts per pass.

    Raises:
        KnbenchError: the model is masked.
    """
    if not lm.causal:
        raise KnbenchError(f"gradients over text need a causal model; '{lm.name}' is a masked model")
    inputs: dict[str, tuple[nn.Module, Side]] = {name: (module, "input") for name, module in modules.items()}
    for batch in torch.split(rows, batch_size):
        zeros: dict[str, Tensor] = {}

        def add_zero(output: Tensor, name: str, zeros: dict[str, Tensor] = zeros) -> Tensor:
            zeros[name] = torch.zeros_like(output, requires_grad=True)  # its gradient is that of the output
            return output + zeros[name]

        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            captured = stack.enter_context(capture(inputs))
            for name, module in modules.items():
                stack.enter_context(edit_output(module, partial(add_zero, name=name)))
            logits = lm.model(input_ids=batch, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
            )
            gradients = torch.autograd.grad(loss, [zeros[name] for name in modules])
        yield {
            name: (
                captured[name].detach()[:, :-1].flatten(0, 1).float(),
                gradient[:, :-1].flatten(0, 1).float(),
            )
            for name, gradient in zip(modules, gradients, strict=True)
        }


class BackgroundGradients:
    """Second moments of inputs and output gradients over a corpus, computed once per model.

    Args:
        corpus: the text.
        texts: number of texts of the corpus.
    """

    def __init__(self, corpus: Corpus, texts: int) -> None:
        self.corpus, self.texts = corpus, texts
        # Keyed by model: an edited model keeps the moments of the weights that it had at the first call.
        self._moments: WeakKeyDictionary[LanguageModel, dict[str, Moments]] = WeakKeyDictionary()

    def prepare(self, lm: LanguageModel, weights: Sequence[str], reporter: Reporter) -> JsonObject:
        """Compute the moments of the modules with these weights, and return the provenance.

        Raises:
            KnbenchError: the model is masked, or the corpus cannot be read or is too short.
        """
        found = self._moments.setdefault(lm, {})
        missing = [name for name in weights if name not in found]
        if missing:
            rows = text_rows(lm, self.corpus, self.texts, reporter)
            found.update(self._computed(lm, rows, missing, reporter))
        return {"corpus": self.corpus.source, "texts": self.texts, "length": self.corpus.length}

    def of(self, lm: LanguageModel, weight: str) -> Moments:
        """Return the moments of the module with a weight. They are computed if :meth:`prepare` did not.

        Raises:
            KnbenchError: see :meth:`prepare`.
        """
        self.prepare(lm, [weight], Reporter())
        return self._moments[lm][weight]

    def _computed(
        self, lm: LanguageModel, rows: Tensor, names: Sequence[str], reporter: Reporter
    ) -> dict[str, Moments]:
        modules = {name: lm.model.get_submodule(name.rpartition(".")[0]) for name in names}
        sums = {name: [torch.zeros((), dtype=torch.float64)] * 2 for name in names}
        with reporter.stage("gradients over text", -(-len(rows) // BATCH_SIZE)) as step:
            for batch in text_gradients(lm, rows, modules):
                for name in names:
                    sums[name] = [total + in_float64(x.T @ x) for total, x in zip(sums[name], batch[name], strict=True)]
                step()
        tokens = rows[:, 1:].numel()
        means = {name: [(total / tokens).float().to(lm.device) for total in sums[name]] for name in names}
        return {name: Moments(inputs, gradients, tokens) for name, (inputs, gradients) in means.items()}
