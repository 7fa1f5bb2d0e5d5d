"""Clouds and scans from files: meshes, tables, arrays, folders, and a few embedded examples."""

from pyro_pcflow.data.converting import convert_clouds
from pyro_pcflow.data.errors import CloudError
from pyro_pcflow.data.examples import example_path, load_example
from pyro_pcflow.data.loading import load_clouds
from pyro_pcflow.data.mapped import MappedClouds
from pyro_pcflow.data.readers.depth import depth_to_points
from pyro_pcflow.data.readers.ros import from_pointcloud2
from pyro_pcflow.data.sampling import half_extent
from pyro_pcflow.data.saving import save_clouds, save_scan
from pyro_pcflow.data.scans import Scan, load_scans
from pyro_pcflow.data.shapes import PointTable
from pyro_pcflow.data.strays import find_strays

__all__ = [
    "CloudError",
    "MappedClouds",
    "PointTable",
    "Scan",
    "convert_clouds",
    "depth_to_points",
    "example_path",
    "find_strays",
    "from_pointcloud2",
    "half_extent",
    "load_clouds",
    "load_example",
    "load_scans",
    "save_clouds",
    "save_scan",
]
