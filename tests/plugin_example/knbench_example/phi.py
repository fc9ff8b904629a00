"""A model family: where the parts of a Phi sit, one row per architecture class of the transformers library."""

from knbench.benchmark.models.families import ModelFamily

FAMILIES = {
    "PhiForCausalLM": ModelFamily(
        blocks="model.layers",
        attention="self_attn",
        mlp="mlp",
        mlp_in="mlp.fc1",
        mlp_out="mlp.fc2",
    )
}
