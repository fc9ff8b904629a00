"""Measurements on a model: probes, known facts, the unedited baseline and drift."""
