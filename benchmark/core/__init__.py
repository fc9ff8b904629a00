"""Types, errors, the plug-in registry and file helpers. Imports no model code."""
