"""Training: one call fits a density to points, or a model to clouds."""

from pyro_pcflow.training.fitting import FitResult, fit
from pyro_pcflow.training.guard import TrainingDivergedError

__all__ = ["FitResult", "TrainingDivergedError", "fit"]
