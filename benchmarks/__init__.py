"""Commands that reproduce the figures of the documentation: ``python -m benchmarks.NAME``."""
