"""Objects as plain values, and back: which classes a file may name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyro_pcflow.ops.reading import shortened

__all__ = ["MODELS", "Classes", "Configured", "UnknownClassError", "plain"]

# A file names its classes; of this library, nothing but these names is ever looked up.
MODELS = {
    "AutoDecoder": "pyro_pcflow.models",
    "MixtureOfFlows": "pyro_pcflow.distributions",
    "PointCloudFlow": "pyro_pcflow.distributions",
    "PointCloudVAE": "pyro_pcflow.models",
}
# What is saved with a model of its own, which commands take from it.
POSTERIORS = {"Completer": "pyro_pcflow.infer"}
PARTS = {
    "ActNorm": "pyro_pcflow.transforms",
    "Additive": "pyro_pcflow.transforms",
    "Affine": "pyro_pcflow.transforms",
    "CloudEncoder": "pyro_pcflow.nn",
    "ConditionalCouplingStack": "pyro_pcflow.transforms",
    "ConditionalPointCoupling": "pyro_pcflow.transforms",
    "Conditioner": "pyro_pcflow.nn",
    "CouplingStack": "pyro_pcflow.transforms",
    "CubicRational": "pyro_pcflow.transforms",
    "LULinear": "pyro_pcflow.transforms",
    "PointCoupling": "pyro_pcflow.transforms",
    "RationalQuadraticSpline": "pyro_pcflow.transforms",
    "SeparateConditioners": "pyro_pcflow.nn",
    "Standardize": "pyro_pcflow.transforms",
}
OURS = {**MODELS, **POSTERIORS, **PARTS}
# The keys of an object among plain values.
DESCRIBED = {"class", "config"}


@runtime_checkable
class Configured(Protocol):
    """What can be made again from its configuration."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The keyword arguments of the constructor: plain values, and objects that have a `config` themselves."""


class UnknownClassError(ValueError):
    """A file names a class that is neither ours nor was given."""


class Classes:
    """The classes that may be made: those of this library, and those that the caller gives.

    Args:
        custom: classes of the caller's own.

    Raises:
        TypeError: if one is no class.
        ValueError: if two have one name, or one has that of a class of this library.
    """

    def __init__(self, custom: Iterable[type] = ()) -> None:
        self._custom: dict[str, type] = {}
        for cls in custom:
            self.add(cls)

    def add(self, cls: type) -> None:
        """Register a class."""
        if not isinstance(cls, type):
            raise TypeError(f"expected classes, as in custom=[MyClass], got {shortened(cls)}")
        name = cls.__name__
        if name in OURS:
            if cls is not self.find(name):
                raise ValueError(f"{cls!r} has the name of a class of this library: rename it")
        elif self._custom.setdefault(name, cls) is not cls:
            raise ValueError(f"two classes have the name {name}: rename one")

    def find(self, name: Any) -> type:
        """The class of a name.

        Raises:
            UnknownClassError: if there is none.
        """
        if isinstance(name, str) and name in OURS:
            return getattr(importlib.import_module(OURS[name]), name)
        if isinstance(name, str) and name in self._custom:
            return self._custom[name]
        raise UnknownClassError(
            f"holds an object of the class {shortened(name)}, which this library does not have: if it is one of "
            "yours, give the class: pcf.load(path, custom=[MyClass]), or on the command line --custom FILE.py:MyClass"
        )

    def make(self, name: Any, config: Any, most: int) -> Any:
        """The object of a class and its configuration, and first those that the configuration describes.

        Args:
            name: of the class.
            config: nested lists and dicts of plain values, as `plain` makes them.
            most: the largest number of objects.
        """
        remaining = most

        def made(value: Any) -> Any:
            nonlocal remaining
            if isinstance(value, list | tuple):
                return [made(item) for item in value]
            if not isinstance(value, dict):
                return value
            if value.keys() != DESCRIBED:
                return {key: made(item) for key, item in value.items()}
            remaining -= 1
            if remaining < 0:
                raise ValueError(f"its configuration describes more than {most} objects, too many for its weights")
            if not isinstance(value["config"], dict):
                raise ValueError(f"the configuration of an object is {shortened(value['config'])}")
            return self.find(value["class"])(**made(value["config"]))

        return made({"class": name, "config": config})


def plain(value: Any, where: str, classes: Classes | None = None) -> Any:
    """Copy nested lists and dicts, with NumPy scalars as Python's own, tuples as lists, and objects as plain values.

    Args:
        value: what is to be written; tensors are passed through, and an object that has a `config` becomes
            `{"class": name, "config": {...}}`.
        where: its name in an error.
        classes: learns the classes of these objects.

    Raises:
        TypeError: if something in it would need pickled code to be read again.

    Examples:
        >>> plain({"widths": (64, np.int64(32))}, "config")
        {'widths': [64, 32]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if (
        value is None
        or type(value) in (bool, int, float, str)
        or isinstance(value, Tensor | torch.dtype | torch.device)
    ):
        return value
    if isinstance(value, Mapping):
        return {plain(key, f"{where}: a key"): plain(item, f"{where}[{key!r}]", classes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]", classes) for index, item in enumerate(value)]
    if isinstance(value, Configured) and not isinstance(value, type):
        if classes is not None:
            classes.add(type(value))
        return {"class": type(value).__name__, "config": plain(value.config, f"{where}.config", classes)}
    raise TypeError(
        f"{where} is a {type(value).__name__}, but only tensors, plain values and objects with a `config`, the keyword "
        "arguments that make them again, can be saved"
    )
