"""What one infers with a flow inside a model: poses, completions, clouds of random size, weights with priors."""

from pyro_pcflow.infer.bayesian_weights import BayesianWeights, scaled_normal, with_weights
from pyro_pcflow.infer.completion import Completion, complete
from pyro_pcflow.infer.point_process import sample_process
from pyro_pcflow.infer.pose import UniformTurn, sample_pose

__all__ = [
    "BayesianWeights",
    "Completion",
    "UniformTurn",
    "complete",
    "sample_pose",
    "sample_process",
    "scaled_normal",
    "with_weights",
]
