"""The comparison of model families: ``python -m benchmarks.families``."""
