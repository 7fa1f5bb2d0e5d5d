"""Optional libraries, imported where a file needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["require"]


def require(module: str, extra: str, what: str) -> Any:
    """Import a library that only some formats need.

    Args:
        module: its name, as in an import statement.
        extra: the extra of this package that installs it.
        what: what it is needed for, as in "LAS and LAZ files are".

    Returns:
        The module.

    Raises:
        ValueError: it is not installed, or does not work here.

    Examples:
        >>> require("a_missing_module", "las", "LAS and LAZ files are")
        Traceback (most recent call last):
        ValueError: LAS and LAZ files are read by a_missing_module: pip install "pyro-pcflow[las]"
    """
    try:
        return import_module(module)
    except ImportError as error:
        # A library that is there and doesn't start says why; one that is missing needs only the line that installs it.
        name = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name in (name, module)
        reason = "" if missing else f" (it is there, but: {error})"
        raise ValueError(f'{what} read by {name}: pip install "pyro-pcflow[{extra}]"{reason}') from error
