"""Distributions: a flow over points, and a set of points as one event."""

from pyro_pcflow.distributions.point_cloud import PointCloud
from pyro_pcflow.distributions.point_cloud_flow import PointCloudFlow

__all__ = ["PointCloud", "PointCloudFlow"]
