"""Analyses of a model's neurons and hidden states: localisation, suppression and causal tracing."""
