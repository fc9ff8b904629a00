"""Module paths of each supported transformer architecture, keyed by the Hugging Face class name.

To support another architecture, add one row here, or register a mapping from class name to :class:`ModelFamily` in the
entry-point group ``knbench.families``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

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
            for an MLP without a gate, and if ``fused_gate`` is set.
        fused_gate: whether ``mlp_in`` computes gate and up together. The first half of its outputs is the gate.
        mlp_norm: the RMS norm that the MLP's output passes before it is added to the residual stream, relative to a
            block. Empty if there is none.
        mlp_scale: name of the setting by which the MLP's output is multiplied before it is added to the residual
            stream. Empty if there is none.
        attention_out: the output projection of the attention, relative to a block. Methods that edit it need the path.
        flat_mlp: whether a block passes a matrix of shape (batch * position, d) to ``mlp_in``.
        attention_window: name of the setting that limits how far a key precedes its query, if the attention modules
            count this distance in the keys that they receive. Empty if the model passes a mask instead.
        objective: ``causal`` predicts the next token, ``masked`` fills a mask token.
    """

    blocks: str
    attention: str
    mlp: str
    mlp_in: str
    mlp_out: str
    mlp_up: str = ""
    attention_out: str = ""
    mlp_norm: str = ""
    mlp_scale: str = ""
    fused_gate: bool = False
    flat_mlp: bool = False
    attention_window: str = ""
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
NORM_BEHIND = replace(LLAMA_LIKE, mlp_norm="post_feedforward_layernorm")
ROBERTA_LIKE = ModelFamily(
    blocks="roberta.encoder.layer",
    attention="attention",
    mlp="output.dense",
    mlp_in="intermediate.dense",
    mlp_out="output.dense",
    attention_out="attention.output.dense",
    objective="masked",
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
    "GPTNeoForCausalLM": ModelFamily(
        blocks="transformer.h",
        attention="attn",
        mlp="mlp",
        mlp_in="mlp.c_fc",
        mlp_out="mlp.c_proj",
        attention_out="attn.attention.out_proj",
        attention_window="window_size",
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
    "GemmaForCausalLM": LLAMA_LIKE,
    "Gemma2ForCausalLM": NORM_BEHIND,
    "Gemma3ForCausalLM": NORM_BEHIND,
    "Gemma3ForConditionalGeneration": replace(NORM_BEHIND, blocks="model.language_model.layers"),
    "OlmoForCausalLM": LLAMA_LIKE,
    "Olmo2ForCausalLM": NORM_BEHIND,
    "Olmo3ForCausalLM": NORM_BEHIND,
    "StableLmForCausalLM": LLAMA_LIKE,
    "GraniteForCausalLM": replace(LLAMA_LIKE, mlp_scale="residual_multiplier"),
    "CohereForCausalLM": LLAMA_LIKE,
    "Cohere2ForCausalLM": LLAMA_LIKE,
    "SmolLM3ForCausalLM": LLAMA_LIKE,
    "PhiForCausalLM": ModelFamily(
        blocks="model.layers",
        attention="self_attn",
        mlp="mlp",
        mlp_in="mlp.fc1",
        mlp_out="mlp.fc2",
        attention_out="self_attn.dense",
    ),
    "Phi3ForCausalLM": replace(LLAMA_LIKE, mlp_in="mlp.gate_up_proj", mlp_up="", fused_gate=True),
    "OPTForCausalLM": ModelFamily(
        blocks="model.decoder.layers",
        attention="self_attn",
        mlp="fc2",
        mlp_in="fc1",
        mlp_out="fc2",
        attention_out="self_attn.out_proj",
        flat_mlp=True,
    ),
    "FalconForCausalLM": ModelFamily(
        blocks="transformer.h",
        attention="self_attention",
        mlp="mlp",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        attention_out="self_attention.dense",
    ),
    # BLOOM's attention and MLP modules add the residual stream to their outputs.
    "BloomForCausalLM": ModelFamily(
        blocks="transformer.h",
        attention="self_attention.dense",
        mlp="mlp.dense_4h_to_h",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        attention_out="self_attention.dense",
    ),
    "BertForMaskedLM": replace(ROBERTA_LIKE, blocks="bert.encoder.layer"),
    "RobertaForMaskedLM": ROBERTA_LIKE,
    "XLMRobertaForMaskedLM": ROBERTA_LIKE,
    "DistilBertForMaskedLM": ModelFamily(
        blocks="distilbert.transformer.layer",
        attention="attention",
        mlp="ffn",
        mlp_in="ffn.lin1",
        mlp_out="ffn.lin2",
        attention_out="attention.out_lin",
        objective="masked",
    ),
    "ModernBertForMaskedLM": ModelFamily(
        blocks="model.layers",
        attention="attn",
        mlp="mlp",
        mlp_in="mlp.Wi",
        mlp_out="mlp.Wo",
        attention_out="attn.Wo",
        fused_gate=True,
        objective="masked",
    ),
}


def known_families() -> dict[str, ModelFamily]:
    """Return the built-in families and those of installed plug-ins, by architecture class name.

    Built-in families take precedence.
    """
    return {**load_mappings(FAMILIES, ModelFamily), **BUILT_IN}


def family_of(architecture: str, config: Any = None) -> ModelFamily:
    """Return the family of a Hugging Face architecture class name.

    Args:
        architecture: the name of the class.
        config: the configuration of the model, which tells a mixture of experts from a dense model of an unknown
            architecture.

    Raises:
        KnbenchError: the architecture is unknown. The message says so if it is a mixture of experts.
    """
    table = known_families()
    if architecture not in table:
        if (experts := _experts(config.to_dict() if config is not None else {})) is not None:
            raise KnbenchError(
                f"{architecture} is a mixture of experts ({experts}), which is not supported: no layer has one MLP "
                "matrix to edit; use a dense model (see: knbench list families)"
            )
        guess = nearest(architecture, table)
        hint = f" (nearest: {guess})" if guess else ""
        raise KnbenchError(
            f"no model family for architecture '{architecture}'{hint}; see: knbench list families. A plug-in can add a "
            "row through the entry-point group knbench.families"
        )
    return table[architecture]


_EXPERTS = re.compile(r"(?:moe_)?(?:num|n)_(?:local_|routed_)?experts")


def _experts(settings: Mapping[str, Any]) -> str | None:
    """Return the setting of a configuration that counts experts, or None.

    >>> _experts({"text_config": {"num_local_experts": 8}}), _experts({"num_experts": 1})
    ('num_local_experts: 8', None)
    """
    for key, value in settings.items():
        if isinstance(value, int) and value > 1 and _EXPERTS.fullmatch(str(key)):
            return f"{key}: {value}"
        if isinstance(value, Mapping) and (found := _experts(value)) is not None:
            return found
    return None
