"""Results in, static site out. Imports nothing of the harness but how results are read, and so no torch."""
