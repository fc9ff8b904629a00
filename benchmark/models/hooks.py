"""Context managers that read or change activations of a model. Leaving the block restores the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .language_model import LanguageModel
from .memory import act_checked

Side = Literal["input", "output"]


def hidden(output: Any) -> Tensor:
    """Return the hidden states of a module's output, (batch, position, d). Some families wrap them in a tuple.

    Raises:
        TypeError: the output has another type or shape.
    """
    state = output[0] if isinstance(output, tuple) else output
    if not isinstance(state, Tensor) or state.dim() != 3:
        raise TypeError(f"expected hidden states of shape (batch, position, d), got {type(output).__name__}")
    return state


def _with_hidden(output: Any, state: Tensor) -> Any:
    """Return a module's output with other hidden states."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


@contextmanager
def capture(wanted: Mapping[str, tuple[nn.Module, Side]]) -> Iterator[dict[str, Tensor]]:
    """Capture inputs or outputs of modules::

        with capture({"k": (lm.mlp_out(5), "input")}) as captured:
            lm.model(input_ids=ids)
        captured["k"]

    Args:
        wanted: modules and sides, by the key of the result.

    Yields:
        Tensors of shape (batch, position, features), by key. They remain part of the autograd graph.
    """
    captured: dict[str, Tensor] = {}

    def make_hook(key: str, side: Side) -> Callable[..., Any]:
        if side == "input":

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                captured[key] = args[0] if args else kwargs["hidden_states"]

            return before

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            captured[key] = hidden(output)
            return _with_hidden(output, captured[key].clone())  # some blocks add to an output in place

        return after

    with ExitStack() as stack:
        for key, (module, side) in wanted.items():
            if side == "input":
                handle = module.register_forward_pre_hook(make_hook(key, side), with_kwargs=True)
            else:
                handle = module.register_forward_hook(make_hook(key, side))
            stack.callback(handle.remove)
        yield captured


@contextmanager
def edit_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of a module: ``with edit_output(lm.mlp(5), lambda v: v * 2): lm.model(...)``.

    Args:
        module: the module.
        change: maps its output, (batch, position, d), to the replacement of the same shape. The output head at selected
            positions, whose output has shape (n, vocabulary), is passed as one text of n positions.
    """

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor) and output.dim() == 2:  # the head inside select_positions
            return change(output[None])[0]
        return _with_hidden(output, change(hidden(output)))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def memories_active(lm: LanguageModel, name: str) -> Iterator[None]:
    """Let the memories of :attr:`LanguageModel.memories` act on the output of a module, in a ``with`` block.

    The memories are looked up at each pass. They act in their order, each on the output of the one before.

    Args:
        lm: the model.
        name: name of the module.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if lm.memories_suspended or not lm.memories.get(name):
            return None
        inputs = args[0] if args else next(iter(kwargs.values()))
        state = hidden(output)
        for memory in lm.memories[name]:
            state = act_checked(memory, name, inputs, state, lm.current_reading)
        return _with_hidden(output, state)

    module: nn.Module = lm.model.get_submodule(name)
    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def resume_at(lm: LanguageModel, layer: int, state: Tensor) -> Iterator[None]:
    """Start the forward pass at a block: ``with resume_at(lm, 5, state): lm.model(...)``.

    Lower blocks are skipped, which saves their cost.

    Args:
        lm: the model.
        layer: the first block that is computed. With 0 no block is skipped, and the embeddings of the input are used.
        state: input of that block for the positions of the input, (batch, position, d).
    """
    with ExitStack() as stack:
        for i in range(layer):
            result = state if i == layer - 1 else None
            stack.enter_context(_skipped(lm.block(i), result, as_tuple=lm.blocks_return_tuples))
        yield


