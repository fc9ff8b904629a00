"""The modules and parameters of a model by role, for editors, hooks and probing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import KnbenchError
from .families import ModelFamily
from .flat_mlp import keep_batch_dimension

Role = Literal["gate", "up", "down", "attention_out"]
"""Linear modules of a block: the projections of its MLP, and the output projection of its attention."""


class ModelModules:
    """A model whose modules are found by role.

    The model is set to evaluation mode, and its parameters do not require gradients.

    Args:
        model: a Hugging Face model with a language-modelling head.
        family: the module paths of the architecture.
        name: the name of the model in reports.

    Attributes:
        blocks: the transformer blocks.
        dtype: the dtype of the token embedding.
        device: the device of the token embedding, which receives the input of a model on several devices.
        blocks_return_tuples: whether a block wraps its hidden states in a tuple. It depends on the family and the
            version of transformers.
        head_is_last: whether the logits equal the output of the head. Some families scale or cap them afterwards.
    """

    def __init__(self, model: nn.Module, family: ModelFamily, name: str) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.family = family
        self.name = name
        self.blocks: Sequence[Any] = model.get_submodule(family.blocks)  # type: ignore[assignment]
        if family.flat_mlp:
            for layer in range(len(self.blocks)):
                keep_batch_dimension(self.attention(layer), self.mlp_in(layer), self.mlp_out(layer))
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        self.dtype, self.device = embedding.weight.dtype, embedding.weight.device
        self._names = {id(p): n for n, p in model.named_parameters()}
        self._set_aside: list[Mapping[int, tuple[nn.Parameter, Tensor]]] = []
        self.blocks_return_tuples, self.head_is_last = self._inspect_forward()

    @property
    def causal(self) -> bool:
        """Whether the model predicts the next token instead of filling masks."""
        return self.family.objective == "causal"

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def n_neurons(self) -> int:
        """Number m of neurons in the hidden layer of an MLP."""
        return self.parameter(self.mlp_weight_name(0)).numel() // self.shape["width"]  # type: ignore[no-any-return]

    @property
    def shape(self) -> dict[str, Any]:
        """Architecture, layers, hidden size and vocabulary. They are the key of published hyper-parameters."""
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
            KnbenchError: the layer does not exist.
        """
        if not 0 <= layer < self.n_layers:
            raise KnbenchError(f"layer {layer} does not exist: '{self.name}' has layers 0 to {self.n_layers - 1}")
        module: nn.Module = self.blocks[layer]
        return module

    def mlp(self, layer: int) -> nn.Module:
        """Return the module whose output is the layer's MLP output ``v``."""
        return self.block(layer).get_submodule(self.family.mlp)

    def mlp_norm(self, layer: int) -> nn.Module | None:
        """Return the RMS norm between a layer's MLP output and the residual stream, or None."""
        path = self.family.mlp_norm
        return self.block(layer).get_submodule(path) if path else None

    @property
    def mlp_scale(self) -> float:
        """The factor of MLP outputs in the residual stream, behind the norm if there is one."""
        name = self.family.mlp_scale
        return float(getattr(self.model.config, name)) if name else 1.0

    def mlp_in(self, layer: int) -> nn.Module:
        """Return the MLP projection whose output the activation function receives. In a gated MLP it is the gate.

        If the gate is fused with the up projection, the first :attr:`n_neurons` outputs belong to the gate.
        """
        return self.block(layer).get_submodule(self.family.mlp_in)

    def mlp_out(self, layer: int) -> nn.Module:
        """Return the output projection of the MLP, which maps the neurons ``k`` to ``v``."""
        return self.block(layer).get_submodule(self.family.mlp_out)

    def attention(self, layer: int) -> nn.Module:
        """Return the layer's attention module."""
        return self.block(layer).get_submodule(self.family.attention)

    @property
    def gated(self) -> bool:
        """Whether the MLPs multiply two projections, of which the gate passes the activation function."""
        return bool(self.family.mlp_up) or self.family.fused_gate

    @property
    def attention_window(self) -> int | None:
        """Number of keys that a query sees in attention modules that count keys themselves, or None."""
        name = self.family.attention_window
        return int(getattr(self.model.config, name)) if name else None

    def has_role(self, role: Role) -> bool:
        """Return whether :meth:`projection` finds a module with the role."""
        return bool(self._paths()[role])

    def _paths(self) -> Mapping[Role, str]:
        """Return the path of each role relative to a block. It is empty if the architecture lacks the module."""
        family = self.family
        return {
            "gate": family.mlp_in if family.mlp_up else "",
            "up": "" if family.fused_gate else family.mlp_up or family.mlp_in,
            "down": family.mlp_out,
            "attention_out": family.attention_out,
        }

    def projection(self, role: Role, layer: int) -> nn.Module:
        """Return a linear module of a layer by its role.

        Args:
            role: ``gate`` and ``up`` map the input of the MLP to its neurons; in an MLP without gate ``up`` is the only
                one. ``down`` maps the neurons to the output. ``attention_out`` maps the heads to the output.
            layer: the layer.

        Raises:
            KnbenchError: the layer does not exist, the MLP has no gate or computes gate and up in one module, or the
                family does not name the module.
        """
        path = self._paths()[role]
        if not path:
            reason = "its family does not name attention_out"
            if role in ("gate", "up"):
                reason = "one module computes gate and up" if self.family.fused_gate else "its MLPs have no gate"
            raise KnbenchError(f"model '{self.name}' has no module with the role '{role}': {reason}")
        return self.block(layer).get_submodule(path)

    def weight_name(self, role: Role, layer: int) -> str:
        """Return the name of the weight of :meth:`projection`.

        Raises:
            KnbenchError: see :meth:`projection`.
        """
        return self._names[id(self.projection(role, layer).weight)]

    def _inspect_forward(self) -> tuple[bool, bool]:
        """Return ``blocks_return_tuples`` and ``head_is_last`` from one forward pass."""
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
        """The module that maps hidden states to logits."""
        module: nn.Module = self.model.get_output_embeddings()
        return module

    def mlp_weight_name(self, layer: int) -> str:
        """Return the name of the parameter ``W``, the weight of a layer's MLP output projection."""
        return self.weight_name("down", layer)

    def name_of(self, parameter: Tensor) -> str:
        """Return the name of a parameter of the model."""
        return self._names[id(parameter)]

    def module_name(self, module: nn.Module) -> str:
        """Return the name of a module of the model, for example of :attr:`head`.

        Raises:
            ValueError: the module does not belong to the model.
        """
        for name, candidate in self.model.named_modules():
            if candidate is module:
                return str(name)
        raise ValueError(f"{type(module).__name__} is not a module of '{self.name}'")

    def parameter(self, name: str) -> nn.Parameter:
        """Return a parameter by its name in the model.

        Raises:
            KnbenchError: the parameter does not exist.
        """
        try:
            parameter: nn.Parameter = self.model.get_parameter(name)
        except AttributeError as error:
            raise KnbenchError(f"model '{self.name}' has no parameter '{name}'") from error
        return parameter

    def unedited(self, name: str) -> Tensor:
        """Return the value that a parameter has without the edits that are applied. It must not be changed.

        The result is detached and shares memory with the model's own tensor.

        Raises:
            KnbenchError: the parameter does not exist.
        """
        parameter = self.parameter(name)
        for originals in self._set_aside:  # from the first stack of edits to the last
            if id(parameter) in originals:
                return originals[id(parameter)][1].detach()
        return parameter.detach()

    @contextmanager
    def setting_aside(self, originals: Mapping[int, tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
        """Let :meth:`unedited` find the tensors that a stack of edits replaces, in a ``with`` block.

        Args:
            originals: parameters with their tensors before the edits, by the parameter's id. The stack may add entries.
        """
        self._set_aside.append(originals)
        try:
            yield
        finally:
            self._set_aside = [other for other in self._set_aside if other is not originals]

    def weight_is_transposed(self, layer: int, role: Role = "down") -> bool:
        """Return whether the weight of a projection is stored as (in, out) instead of (out, in).

        The module type determines it. The default is ``W``, the weight of the MLP output projection.

        Raises:
            KnbenchError: the module type is unknown, or see :meth:`projection`.
        """
        module = self.projection(role, layer)
        if isinstance(module, nn.Linear):
            return False
        from transformers.pytorch_utils import Conv1D

        if isinstance(module, Conv1D):
            return True
        raise KnbenchError(
            f"layer {layer}: the weight layout of {type(module).__name__} is unknown; supported: Linear, Conv1D"
        )

    def as_stored(self, layer: int, matrix: Tensor, role: Role = "down") -> Tensor:
        """Return an (out, in) matrix in the layout in which a projection stores it, as a view.

        The default is ``W``, (d, m). The function is its own inverse.
        """
        return matrix.T if self.weight_is_transposed(layer, role) else matrix
