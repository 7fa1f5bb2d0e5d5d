"""A module as one file of weights and configuration, without pickled code."""

from __future__ import annotations

import importlib
import io
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pyro_pcflow._version import __version__
from pyro_pcflow.ops.files import atomic_file
from pyro_pcflow.ops.reading import phrase, printable, shortened
from pyro_pcflow.ops.tensor_files import load_tensors, read_tensors, write_tensors

__all__ = ["is_known", "load", "plain", "save"]

FORMAT = "pyro-pcflow"
VERSION = 1
# A file names its class; nothing but these names is ever looked up.
CLASSES = {
    "AutoDecoder": "pyro_pcflow.models",
    "MixtureOfFlows": "pyro_pcflow.distributions",
    "PointCloudFlow": "pyro_pcflow.distributions",
    "PointCloudVAE": "pyro_pcflow.models",
}
KIND = "a file of pcf.save"
# Where a configuration's numbers exceed every size among its weights, this is still built soon.
LARGE_NUMBER = 2**20
# Of an option in an error.
MOST_CHARACTERS = 80
# What a module says of its own use, which is no part of what it computes; states are compared as such.
OWN_AFFAIRS = {"training", "backend", "recompute", "hidden_dtype", "initialized", "fitted"}


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's configuration and weights into one file, which replaces `path` when it is complete.

    The file holds tensors and plain values only, so `torch.load(path, weights_only=True)` reads it. What was written is
    read and compared before it takes the place of `path`: what `load` would not bring back is refused.

    Kept are weights, units and other state, their data type, which parameters are frozen, and the mode (`train` or
    `eval`). Left out are gradients, the device, the backend, and attributes of your own.

    Args:
        module: a module of this library, such as a `PointCloudFlow`, made of the parts that its options describe.
        path: the file; its folder must exist.

    Raises:
        ValueError: if the module is of another class, mixes floating-point types, or was changed so that its options
            no longer describe it: another layer, hooks, other sizes.
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
    name = type(module).__name__
    otherwise = "torch.save(module.state_dict(), path) keeps its weights"
    if not is_known(module):
        raise ValueError(f"cannot save a {name}: expected one of {', '.join(CLASSES)}; {otherwise}")
    state = module.state_dict()
    dtypes = _floating_types(state.values())
    if len(dtypes) > 1:
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"cannot save a module that mixes {names}: convert it first, as in module.double()")
    plain(state, "state_dict")
    config = plain(module.config, "config")
    fault = _difference(module, name, config)
    if fault is not None:
        raise ValueError(f"cannot save this {name}, which pcf.load could not bring back: {fault}; {otherwise}")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "library": __version__,
        "class": name,
        "config": config,
        # As it is: a state_dict carries the versions of its layers as an attribute.
        "state_dict": state,
        "frozen": [key for key, parameter in module.named_parameters() if not parameter.requires_grad],
        "training": module.training,
    }
    file = io.BytesIO()
    write_tensors(content, file)
    try:
        _rebuild(read_tensors(file))
    except Exception as error:  # whatever a reader would meet
        raise ValueError(
            f"cannot save this {name}, which pcf.load could not bring back: {phrase(error)}; {otherwise}"
        ) from error
    with atomic_file(path) as target:
        target.write(file.getbuffer())


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> nn.Module:
    """Read a module that `save` wrote, with the data type it was saved in.

    Nothing in the file is executed, so a file from a stranger is safe to load: this relies on the `weights_only` mode
    of torch, which has no known flaw from version 2.10 on, and on checks of our own. Before anything is built, the
    configuration must agree with the names and shapes of the weights in the file, and these with its size, so that
    time and memory follow from the size of the file.

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
    content, shown = load_tensors(path, KIND), printable(path)
    if content.get("format") != FORMAT:
        raise ValueError(f"{shown}: a torch file, but not one of pcf.save")
    name, version = content.get("class"), content.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{shown}: damaged: expected a format version, found {shortened(version)}")
    if version > VERSION:
        writer = shortened(content.get("library")).strip("'")
        raise ValueError(
            f"{shown}: written in format {version} by pyro-pcflow {writer}, but this is "
            f"pyro-pcflow {__version__}, which reads formats up to {VERSION}: upgrade it"
        )
    if type(name) is not str or name not in CLASSES:
        raise ValueError(
            f"{shown}: holds a module of unknown class {shortened(name)}; expected one of {', '.join(CLASSES)}"
        )
    try:
        module = _rebuild(content)
    # A damaged configuration reaches into any constructor.
    except Exception as error:
        raise ValueError(
            f"{shown}: damaged: its weights and its configuration make no {name} ({phrase(error)})"
        ) from error
    return module.to(device)


def is_known(module: nn.Module) -> bool:
    """Tell whether the module is of a class that `save` knows."""
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


def _floating_types(values: Iterable[Any]) -> set[torch.dtype]:
    return {value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()}


def _rebuild(content: dict[str, Any]) -> nn.Module:
    """Make the module of a file, once its configuration is known to agree with its weights."""
    name, config, state = content["class"], content["config"], content["state_dict"]
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise ValueError("no configuration, or no weights")
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    dtypes = _floating_types(tensors)
    if len(dtypes) > 1:
        raise ValueError(f"its weights mix {', '.join(sorted(map(str, dtypes)))}")
    _check_numbers(config, max([LARGE_NUMBER, *(tensor.numel() for tensor in tensors)]))
    with _accounted_for(tensors):
        skeleton = _skeleton(name, config)
    difference = _compare_states(state, skeleton.state_dict())
    if difference is not None:
        raise ValueError(difference)
    frozen, training = content.get("frozen", []), content.get("training", True)
    parameters = dict(skeleton.named_parameters())
    if type(training) is not bool or not isinstance(frozen, list) or not all(key in parameters for key in frozen):
        raise ValueError("it freezes parameters that it has not, or has no mode")
    # The first weights are drawn in vain; the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        module = _class_of(name)(**config)
    for dtype in dtypes:
        module = module.to(dtype)
    module.load_state_dict(state)
    for key in frozen:
        module.get_parameter(key).requires_grad_(False)
    return module.train(training)


def _skeleton(name: str, config: dict[str, Any]) -> nn.Module:
    """A module without memory for its weights, which all sizes take equally long to build."""
    with torch.device("meta"):
        return _class_of(name)(**config)


def _check_numbers(config: Any, largest: int) -> None:
    """Refuse whole numbers that none of the weights has as a size, before one is counted to."""
    remaining = [config]
    while remaining:
        value = remaining.pop()
        if isinstance(value, dict):
            remaining.extend(value.values())
        elif isinstance(value, list | tuple):
            remaining.extend(value)
        elif type(value) is int and abs(value) > largest:
            raise ValueError(f"its configuration has the number {shortened(value)}, but its weights have no such size")


@contextmanager
def _accounted_for(tensors: list[Tensor]) -> Iterator[None]:
    """Stop building a module at its first parameter that a file has no tensor for."""
    remaining = Counter(tuple(tensor.shape) for tensor in tensors)
    thread = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() != thread:
            return
        shape = tuple(parameter.shape)
        if remaining[shape] == 0:
            raise ValueError(f"its configuration has more parameters of shape {shape} than its weights")
        remaining[shape] -= 1

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _compare_states(state: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """Say in which entry a state differs from that of a new module in more than its numbers."""
    for key in [*expected, *(key for key in state if key not in expected)]:
        if key not in state or key not in expected:
            return f"the weights have {'no' if key in expected else 'an unexpected'} entry {shortened(key)}"
        value, new = state[key], expected[key]
        if not isinstance(new, Tensor):
            if type(value) is not type(new) or {k: type(v) for k, v in value.items()} != {
                k: type(v) for k, v in new.items()
            }:
                return f"the entry {key!r} is {shortened(value)} of another form"
        elif not isinstance(value, Tensor):
            return f"the entry {key!r} is {shortened(value)} and no tensor"
        elif value.shape != new.shape:
            return f"{key!r} has the shape {tuple(value.shape)}, where the configuration makes {tuple(new.shape)}"
        elif value.is_floating_point() != new.is_floating_point() or (
            not new.is_floating_point() and value.dtype != new.dtype
        ):
            return f"{key!r} is of {value.dtype}, where the configuration makes {new.dtype}"
    return None


def _difference(module: nn.Module, name: str, config: dict[str, Any]) -> str | None:
    """Say what of a module a new one of its configuration would not have; None if they are alike."""
    try:
        new = _skeleton(name, config)
    except Exception as error:  # a configuration that was edited reaches into any constructor
        return f"its config makes no {name} ({phrase(error)})"
    parts, new_parts = dict(module.named_modules()), dict(new.named_modules())
    for key in [*new_parts, *(key for key in parts if key not in new_parts)]:
        where = f"its part {key!r}" if key else "it"
        if key not in parts or key not in new_parts:
            return f"{where} is {'missing' if key in new_parts else 'not described by its config'}"
        difference = _difference_of_parts(parts[key], new_parts[key])
        if difference is not None:
            return f"{where} {difference}"
    for kind in ("parameters", "buffers"):
        names = [sorted(key for key, _ in getattr(one, f"named_{kind}")()) for one in (module, new)]
        if names[0] != names[1]:
            changed = sorted({*names[0]} ^ {*names[1]})
            return f"its {kind} are others than its config describes: {', '.join(changed[:3])}"
    return _compare_states(module.state_dict(), new.state_dict())


def _difference_of_parts(part: nn.Module, new: nn.Module) -> str | None:
    if type(part) is not type(new):
        return f"is a {type(part).__name__}, where its config makes a {type(new).__name__}"
    # Those that may change what the module computes, or what its state holds.
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._state_dict_hooks, part._load_state_dict_pre_hooks)
    if any(len(own) for own in hooks):
        return "has a hook, which no file keeps: remove it by its handle"
    for key, value in vars(part).items():
        if key.startswith("_") or key in OWN_AFFAIRS:
            continue
        if key not in vars(new):
            if callable(value) and hasattr(type(part), key):
                return f"has a method {key} of its own"
            continue
        try:
            found, expected = plain(value, key), plain(vars(new)[key], key)
        except TypeError:
            return f"has {key}, {shortened(value)}, which no file keeps"
        if type(found) is not type(expected) or found != expected:
            shown = [repr(value)[:MOST_CHARACTERS] for value in (found, expected)]
            return f"has {key}={shown[0]}, where its config makes {shown[1]}"
    return None
