"""The folder with the definitions of this leaderboard's boards."""

from __future__ import annotations

from pathlib import Path


def board_folder() -> Path:
    """Return the folder, an entry point of ``knbench.boards``."""
    return Path(__file__).parent / "boards"
