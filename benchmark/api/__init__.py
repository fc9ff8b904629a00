"""The Python interface: one edit with its answers before and after, evaluations, and their configuration.

:mod:`knbench.benchmark` exports the functions of this folder. The commands use the same functions.
"""
