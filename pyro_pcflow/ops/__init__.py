"""Pure functions that import nothing of ours: the ground floor of the package."""
