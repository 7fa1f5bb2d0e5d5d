"""Distributions: flows over points, sets of points as one event, and observation models of a sensor."""

from pyro_pcflow.distributions.flow import PointCloudFlow
from pyro_pcflow.distributions.flow_mixture import MixtureOfFlows
from pyro_pcflow.distributions.mixture import PointMixture, with_background
from pyro_pcflow.distributions.point_cloud import PointCloud
from pyro_pcflow.distributions.sensor_noise import NoisyPoint, with_noise
from pyro_pcflow.distributions.thinning import NothingRecordedError, SoftHalfSpace, ThinnedPoint, one_sided
from pyro_pcflow.distributions.uniform_rotation import UniformRotation

__all__ = [
    "MixtureOfFlows",
    "NoisyPoint",
    "NothingRecordedError",
    "PointCloud",
    "PointCloudFlow",
    "PointMixture",
    "SoftHalfSpace",
    "ThinnedPoint",
    "UniformRotation",
    "one_sided",
    "with_background",
    "with_noise",
]
