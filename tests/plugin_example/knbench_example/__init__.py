"""An example package for KNBench: an editing method, a task and a model family, registered in ``pyproject.toml``."""
