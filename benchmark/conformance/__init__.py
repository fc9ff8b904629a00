"""Conformance checks for editors, run by ``knbench check-editor``.

:func:`.checks.check_editor` runs all checks on an editor class. The checks are grouped by module:

- ``checks_declaration``: name, summary, Config and supported model families;
- ``checks_model_state``: the editor restores the model;
- ``checks_edit``: the content of the returned Edit;
- ``checks_reproducibility``: seeds and state between edits;
- ``checks_requests``: batches of requests and requests that cannot be edited;
- ``checks_sequence``: sequential edits and the state that each hands to the next.
"""