@contextmanager
def _skipped(block: nn.Module, result: Tensor | None, *, as_tuple: bool) -> Iterator[None]:
    """Replace the forward method of a block by the identity, or by a constant ``result``."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        out = hidden_states if result is None else result
        return (out,) if as_tuple else out

    with _with_forward(block, forward):
        yield


@contextmanager
def _with_forward(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward method of a block, and restore it afterwards.

    A block usually uses the method of its class. In a model on several devices, each block has its own attribute
    ``forward``, which moves the inputs.
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
    """A key-value cache that passes read but do not extend: ``FixedPast([(keys, values), ...])``.

    It takes one pair per layer, each of shape (row, head, position, head size); a single row is the past of all rows of
    a pass. ``DynamicCache`` would store the keys and values of each pass for all layers.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the cached keys and values of a layer, followed by the new ones."""
        past, rows = self.layers[layer_idx], len(key_states)
        keys, values = (t.expand(rows, -1, -1, -1) for t in (past.keys, past.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


@contextmanager
def select_positions(lm: LanguageModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Compute logits at selected positions: ``with select_positions(lm, rows, columns): lm.model(...).logits``.

    The logits have shape (n, vocabulary). Only the hidden states at ``(rows[i], columns[i])`` pass through the head,
    which costs as much as many layers in a small model.

    Args:
        lm: the model.
        rows: batch indices, (n,).
        columns: token positions, (n,).
    """

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        device = args[0].device  # the device of the head, if the model is on several
        return (args[0][rows.to(device), columns.to(device)], *args[1:])

    handle = lm.head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def capture_head_input(lm: LanguageModel, pick: Callable[[Tensor], Tensor], *, through: bool) -> Iterator[list[Tensor]]:
    """Capture selected hidden states in front of the output head::

        with capture_head_input(lm, lambda x: x[:, -1], through=False) as captured:
            lm.model(input_ids=ids)
        captured[0]

    Args:
        lm: the model.
        pick: selects hidden states, (n, d), from the input of the head.
        through: whether the selected states pass through the head. Otherwise only the first one does, to save the
            cost, and the caller applies the head.

    Yields:
        A list that contains the selected states after the forward pass.
    """
    captured: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        captured.append(pick(args[0]))
        return (captured[0] if through else captured[0][:1].detach(), *args[1:])

    handle = lm.head.register_forward_pre_hook(hook)
    try:
        yield captured
    finally:
        handle.remove()


@contextmanager
def append_rows(block: nn.Module, rows: Tensor, *, mask: Tensor | None = None, first: bool = False) -> Iterator[None]:
    """Append texts to the batch at the input of a block.

    Args:
        block: the transformer block.
        rows: hidden states to append, (batch, position, d).
        mask: additive attention mask of the block. A mask that the model passes is added.
        first: whether the rows replace the input instead of following it.
    """
    original = block.forward
    signature = inspect.signature(original)

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        state = rows if first else torch.cat([hidden_states, rows])
        call = signature.bind(state, *args, **kwargs)
        given = call.arguments
        if mask is not None:
            given["attention_mask"] = _add_mask(mask, given.get("attention_mask"))
        if given.get("alibi") is not None:  # a bias per key, (batch * head, 1, key) or (batch, head, 1, key)
            given["alibi"] = given["alibi"].repeat(len(state), *[1] * (given["alibi"].dim() - 1))
        return original(*call.args, **call.kwargs)

    with _with_forward(block, forward):
        yield


def _add_mask(mask: Tensor, given: Tensor | None) -> Tensor:
    """Return the sum of an additive mask and the one that a model passes, which may be Boolean or None."""
    if given is None:
        return mask
    lowest = torch.finfo(mask.dtype).min
    if given.dtype == torch.bool:
        return mask.masked_fill(~given, lowest)
    return (mask + given).clamp(min=lowest)


@contextmanager
def stop_after(lm: LanguageModel, layer: int) -> Iterator[None]:
    """Skip the blocks above a layer: ``with stop_after(lm, 5): lm.model(...)`` computes blocks 0 to 5."""
    with ExitStack() as stack:
        for i in range(layer + 1, lm.n_layers):
            stack.enter_context(_skipped(lm.block(i), None, as_tuple=lm.blocks_return_tuples))
        yield
