"""Commands that make what the package ships: examples and trained models."""
