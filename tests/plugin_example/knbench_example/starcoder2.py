"""A model family: the module paths of StarCoder 2, by the name of the architecture's class in transformers."""

from knbench.benchmark.models.families import ModelFamily

FAMILIES = {
    "Starcoder2ForCausalLM": ModelFamily(
        blocks="model.layers",
        attention="self_attn",
        mlp="mlp",
        mlp_in="mlp.c_fc",
        mlp_out="mlp.c_proj",
        attention_out="self_attn.o_proj",
    )
}
