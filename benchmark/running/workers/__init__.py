"""Worker pools that execute a run in several processes."""
