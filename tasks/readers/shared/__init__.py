"""Code shared by the readers: loading rows, reporting skipped records, reading fields, building cases and tasks."""
