"""Normalizing flows over point clouds, as ordinary Pyro distributions.

Names are imported when they are first used: the command line answers before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyro_pcflow._version import __version__ as __version__

if TYPE_CHECKING:
    from pyro_pcflow import (
        data,
        distributions,
        infer,
        kernels,
        metrics,
        models,
        nn,
        plotting,
        testing,
        training,
        transforms,
    )
    from pyro_pcflow.distributions import MixtureOfFlows, PointCloud, PointCloudFlow
    from pyro_pcflow.infer import complete
    from pyro_pcflow.models import PointCloudVAE, load_pretrained
    from pyro_pcflow.serialization import load, save
    from pyro_pcflow.training import fit

__all__ = [
    "MixtureOfFlows",
    "PointCloud",
    "PointCloudFlow",
    "PointCloudVAE",
    "complete",
    "data",
    "distributions",
    "fit",
    "infer",
    "kernels",
    "load",
    "load_pretrained",
    "metrics",
    "models",
    "nn",
    "plotting",
    "save",
    "testing",
    "training",
    "transforms",
]

_HOMES = {
    "MixtureOfFlows": "distributions",
    "PointCloud": "distributions",
    "PointCloudFlow": "distributions",
    "PointCloudVAE": "models",
    "complete": "infer",
    "fit": "training",
    "load": "serialization",
    "load_pretrained": "models",
    "save": "serialization",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
