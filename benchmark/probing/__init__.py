"""Measurements on a model: probes, knowledge of a task, the baseline of the unedited model, and drift."""
