"""A model family: the module paths of Phi, by the name of the architecture's class in transformers."""

from knbench.benchmark.models.families import ModelFamily

FAMILIES = {
    "PhiForCausalLM": ModelFamily(
        blocks="model.layers",
        attention="self_attn",
        mlp="mlp",
        mlp_in="mlp.fc1",
        mlp_out="mlp.fc2",
        attention_out="self_attn.dense",
    )
}
