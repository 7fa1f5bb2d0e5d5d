"""What tells one function of the user from another of the same name: its code and what it holds."""

from __future__ import annotations

import functools
import json
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_pcflow.ops.hashing import array_sha256, sha256_of

__all__ = ["code_identity", "qualified_name"]


def qualified_name(function: Any) -> str:
    """`module.name` of a function, of the function inside a partial, or of the class of any other object."""
    if isinstance(function, functools.partial):
        # A partial is another function than the one inside, and needs a name of its own.
        return f"{qualified_name(function.func)}, partial"
    named = function if isinstance(function, (FunctionType, BuiltinFunctionType, MethodType, type)) else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def code_identity(function: Any) -> str | None:
    """A hash of a function's bytecode, defaults and captured values, or None where one of them has no plain content.

    Numbers, words, lists, mappings, tensors, arrays, functions, partials and modules (by class and state) have one.
    What the code reads from global variables, and the code of functions that it calls by name, is not part of it.
    Bytecode depends on the version of Python.

    Examples:
        >>> def scaled(factor):
        ...     return lambda x, y: factor * x
        >>> code_identity(scaled(2.0)) == code_identity(scaled(2.0))
        True
        >>> code_identity(scaled(2.0)) == code_identity(scaled(3.0))
        False
    """
    try:
        text = json.dumps(_content(function, ()))
    except _UnknownContentError:
        return None
    return sha256_of(text)[:16]


class _UnknownContentError(TypeError):
    """An object that has no plain content."""


def _content(value: Any, outer: tuple[int, ...]) -> Any:
    """Plain values that are equal for equal content; `outer` holds the ids of what is being described."""
    if id(value) in outer:
        return ["itself", outer.index(id(value))]
    outer = (*outer, id(value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(_content(entry, outer) for entry in value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(json.dumps(_content(entry, outer)) for entry in value)]
    if isinstance(value, dict):
        return ["dict", *([_content(key, outer), _content(entry, outer)] for key, entry in value.items())]
    if isinstance(value, (Tensor, np.ndarray)):
        return ["array", array_sha256(value)]
    if isinstance(value, nn.Module):
        return [qualified_name(value), _content(dict(value.state_dict()), outer)]
    if isinstance(value, CodeType):
        return ["code", value.co_code.hex(), list(value.co_names), _content(value.co_consts, outer)]
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, held)
        return [qualified_name(value), *(_content(part, outer) for part in parts)]
    if isinstance(value, MethodType):
        return ["method", _content(value.__func__, outer), _content(value.__self__, outer)]
    if isinstance(value, functools.partial):
        return ["partial", *(_content(part, outer) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, (type, BuiltinFunctionType)):
        return qualified_name(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, (bytes, complex)) or value is Ellipsis:
        return repr(value)
    raise _UnknownContentError(type(value).__name__)
