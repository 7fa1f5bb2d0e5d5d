"""Training: one call fits a density to points, or a model to clouds."""

from pyro_pcflow.training.divergence import TrainingDivergedError
from pyro_pcflow.training.fit import FitResult, fit

__all__ = ["FitResult", "TrainingDivergedError", "fit"]
