"""Inference with flows inside Pyro models: completion, pose, calibration, clouds of random size, Bayesian weights."""

from pyro_pcflow.infer.annealing import Evidence, evidence
from pyro_pcflow.infer.bayesian_weights import BayesianWeights, fan_in_normal, functional_copy
from pyro_pcflow.infer.calibration import Calibration, simulation_based_calibration
from pyro_pcflow.infer.chains import Chains, sample_posterior
from pyro_pcflow.infer.checks import CompletionCheck, RegistrationCheck
from pyro_pcflow.infer.completer import Completer
from pyro_pcflow.infer.completion import Completion, complete
from pyro_pcflow.infer.datatree import to_datatree
from pyro_pcflow.infer.noise_space import non_centred
from pyro_pcflow.infer.point_process import sample_point_process
from pyro_pcflow.infer.pose import pose_of, sample_pose
from pyro_pcflow.infer.registration import PoseModes, Registration, register
from pyro_pcflow.infer.sensors import UnknownBackground, UnknownNoise
from pyro_pcflow.infer.tempering import calibrate_temper
from pyro_pcflow.infer.views import Crop, DepthCamera, Hole, OneOf, OneSide, Outliers, Whole

__all__ = [
    "BayesianWeights",
    "Calibration",
    "Chains",
    "Completer",
    "Completion",
    "CompletionCheck",
    "Crop",
    "DepthCamera",
    "Evidence",
    "Hole",
    "OneOf",
    "OneSide",
    "Outliers",
    "PoseModes",
    "Registration",
    "RegistrationCheck",
    "UnknownBackground",
    "UnknownNoise",
    "Whole",
    "calibrate_temper",
    "complete",
    "evidence",
    "fan_in_normal",
    "functional_copy",
    "non_centred",
    "pose_of",
    "register",
    "sample_point_process",
    "sample_pose",
    "sample_posterior",
    "simulation_based_calibration",
    "to_datatree",
]
