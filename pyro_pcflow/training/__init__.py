"""Training: one call fits a density to points, or a model to clouds."""

from pyro_pcflow.training.augmentation import Mirror, RotateSlightly, ScaleAxes, Shift
from pyro_pcflow.training.callbacks import Callback, Progress
from pyro_pcflow.training.density import ExactLikelihood
from pyro_pcflow.training.divergence import TrainingDivergedError, find_first_nonfinite
from pyro_pcflow.training.fit import FitResult, fit
from pyro_pcflow.training.objective import Objective
from pyro_pcflow.training.options import CloudSampling, Logging, Optimization
from pyro_pcflow.training.pictures import Pictures
from pyro_pcflow.training.point_batches import PointBatch
from pyro_pcflow.training.variational import EvidenceLowerBound

__all__ = [
    "Callback",
    "CloudSampling",
    "EvidenceLowerBound",
    "ExactLikelihood",
    "FitResult",
    "Logging",
    "Mirror",
    "Objective",
    "Optimization",
    "Pictures",
    "PointBatch",
    "Progress",
    "RotateSlightly",
    "ScaleAxes",
    "Shift",
    "TrainingDivergedError",
    "find_first_nonfinite",
    "fit",
]
