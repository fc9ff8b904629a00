"""Module paths of each supported transformer architecture, keyed by the Hugging Face class name.

To support another architecture, add one row here, or register a mapping from class name to :class:`ModelFamily` in the
entry-point group ``knbench.families``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..core.errors import KnbenchError, nearest
from ..core.registry import FAMILIES, load_mappings


@dataclass(frozen=True)
class ModelFamily:
    """Dotted module paths of one architecture.

    Token embedding and output head are omitted because transformers has accessors for them. The storage layout of W is
    omitted because it follows from the module type (GPT-2 uses ``Conv1D``). The shape does not determine it, since W
    may be square.

    Attributes:
        blocks: the list of transformer blocks, relative to the model.
        attention: the attention module, relative to a block.
        mlp: the module whose output is the MLP output, relative to a block.
        mlp_in: the projection whose output the activation function receives, relative to a block.
        mlp_out: the output projection of the MLP, relative to a block. Its input is the *neurons*; its weight is W.
        mlp_up: in a gated MLP, the projection that is multiplied with the activated gate, relative to a block. Empty
            for an MLP without a gate.
        attention_out: the output projection of the attention, relative to a block. Methods that edit it need the path.
        objective: ``causal`` predicts the next token, ``masked`` fills a mask token.
    """

    blocks: str
    attention: str
    mlp: str
    mlp_in: str
    mlp_out: str
    mlp_up: str = ""
    attention_out: str = ""
    objective: Literal["causal", "masked"] = "causal"


LLAMA_LIKE = ModelFamily(
    blocks="model.layers",
    attention="self_attn",
    mlp="mlp",
    mlp_in="mlp.gate_proj",
    mlp_out="mlp.down_proj",
    mlp_up="mlp.up_proj",
    attention_out="self_attn.o_proj",
)

BUILT_IN: Mapping[str, ModelFamily] = {
    "GPT2LMHeadModel": ModelFamily(
        blocks="transformer.h",
        attention="attn",
        mlp="mlp",
        mlp_in="mlp.c_fc",
        mlp_out="mlp.c_proj",
        attention_out="attn.c_proj",
    ),
    "GPTJForCausalLM": ModelFamily(
        blocks="transformer.h",
        attention="attn",
        mlp="mlp",
        mlp_in="mlp.fc_in",
        mlp_out="mlp.fc_out",
        attention_out="attn.out_proj",
    ),
    "GPTNeoXForCausalLM": ModelFamily(
        blocks="gpt_neox.layers",
        attention="attention",
        mlp="mlp",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        attention_out="attention.dense",
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
        attention_out="attention.output.dense",
        objective="masked",
    ),
}


def known_families() -> dict[str, ModelFamily]:
    """Return the built-in families and those of installed plug-ins, by architecture class name.

    Built-in families take precedence.
    """
    return {**load_mappings(FAMILIES, ModelFamily), **BUILT_IN}


def family_of(architecture: str) -> ModelFamily:
    """Return the family of a Hugging Face architecture class name.

    Raises:
        KnbenchError: the architecture is unknown. The message lists the known ones.
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
