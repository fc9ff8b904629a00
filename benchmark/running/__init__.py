"""Runs: plan, edit, measure, write records and results."""
