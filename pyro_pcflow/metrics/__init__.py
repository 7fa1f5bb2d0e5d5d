"""Distances between clouds, metrics between sets of clouds, held-out likelihood, and reports of them."""

from pyro_pcflow.metrics.comparison import compare
from pyro_pcflow.metrics.distances import Distance
from pyro_pcflow.metrics.evaluation import DataDescription, evaluate
from pyro_pcflow.metrics.likelihood import LogLikelihood, importance_weighted_bound, log_likelihood
from pyro_pcflow.metrics.matching import approximate_emd, emd
from pyro_pcflow.metrics.matrices import pairwise
from pyro_pcflow.metrics.nearest_neighbours import FScore, chamfer, f_score, hausdorff
from pyro_pcflow.metrics.occupancy import Grid, grid_around, jensen_shannon
from pyro_pcflow.metrics.outliers import (
    OutOfDistribution,
    auroc,
    gaussian_complexity,
    out_of_distribution_auroc,
    outlier_auroc,
)
from pyro_pcflow.metrics.protocol import Protocol
from pyro_pcflow.metrics.report import Report
from pyro_pcflow.metrics.set_metrics import coverage, minimum_matching_distance, spread
from pyro_pcflow.metrics.tables import Table
from pyro_pcflow.metrics.transport import sinkhorn
from pyro_pcflow.metrics.two_sample import (
    OneNearestNeighbour,
    PermutationInterval,
    one_nearest_neighbour,
    permutation_interval,
)

__all__ = [
    "DataDescription",
    "Distance",
    "FScore",
    "Grid",
    "LogLikelihood",
    "OneNearestNeighbour",
    "OutOfDistribution",
    "PermutationInterval",
    "Protocol",
    "Report",
    "Table",
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
    "one_nearest_neighbour",
    "out_of_distribution_auroc",
    "outlier_auroc",
    "pairwise",
    "permutation_interval",
    "sinkhorn",
    "spread",
]
