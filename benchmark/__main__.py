"""Runs the ``knbench`` command as ``python -m knbench.benchmark``."""

from .commands.main import main

if __name__ == "__main__":
    main()
