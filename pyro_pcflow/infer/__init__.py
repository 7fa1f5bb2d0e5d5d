"""Inference with flows inside Pyro models: pose, completion, clouds of random size, Bayesian weights."""

from pyro_pcflow.infer.bayesian_weights import BayesianWeights, fan_in_normal, functional_copy
from pyro_pcflow.infer.completion import Completion, complete
from pyro_pcflow.infer.point_process import sample_point_process
from pyro_pcflow.infer.pose import sample_pose

__all__ = [
    "BayesianWeights",
    "Completion",
    "complete",
    "fan_in_normal",
    "functional_copy",
    "sample_point_process",
    "sample_pose",
]
