"""Where the parts of a transformer sit, as a table keyed by the Hugging Face architecture class.

Supporting a new architecture is one row, here or through the entry-point group ``knbench.families``
(a mapping from architecture class name to :class:`ModelFamily`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.errors import KnbenchError, nearest
from ..core.registry import FAMILIES, load, registered


@dataclass(frozen=True)
class ModelFamily:
    """Dotted module paths of one architecture.

    Attributes:
        blocks: the list of transformer blocks, from the model.
        attention: the attention module, from a block.
        mlp: the module whose output is the MLP output, from a block.
        mlp_in: the projection whose output the activation function receives, from a block.
        mlp_out: the MLP's output projection, from a block: its input are the *neurons*, its weight is W.
        norm: the final norm, from the model.
        objective: ``causal`` predicts the next token, ``masked`` fills a mask token.

    Token embedding and output head are not listed: the library's own accessors name them. Whether W is stored
    transposed is not said either: it follows from the type of the module (GPT-2's ``Conv1D``), never from its
    shape, which a square matrix would make ambiguous.
    """

    blocks: str
    attention: str
    mlp: str
    mlp_in: str
    mlp_out: str
    norm: str
    objective: Literal["causal", "masked"] = "causal"


LLAMA_LIKE = ModelFamily(
    blocks="model.layers",
    attention="self_attn",
    mlp="mlp",
    mlp_in="mlp.gate_proj",
    mlp_out="mlp.down_proj",
    norm="model.norm",
)

BUILT_IN: Mapping[str, ModelFamily] = {
    "GPT2LMHeadModel": ModelFamily(
        blocks="transformer.h",
        attention="attn",
        mlp="mlp",
        mlp_in="mlp.c_fc",
        mlp_out="mlp.c_proj",
        norm="transformer.ln_f",
    ),
    "GPTJForCausalLM": ModelFamily(
        blocks="transformer.h",
        attention="attn",
        mlp="mlp",
        mlp_in="mlp.fc_in",
        mlp_out="mlp.fc_out",
        norm="transformer.ln_f",
    ),
    "GPTNeoXForCausalLM": ModelFamily(
        blocks="gpt_neox.layers",
        attention="attention",
        mlp="mlp",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        norm="gpt_neox.final_layer_norm",
    ),
    "LlamaForCausalLM": LLAMA_LIKE,
    "MistralForCausalLM": LLAMA_LIKE,
    "Qwen2ForCausalLM": LLAMA_LIKE,
    "Qwen3ForCausalLM": LLAMA_LIKE,
    "Gemma3ForCausalLM": LLAMA_LIKE,
    "BertForMaskedLM": ModelFamily(
        blocks="bert.encoder.layer",
        attention="attention",
        mlp="output.dense",
        mlp_in="intermediate.dense",
        mlp_out="output.dense",
        norm="cls.predictions.transform.LayerNorm",
        objective="masked",
    ),
}


def known_families() -> dict[str, ModelFamily]:
    """Return the built-in table with the rows of installed plug-ins."""
    table = dict(BUILT_IN)
    for point in registered(FAMILIES).values():
        table.update(load(point))
    return table


def family_of(architecture: str) -> ModelFamily:
    """Return the family of a Hugging Face architecture class name.

    Raises:
        KnbenchError: the architecture has no row; the message lists those that have.
    """
    table = known_families()
    if architecture not in table:
        guess = nearest(architecture, table)
        hint = f" (nearest: {guess})" if guess else ""
        raise KnbenchError(
            f"no model family for architecture '{architecture}'{hint}; known: {', '.join(sorted(table))}. "
            "Add a row through the entry-point group knbench.families"
        )
    return table[architecture]
