"""Clouds from files: meshes, tables, arrays, folders, and a few embedded examples."""

from .clouds import load_clouds
from .converting import convert_clouds
from .errors import CloudError
from .examples import example_path, load_example
from .mapped import MappedClouds
from .saving import half_side, save_clouds

__all__ = [
    "CloudError",
    "MappedClouds",
    "convert_clouds",
    "example_path",
    "half_side",
    "load_clouds",
    "load_example",
    "save_clouds",
]
