"""Settings that several commands share."""

from __future__ import annotations

# Gaussian noise that thickens the points of a surface, whose density would have no upper bound without it: the standard
# deviation per half extent of the bounding box, for single meshes and trained models, and per standard deviation of the
# coordinates, for categories in standard units.
NOISE_PER_HALF_EXTENT = 0.01
NOISE_PER_DEVIATION = 0.02
# The best rate of the default model of many clouds, and of those that are compared with it, see `benchmarks.families`.
VAE_LEARNING_RATE = 8e-3
# What the conditioners of a flow take.
CONDITIONINGS = ("film", "bias", "concat_squash")
