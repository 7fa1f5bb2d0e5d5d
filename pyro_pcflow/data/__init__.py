"""Clouds from files: meshes, tables, arrays, folders, and a few embedded examples."""

from pyro_pcflow.data.converting import convert_clouds
from pyro_pcflow.data.errors import CloudError
from pyro_pcflow.data.examples import example_path, load_example
from pyro_pcflow.data.loading import load_clouds
from pyro_pcflow.data.mapped import MappedClouds
from pyro_pcflow.data.sampling import half_extent
from pyro_pcflow.data.saving import save_clouds

__all__ = [
    "CloudError",
    "MappedClouds",
    "convert_clouds",
    "example_path",
    "half_extent",
    "load_clouds",
    "load_example",
    "save_clouds",
]
