"""A module as one file of weights and configuration, without pickled code."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pyro_pcflow
from pyro_pcflow.ops.files import atomic_file

__all__ = ["can_save", "load", "plain", "save"]

FORMAT = "pyro-pcflow"
VERSION = 1
# A file names its class; nothing but these names is ever looked up.
CLASSES = {
    "AutoDecoder": "pyro_pcflow.models",
    "MixtureOfFlows": "pyro_pcflow.distributions",
    "PointCloudFlow": "pyro_pcflow.distributions",
    "PointCloudVAE": "pyro_pcflow.models",
}


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's configuration and weights into one file, which replaces `path` when it is complete.

    The file holds tensors and plain values only, so `torch.load(path, weights_only=True)` reads it.

    Args:
        module: a module of this library, such as a `PointCloudFlow`.
        path: the file; its folder must exist.

    Raises:
        ValueError: if the module is of another class, or mixes floating-point types.
        TypeError: if its configuration or state holds more than tensors and plain values.

    Examples:
        >>> import tempfile
        >>> import pyro_pcflow as pcf
        >>> flow = pcf.PointCloudFlow(point_dim=3, num_couplings=2, hidden_dims=[8]).double()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pcf.save(flow, f"{folder}/flow.pt")
        ...     again = pcf.load(f"{folder}/flow.pt")
        >>> points = torch.randn(5, 3, dtype=torch.float64)
        >>> bool((again.log_prob(points) == flow.log_prob(points)).all())
        True
    """
    if not can_save(module):
        raise ValueError(
            f"cannot save a {type(module).__name__}: expected one of {', '.join(CLASSES)}; for any other module, "
            "use torch.save(module.state_dict(), path)"
        )
    state = module.state_dict()
    dtypes = {value.dtype for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()}
    if len(dtypes) > 1:
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"cannot save a module that mixes {names}: convert it first, as in module.double()")
    plain(state, "state_dict")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "library": pyro_pcflow.__version__,
        "class": type(module).__name__,
        "config": plain(module.config, "config"),
        # As it is: a state_dict carries the versions of its layers as an attribute.
        "state_dict": state,
    }
    with atomic_file(path) as file:
        torch.save(content, file)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """Read a module that `save` wrote, with the data type it was saved in.

    Nothing in the file is executed, so a file from a stranger is safe to load.

    Args:
        path: the file.
        device: where the module shall live.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, not one of ours, newer than this library, or of an unknown class.

    Examples:
        >>> import tempfile, pyro_pcflow as pcf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pcf.save(pcf.PointCloudFlow(point_dim=2), f"{folder}/flow.pt")
        ...     load(f"{folder}/flow.pt").point_dim
        2
    """
    path = Path(path)
    content = _read(path)
    name, version = content.get("class"), content.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: damaged: expected a format version, found {version!r}")
    if version > VERSION:
        raise ValueError(
            f"{path}: written in format {version} by pyro-pcflow {content.get('library')}, but this is pyro-pcflow "
            f"{pyro_pcflow.__version__}, which reads formats up to {VERSION}: upgrade it"
        )
    if name not in CLASSES:
        raise ValueError(f"{path}: holds a module of unknown class {name!r}; expected one of {', '.join(CLASSES)}")
    try:
        module = _rebuild(name, content["config"], content["state_dict"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged: its weights and its configuration make no {name} ({error})") from error
    return module.to(device)


def can_save(module: nn.Module) -> bool:
    """Tell whether `save` knows the module's class."""
    name = type(module).__name__
    return name in CLASSES and type(module) is _class_of(name)


def plain(value: Any, where: str) -> Any:
    """Copy nested lists and dicts, with NumPy scalars as Python's own and tuples as lists.

    Args:
        value: what is to be written; tensors are passed through.
        where: its name in an error.

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
        return {plain(key, f"{where}: a key"): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, but only tensors and plain values can be saved")


def _class_of(name: str) -> type[nn.Module]:
    return getattr(importlib.import_module(CLASSES[name]), name)


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        # What torch raises on arbitrary bytes is an open list.
        except Exception as error:
            raise ValueError(f"{path}: not a file of pcf.save, or damaged ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: a torch file, but not one of pcf.save")
    return content


def _rebuild(name: str, config: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    # The first weights are drawn in vain; the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        module = _class_of(name)(**config)
    for value in state.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            module = module.to(value.dtype)
            break
    module.load_state_dict(state)
    return module
