"""``python -m knbench.benchmark`` is ``knbench``."""

from .commands.main import main

if __name__ == "__main__":
    main()
