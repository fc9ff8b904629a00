"""Editing methods, one file each; code that several methods use is in :mod:`~knbench.editors.shared`.

The methods are registered as entry points in ``pyproject.toml``, in the same way as those of plug-ins.
"""
