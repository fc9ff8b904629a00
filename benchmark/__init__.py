"""The harness: models, interventions, probing, criteria, statistics, running, results, command line.

Importing this package is cheap: nothing here loads torch until a model is needed, so that
``knbench list`` and ``knbench site build`` answer at once.
"""

__version__ = "0.1.0"
