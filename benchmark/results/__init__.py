"""Results on disk: reading, validation, comparison and the results store."""
