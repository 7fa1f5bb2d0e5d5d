"""`--custom FILE.py:CLASS`: classes of the user's own that a model is made of."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from inspect import isclass
from pathlib import Path
from types import ModuleType

__all__ = ["add_custom", "load_custom"]


def add_custom(parser: argparse._ActionsContainer) -> None:
    """Add the option, whose values `load_custom` takes."""
    parser.add_argument(
        "--custom",
        action="append",
        default=[],
        metavar="FILE.py:CLASS",
        help="run this file of yours and let the model use its class CLASS; may be repeated",
    )


def load_custom(specs: Sequence[str]) -> dict[str, type]:
    """The classes that the user names, by their names; running their files is what the user asks for.

    Raises:
        ValueError: another form, no such class, or two of one name.
        OSError: no such file.
        RuntimeError: the file could not be run, from its own exception.
    """
    modules: dict[Path, ModuleType] = {}
    classes: dict[str, type] = {}
    for spec in specs:
        file, _, name = spec.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ValueError(f"--custom: expected FILE.py:CLASS, got {spec!r}")
        path = Path(file).expanduser().resolve()
        module = modules.get(path) or modules.setdefault(path, _run(path))
        if not isclass(vars(module).get(name)):
            own = [key for key, value in vars(module).items() if isclass(value) and value.__module__ == str(path)]
            raise ValueError(f"--custom: {file} defines no class {name}; it has {', '.join(own) or 'none'}")
        if name in classes:
            raise ValueError(f"--custom: two classes are called {name}, by which a model file would know both")
        classes[name] = vars(module)[name]
    return classes


def _run(path: Path) -> ModuleType:
    """Run a file as a module, with its path as its name, which no other module has."""
    if not path.is_file():
        raise FileNotFoundError(f"--custom: {path}: no such file")
    spec = importlib.util.spec_from_file_location(str(path), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for the module that they are defined in.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RuntimeError(f"--custom: {path} could not be run") from error
    return module
