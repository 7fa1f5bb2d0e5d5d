"""A module as one file of weights and configuration, without pickled code."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pyro_pcflow._version import __version__
from pyro_pcflow.ops.files import atomic_file
from pyro_pcflow.ops.reading import phrase, printable, shortened
from pyro_pcflow.ops.tensor_files import load_tensors, read_tensors, write_tensors
from pyro_pcflow.serialization.classes import Classes, Configured, UnknownClassError, plain
from pyro_pcflow.serialization.differences import difference, difference_of_states, skeleton
from pyro_pcflow.serialization.older import current_options, current_state

__all__ = ["has_config", "load", "save"]

FORMAT = "pyro-pcflow"
# 1: before options of transforms had the names of today; 2: before posteriors were corrected; 3: before priors had
# bounded units; 4: before Gaussians that a context writes had bounded widths; 5: before units had an origin.
VERSION = 6
KIND = "a file of pcf.save"
# Where a configuration's numbers exceed every size among its weights, this is still built soon.
LARGE_NUMBER = 2**20


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a module's configuration and weights into one file, which replaces `path` when it is complete.

    The file holds tensors and plain values only, so `torch.load(path, weights_only=True)` reads it. What was written is
    read and compared before it takes the place of `path`: what `load` would not bring back is refused.

    Kept are weights, units and other state, their data type, which parameters are frozen, and the mode (`train` or
    `eval`). Left out are gradients, the device, the backend, and attributes of your own.

    Args:
        module: a module of this library, such as a `PointCloudFlow`, or one of your own that has a `config`: the
            keyword arguments that make it again, plain values and objects with a `config` themselves.
        path: the file; its folder must exist.

    Raises:
        ValueError: if the module has no `config`, mixes floating-point types, or was changed so that its config no
            longer describes it: another layer, hooks, other sizes.
        TypeError: if its configuration or state holds more than tensors, plain values and objects with a `config`.

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
    if not isinstance(module, Configured):
        raise ValueError(
            f"cannot save a {name}: it has no config, the keyword arguments that make it again; {otherwise}"
        )
    state = module.state_dict()
    dtypes = _floating_types(state.values())
    if len(dtypes) > 1:
        names = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"cannot save a module that mixes {names}: convert it first, as in module.double()")
    plain(state, "state_dict")
    classes = Classes()
    try:
        classes.add(type(module))
    except ValueError as error:
        raise ValueError(f"cannot save a {name}: {error}; {otherwise}") from error
    config = plain(module.config, "config", classes)
    fault = difference(module, name, config, classes, _most_objects(len(state)))
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
        _rebuild(read_tensors(file), classes)
    except Exception as error:  # whatever a reader would meet
        raise ValueError(
            f"cannot save this {name}, which pcf.load could not bring back: {phrase(error)}; {otherwise}"
        ) from error
    with atomic_file(path) as target:
        target.write(file.getbuffer())


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu", *, custom: Iterable[type] = ()) -> nn.Module:
    """Read a module that `save` wrote, with the data type it was saved in.

    Nothing in the file is executed and no name in it is imported, so a file from an untrusted source is safe to load:
    this relies on the `weights_only` mode of torch, without a known flaw since version 2.10, and on checks of our own.
    Before anything is built, the configuration must agree with the names and shapes of the weights in the file, and
    these with its size, so that time and memory follow from the size of the file.

    Args:
        path: the file.
        device: where the module is to live.
        custom: classes of your own that the file may name, such as an `Elementwise`; each is made by the keyword
            arguments that its `config` had.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, not one of ours, newer than this library, or names a class that is neither
            of this library nor among `custom`.
        TypeError: if `custom` holds something else than classes.

    Examples:
        >>> import tempfile, pyro_pcflow as pcf
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pcf.save(pcf.PointCloudFlow(point_dim=2), f"{folder}/flow.pt")
        ...     load(f"{folder}/flow.pt").point_dim
        2
    """
    classes = Classes(custom)
    content, shown = load_tensors(path, KIND), printable(path)
    if content.get("format") != FORMAT:
        raise ValueError(f"{shown}: a torch file, but not one of pcf.save")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{shown}: damaged: expected a format version, found {shortened(version)}")
    if version > VERSION:
        writer = shortened(content.get("library")).strip("'")
        raise ValueError(
            f"{shown}: written in format {version} by pyro-pcflow {writer}, but this is "
            f"pyro-pcflow {__version__}, which reads formats up to {VERSION}: upgrade it"
        )
    if version < VERSION:
        content["config"] = current_options(content.get("config"))
        content["state_dict"] = current_state(content.get("state_dict"))
    name = content.get("class")
    try:
        classes.find(name)
        module = _rebuild(content, classes)
    except UnknownClassError as error:
        raise ValueError(f"{shown}: {error}") from None
    # A damaged configuration reaches into any constructor.
    except Exception as error:
        raise ValueError(
            f"{shown}: damaged: its weights and its configuration make no {name} ({phrase(error)})"
        ) from error
    return module.to(device)


def has_config(module: nn.Module) -> bool:
    """Tell whether a module says how to make it again, so that `save` may take it."""
    return isinstance(module, Configured)


def _floating_types(values: Iterable[Any]) -> set[torch.dtype]:
    return {value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point()}


def _most_objects(num_tensors: int) -> int:
    """How many objects a configuration may describe: a coupling is three, and has four tensors or more."""
    return 64 + 8 * num_tensors


def _rebuild(content: dict[str, Any], classes: Classes) -> nn.Module:
    """Make the module of a file, once its configuration is known to agree with its weights."""
    name, config, state = content["class"], content["config"], content["state_dict"]
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise ValueError("no configuration, or no weights")
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    dtypes = _floating_types(tensors)
    if len(dtypes) > 1:
        raise ValueError(f"its weights mix {', '.join(sorted(map(str, dtypes)))}")
    _check_numbers(config, max([LARGE_NUMBER, *(tensor.numel() for tensor in tensors)]))
    most = _most_objects(len(state))
    with _accounted_for(tensors):
        expected = skeleton(classes, name, config, most)
    fault = difference_of_states(state, expected.state_dict())
    if fault is not None:
        raise ValueError(fault)
    frozen, training = content.get("frozen", []), content.get("training", True)
    parameters = dict(expected.named_parameters())
    if type(training) is not bool or not isinstance(frozen, list) or not all(key in parameters for key in frozen):
        raise ValueError("it freezes parameters that it has not, or has no mode")
    # The first weights are drawn in vain; the caller's random numbers stay what they were.
    with torch.random.fork_rng(devices=[]):
        module = classes.make(name, config, most)
    for dtype in dtypes:
        module = module.to(dtype)
    module.load_state_dict(state)
    for key in frozen:
        module.get_parameter(key).requires_grad_(False)
    return module.train(training)


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
