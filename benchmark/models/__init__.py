"""Language models: loading, module access by role, tokenization and hooks."""
