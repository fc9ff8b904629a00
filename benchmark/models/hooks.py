"""Reading and changing activations. Each intervention is a ``with`` block; leaving it undoes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .language_model import LanguageModel

Side = Literal["input", "output"]


def hidden(output: Any) -> Tensor:
    """Return the hidden states of a module's output, which some families wrap in a tuple."""
    state = output[0] if isinstance(output, tuple) else output
    if not isinstance(state, Tensor) or state.dim() != 3:
        raise TypeError(f"expected hidden states of shape (batch, position, d), got {type(output).__name__}")
    return state


def _like(output: Any, state: Tensor) -> Any:
    return (state, *output[1:]) if isinstance(output, tuple) else state


@contextmanager
def capture(wanted: Mapping[str, tuple[nn.Module, Side]]) -> Iterator[dict[str, Tensor]]:
    """``with capture({"k": (lm.mlp_out(5), "input")}) as seen: lm.model(...)``, then ``seen["k"]``.

    Captured tensors have shape (batch, position, features) and stay in the graph if there is one.
    """
    seen: dict[str, Tensor] = {}

    def reader(key: str, side: Side) -> Callable[..., None]:
        if side == "input":

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen[key] = args[0] if args else kwargs["hidden_states"]

            return before

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            seen[key] = hidden(output)

        return after

    with ExitStack() as stack:
        for key, (module, side) in wanted.items():
            if side == "input":
                handle = module.register_forward_pre_hook(reader(key, side), with_kwargs=True)
            else:
                handle = module.register_forward_hook(reader(key, side))
            stack.callback(handle.remove)
        yield seen


@contextmanager
def edit_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """``with edit_output(lm.mlp(5), lambda v: v * 2): lm.model(...)`` replaces the module's output."""

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return _like(output, change(hidden(output)))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def resume_at(lm: LanguageModel, layer: int, state: Tensor) -> Iterator[None]:
    """``with resume(lm, 5, state): lm.model(...)`` computes from block 5 on, whose input is ``state``.

    The blocks below are skipped, so that the model costs only its upper part. ``state`` has shape (batch,
    position, d) and must be what block ``layer`` would have received for the positions that are fed. With
    ``layer`` 0 there is nothing to skip, and the embeddings of the fed tokens are used.
    """
    with ExitStack() as stack:
        for i in range(layer):
            result = state if i == layer - 1 else None
            stack.enter_context(_bypassed(lm.block(i), result, as_tuple=lm.blocks_return_tuples))
        yield


@contextmanager
def _bypassed(block: nn.Module, result: Tensor | None, *, as_tuple: bool) -> Iterator[None]:
    """Replace a block's forward by the identity, or by a constant ``result``."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        out = hidden_states if result is None else result
        return (out,) if as_tuple else out

    with _with_forward(block, forward):
        yield


@contextmanager
def _with_forward(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Put a function in the place of a block's forward, and put back what was there.

    As a rule that is the class's own method; a model on several devices has one on each block that moves its inputs.
    """
    before = vars(block).get("forward")
    block.forward = forward
    try:
        yield
    finally:
        if before is None:
            del block.forward
        else:
            block.forward = before


class FixedPast(DynamicCache):  # type: ignore[misc]  # the library is untyped
    """Keys and values of a past that is read by every pass and grows in none: ``FixedPast([(keys, values), ...])``.

    One pair per layer, each of shape (row, head, position, head size). The library's own cache would keep what each
    pass adds, for every layer at once.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the past of a layer with the new positions behind it."""
        past = self.layers[layer_idx]
        return torch.cat([past.keys, key_states], dim=-2), torch.cat([past.values, value_states], dim=-2)


@contextmanager
def select_positions(lm: LanguageModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """``with select_positions(lm, rows, columns): logits = lm.model(...).logits`` gives (n, vocabulary) logits.

    Only the hidden states at ``(rows[i], columns[i])`` pass through the head, which for a small model costs as
    much as many of its layers.
    """

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        where = args[0].device  # of a model on several devices, the head's
        return (args[0][rows.to(where), columns.to(where)], *args[1:])

    handle = lm.head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def capture_head_input(lm: LanguageModel, pick: Callable[[Tensor], Tensor], *, through: bool) -> Iterator[list[Tensor]]:
    """``with at_head(lm, lambda x: x[:, -1], through=False) as seen: lm.model(...)``, then ``seen[0]``, (n, d).

    Only the picked hidden states pass through the head, or one row of them, where the caller applies it himself.
    """
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(pick(args[0]))
        return (seen[0] if through else seen[0][:1].detach(), *args[1:])

    handle = lm.head.register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def append_rows(
    block: nn.Module, rows: Tensor, *, dim: int, mask: Tensor | None = None, first: bool = False
) -> Iterator[None]:
    """Put rows behind those that a block receives, or in their place where they are the ``first``.

    Args:
        block: where they join.
        rows: hidden states, (batch, position, d).
        dim: 0 where they are texts of a batch, 1 where they are positions of one text.
        mask: takes the place of the block's own attention mask.
        first: whether nothing stands before them.
    """
    whole = block.forward
    signature = inspect.signature(whole)

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        state = rows if first else torch.cat([hidden_states, rows], dim=dim)
        call = signature.bind(state, *args, **kwargs)
        if mask is not None:
            call.arguments["attention_mask"] = mask
        return whole(*call.args, **call.kwargs)

    with _with_forward(block, forward):
        yield


@contextmanager
def stop_after(lm: LanguageModel, layer: int) -> Iterator[None]:
    """``with upto(lm, 5): lm.model(...)`` computes the blocks up to and with 5; those above hand their input on."""
    with ExitStack() as stack:
        for i in range(layer + 1, lm.n_layers):
            stack.enter_context(_bypassed(lm.block(i), None, as_tuple=lm.blocks_return_tuples))
        yield
