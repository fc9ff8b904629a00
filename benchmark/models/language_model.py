"""The only object that editors and probing see of a model: its modules by role, and its tokenisation.

Every tokenisation rule lives here, once: whether a BOS stands first, the space before a target, padding, and
which tokens a subject covers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import KnbenchError
from ..core.schema import SLOT
from .families import ModelFamily

BosPolicy = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Tokens:
    """Token ids with the character span ``(start, end)`` that each covers (BOS covers ``(0, 0)``)."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class TokenQuery(NamedTuple):
    """A text, the position at which a token is predicted, and that token."""

    ids: tuple[int, ...]
    position: int
    token: int


@dataclass(frozen=True)
class Padded:
    """A right-padded batch: ``ids`` and ``mask`` of shape (batch, length), ``lengths`` of shape (batch,)."""

    ids: Tensor
    mask: Tensor
    lengths: Tensor


class LanguageModel:
    """A model, its tokenizer and the family table's view of it.

    The model is in evaluation mode and none of its parameters requires a gradient.

    Args:
        model: a Hugging Face model with a language-modelling head.
        tokenizer: its fast tokenizer.
        family: where the model's parts sit.
        name: how reports call it.
        revision: which version of the weights this is, or None when unknown.
        bos: ``auto`` puts a BOS first exactly when the tokenizer itself does; ``always`` and ``never`` override it.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        family: ModelFamily,
        *,
        name: str,
        revision: str | None = None,
        bos: BosPolicy = "auto",
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise KnbenchError(f"model '{name}' has no fast tokenizer; the subject's tokens cannot be located")
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.family = family
        self.name = name
        self.revision = revision
        self.bos_policy = bos
        self.prompt_prefix = ""
        """Text put before every prompt; set by :meth:`Edit.applied` for in-context editing."""
        self.bos_id = self._find_bos(bos)
        self.blocks: Sequence[Any] = model.get_submodule(family.blocks)  # type: ignore[assignment]
        # Of a model on several devices, where its inputs go.
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        self.dtype, self.device = embedding.weight.dtype, embedding.weight.device
        self._names = {id(p): n for n, p in model.named_parameters()}
        self.blocks_return_tuples, self.head_is_last = self._look()
        """Whether a block wraps its hidden states in a tuple, which differs by family and library version; and whether
        the logits are what the head gives, which in some families are scaled or capped behind it."""

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {len(self.blocks)} layers, {self.dtype}, {self.device})"

    # --- modules by role -------------------------------------------------------------------------------------

    @property
    def causal(self) -> bool:
        """Whether the model predicts the next token (as against filling masks)."""
        return self.family.objective == "causal"

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def n_neurons(self) -> int:
        """Width m of the MLP's hidden layer."""
        return self.parameter(self.mlp_weight_name(0)).numel() // self.shape["width"]  # type: ignore[no-any-return]

    @property
    def shape(self) -> dict[str, Any]:
        """Architecture, layers, hidden size and vocabulary: what published hyper-parameters are looked up by."""
        config = self.model.config.get_text_config()
        return {
            "architecture": type(self.model).__name__,
            "layers": self.n_layers,
            "width": config.hidden_size,
            "vocabulary": config.vocab_size,
        }

    def block(self, layer: int) -> nn.Module:
        """Return the transformer block of a layer.

        Raises:
            KnbenchError: the model has no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise KnbenchError(f"layer {layer} does not exist: '{self.name}' has layers 0 to {self.n_layers - 1}")
        module: nn.Module = self.blocks[layer]
        return module

    def mlp(self, layer: int) -> nn.Module:
        """Return the module whose output is the layer's MLP output ``v``."""
        return self.block(layer).get_submodule(self.family.mlp)

    def mlp_in(self, layer: int) -> nn.Module:
        """Return the MLP's projection whose output its activation function receives (of a gated MLP, the gate's)."""
        return self.block(layer).get_submodule(self.family.mlp_in)

    def mlp_out(self, layer: int) -> nn.Module:
        """Return the MLP's output projection, which maps the neurons ``k`` to ``v``."""
        return self.block(layer).get_submodule(self.family.mlp_out)

    def attention(self, layer: int) -> nn.Module:
        """Return the layer's attention module."""
        return self.block(layer).get_submodule(self.family.attention)

    def _look(self) -> tuple[bool, bool]:
        tuples: list[bool] = []
        heads: list[Tensor] = []
        handles = [
            self.block(0).register_forward_hook(lambda _m, _i, output: tuples.append(isinstance(output, tuple))),
            self.head.register_forward_hook(lambda _m, _i, output: heads.append(output)),
        ]
        try:
            with torch.no_grad():
                logits = self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.device)).logits
        finally:
            for handle in handles:
                handle.remove()
        return tuples[0], len(heads) == 1 and torch.equal(heads[0], logits)

    @property
    def head(self) -> nn.Module:
        """The module that turns hidden states into logits."""
        module: nn.Module = self.model.get_output_embeddings()
        return module

    def mlp_weight_name(self, layer: int) -> str:
        """Return the parameter name of ``W`` of a layer."""
        return self._names[id(self.mlp_out(layer).weight)]

    def name_of(self, parameter: Tensor) -> str:
        """Return the name of one of the model's parameters."""
        return self._names[id(parameter)]

    def parameter(self, name: str) -> nn.Parameter:
        """Return a parameter by its name in the model.

        Raises:
            KnbenchError: the model has no such parameter.
        """
        try:
            parameter: nn.Parameter = self.model.get_parameter(name)
        except AttributeError as error:
            raise KnbenchError(f"model '{self.name}' has no parameter '{name}'") from error
        return parameter

    def weight_is_transposed(self, layer: int) -> bool:
        """Whether ``W`` is stored as (m, d) instead of (d, m): told by the module's type, never by its shape."""
        module = self.mlp_out(layer)
        if isinstance(module, nn.Linear):
            return False
        from transformers.pytorch_utils import Conv1D

        if isinstance(module, Conv1D):
            return True
        raise KnbenchError(f"cannot tell how {type(module).__name__} of layer {layer} stores its weight")

    def as_stored(self, layer: int, matrix: Tensor) -> Tensor:
        """Turn a (d, m) matrix into the layout in which the layer stores ``W``."""
        return matrix.T if self.weight_is_transposed(layer) else matrix

    # --- tokenisation ----------------------------------------------------------------------------------------

    def _find_bos(self, policy: BosPolicy) -> int | None:
        bos: int | None = self.tokenizer.bos_token_id
        if policy == "always":
            if bos is None:
                raise KnbenchError(f"model '{self.name}' has no BOS token; use bos=auto or bos=never")
            return bos
        if policy == "never" or bos is None or not self.causal:
            return None
        ids = self.tokenizer("a").input_ids
        return bos if ids and ids[0] == bos else None

    @property
    def start_id(self) -> int:
        """The token that a text without context is conditioned on: BOS, else end of text (as lm-eval does)."""
        for candidate in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        raise KnbenchError(f"model '{self.name}' has neither a BOS nor an end-of-text token to start a sentence")

    def encode(self, text: str) -> Tokens:
        """Tokenise a text, with BOS first where a causal model wants one, framed as a masked model was trained."""
        encoded = self.tokenizer(text, add_special_tokens=not self.causal, return_offsets_mapping=True)
        ids, spans = tuple(encoded.input_ids), tuple((a, b) for a, b in encoded.offset_mapping)
        if self.bos_id is not None:
            ids, spans = (self.bos_id, *ids), ((0, 0), *spans)
        return Tokens(ids, spans)

    def split(self, prompt: str, target: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokenise ``prompt`` and its continuation in one piece and cut where the continuation begins.

        The target is joined by one space, as the text would be written; an empty prompt gets the start token.

        Returns:
            The context's ids (at least one) and the target's ids (at least one, never BOS).

        Raises:
            ValueError: the target has no token of its own, or a token straddles the border.
        """
        gap = " " if prompt and not prompt[-1].isspace() else ""
        tokens = self.encode(prompt + gap + target)
        border = len(prompt.rstrip())  # the space belongs to the target's first token
        cut = next((i for i, (a, b) in enumerate(tokens.spans) if a >= border and b > border), len(tokens.ids))
        if cut == len(tokens.ids):
            raise ValueError(f"the target {target!r} has no token of its own after {prompt!r}")
        if cut and tokens.spans[cut - 1][1] > border:
            raise ValueError(f"a token straddles the border between {prompt!r} and {target!r}")
        context = tokens.ids[:cut] or (self.start_id,)
        return context, tokens.ids[cut:]

    @property
    def mask_id(self) -> int:
        """The token that a masked model fills.

        Raises:
            KnbenchError: the tokenizer has none.
        """
        if self.tokenizer.mask_token_id is None:
            raise KnbenchError(f"model '{self.name}' has no mask token")
        return int(self.tokenizer.mask_token_id)

    def place(self, prompt: str, target: str, suffix: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokenise a whole sentence for a masked model and tell where its target stands.

        Returns:
            The sentence's ids, and the positions of the target's tokens (at least one).

        Raises:
            ValueError: no token covers the target alone.
        """
        gap = " " if prompt and not prompt[-1].isspace() else ""
        tokens = self.encode(prompt + gap + target + suffix)
        start, end = len(prompt.rstrip()), len(prompt + gap + target)
        positions = tuple(i for i, (a, b) in enumerate(tokens.spans) if b > a and a >= start and start < b <= end)
        covered = {c for i in positions for c in range(*tokens.spans[i])}
        if not set(range(end - len(target), end)) <= covered:
            raise ValueError(f"the target {target!r} shares a token with its neighbours after {prompt!r}")
        if not positions:
            raise ValueError(f"the target {target!r} has no token of its own after {prompt!r}")
        return tokens.ids, positions

    def token_queries(self, prompt: str, target: str, suffix: str) -> list[TokenQuery]:
        """Return one question per token of a target, each after the true previous ones.

        A causal model is asked behind the text so far; a masked one at the token's own place, where the target's
        tokens from that one on are masks and the suffix is read too. The model's prompt prefix stands first.

        Raises:
            ValueError: the target cannot be tokenised after the prompt.
        """
        prompt = self.prompt_prefix + prompt
        if self.causal:
            context, wanted = self.split(prompt, target)
            return [TokenQuery(context + wanted[:n], len(context) + n - 1, token) for n, token in enumerate(wanted)]
        ids, positions = self.place(prompt, target, suffix)
        token_queries = []
        for n, position in enumerate(positions):
            masked = set(positions[n:])
            text = tuple(self.mask_id if i in masked else token for i, token in enumerate(ids))
            token_queries.append(TokenQuery(text, position, ids[position]))
        return token_queries

    def subject_span(self, template: str, subject: str) -> tuple[Tokens, range]:
        """Tokenise ``template`` with ``subject`` in its ``{}`` and locate the subject's tokens.

        The span comes from the tokenizer's character offsets, so a subject that merges with its neighbours or
        also occurs elsewhere in the prompt is still found.

        Raises:
            ValueError: no token covers the subject.
        """
        start = template.index(SLOT)
        end = start + len(subject)
        tokens = self.encode(template.replace(SLOT, subject, 1))
        hits = [i for i, (a, b) in enumerate(tokens.spans) if b > a and a < end and b > start]
        if not hits:
            raise ValueError(f"no token of {template!r} covers the subject {subject!r}")
        return tokens, range(hits[0], hits[-1] + 1)

    def pad(self, rows: Sequence[Sequence[int]], *, side: Literal["left", "right"] = "right") -> Padded:
        """Stack token rows into one batch. Attention ignores the padding, whatever id it has."""
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        filler = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.start_id
        ids = torch.full((len(rows), width), filler)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return Padded(ids.to(self.device), mask.to(self.device), lengths.to(self.device))

    def decode(self, ids: Sequence[int]) -> str:
        """Turn token ids into text, spaces kept as the tokens carry them."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # --- identity --------------------------------------------------------------------------------------------

    def weight_hash(self) -> str:
        """Return a sha256 over every parameter and buffer that belongs to the state: name, type, shape, bytes."""
        whole = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            whole.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            whole.update(_bytes(tensor))
        return whole.hexdigest()

    def fingerprint(self) -> str:
        """Return a fast hash of all weights, to check after each edit that they came back bit for bit."""
        import xxhash

        whole = xxhash.xxh3_128()
        for parameter in self.model.parameters():
            whole.update(_bytes(parameter))
        return str(whole.hexdigest())


def _bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes, without a copy where it lies contiguous in main memory."""
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)
