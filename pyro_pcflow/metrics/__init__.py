"""Distances between clouds, set metrics and likelihoods made into reports: torch in, torch out, without a compiler."""

from .approximate import approximate_emd
from .chamfer import FScore, chamfer, f_score, hausdorff
from .detection import OutOfDistribution, auroc, gaussian_complexity, out_of_distribution_auroc, outlier_auroc
from .emd import emd
from .entropic import sinkhorn
from .evaluation import evaluate
from .likelihood import LogLikelihood, importance_weighted_bound, log_likelihood
from .matrices import pairwise
from .occupancy import Grid, grid_around, jensen_shannon
from .protocol import Protocol
from .report import Report
from .set_metrics import (
    NullBand,
    OneNearestNeighbour,
    coverage,
    minimum_matching_distance,
    null_band,
    one_nearest_neighbour,
)
from .tables import compare

__all__ = [
    "FScore",
    "Grid",
    "LogLikelihood",
    "NullBand",
    "OneNearestNeighbour",
    "OutOfDistribution",
    "Protocol",
    "Report",
    "approximate_emd",
    "auroc",
    "chamfer",
    "compare",
    "coverage",
    "emd",
    "evaluate",
    "f_score",
    "gaussian_complexity",
    "grid_around",
    "hausdorff",
    "importance_weighted_bound",
    "jensen_shannon",
    "log_likelihood",
    "minimum_matching_distance",
    "null_band",
    "one_nearest_neighbour",
    "out_of_distribution_auroc",
    "outlier_auroc",
    "pairwise",
    "sinkhorn",
]
