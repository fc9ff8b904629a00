"""What a package adds to KNBench: see ``pyproject.toml`` for how each part is registered."""
