"""Types, settings, errors, the plug-in registry and file functions. Imports no model code."""
