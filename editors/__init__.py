"""Editing methods, one file each. Each is registered in ``pyproject.toml`` like any plug-in."""
