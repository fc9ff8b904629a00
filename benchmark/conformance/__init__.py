"""Checks that an editor keeps the rules of the interface."""
