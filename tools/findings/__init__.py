"""The tables and figures of docs/findings, computed from stored records."""
