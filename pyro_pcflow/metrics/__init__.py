"""Distances between clouds, set metrics and likelihoods made into reports: torch in, torch out, without a compiler."""

from pyro_pcflow.metrics.approximate import approximate_emd
from pyro_pcflow.metrics.evaluation import evaluate
from pyro_pcflow.metrics.likelihood import LogLikelihood, importance_weighted_bound, log_likelihood
from pyro_pcflow.metrics.matching import emd
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
from pyro_pcflow.metrics.set_metrics import (
    NullBand,
    OneNearestNeighbour,
    coverage,
    minimum_matching_distance,
    null_band,
    one_nearest_neighbour,
    spread,
)
from pyro_pcflow.metrics.tables import compare
from pyro_pcflow.metrics.transport import sinkhorn

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
    "spread",
]
