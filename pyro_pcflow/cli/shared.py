"""Shared by several commands: options and their values, splits, and output."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "ALL",
    "add_sensor",
    "assignments",
    "check_new_file",
    "check_parent",
    "choose_split",
    "given",
    "note",
    "number",
    "say",
    "whole",
]

# The word that asks for the clouds of every split.
ALL = "all"


def given(value: Any, default: Any) -> Any:
    """A value, or the default where it was not given."""
    return default if value is None else value


def whole(low: int) -> Callable[[str], int]:
    """A type for options: a whole number, at least `low`, that 64 bits hold."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value < 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number, at least {low}, got {text!r}")
        return value

    return parse


def number(expected: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """A type for options: a finite number for which something holds, in words and as a function."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and holds(value)):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


def add_sensor(parser: argparse.ArgumentParser) -> None:
    """Add the options of a sensor that sees one side of an object."""
    real = number("a number", lambda _: True)
    parser.add_argument(
        "--direction",
        type=real,
        nargs="+",
        metavar="X",
        help="towards a sensor that sees one side of the object only, in the scan's coordinates (it sees all of it)",
    )
    parser.add_argument("--offset", type=real, help="how far along --direction the visible side begins (0)")
    parser.add_argument(
        "--softness", type=number("a positive number", lambda value: value > 0), help="width of that edge (0.05)"
    )


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """Options given as `NAME=VALUE`, nested at each dot of a name.

    A value is written as in Python, where a word needs no quotes.

    Raises:
        ValueError: a word without a name or a value, or a name given twice.

    Examples:
        >>> assignments(["latent_dim=32", "decoder.masks=halves", "decoder.hidden_dims=[64, 64]"])
        {'latent_dim': 32, 'decoder': {'masks': 'halves', 'hidden_dims': [64, 64]}}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        *path, last = name.split(".")
        if not equals or not text or not all([*path, last]):
            raise ValueError(f"expected NAME=VALUE, as in latent_dim=32 or decoder.masks=halves, got {word!r}")
        table = found
        for key in path:
            table = table.setdefault(key, {})
            if type(table) is not dict:
                raise ValueError(f"{key} of {name} is given as a value, too")
        if last in table:
            raise ValueError(f"{name} is given twice")
        table[last] = _value(text)
    return found


def _value(text: str) -> Any:
    import ast

    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # a word, or nonsense
        return text


def say(text: str) -> None:
    """Print on standard output."""
    print(_shown(text, sys.stdout.encoding))


def note(text: str) -> None:
    """Print one line on standard error."""
    line = "; ".join(part.strip() for part in text.splitlines() if part.strip())
    print(f"pcflow: {_shown(line, sys.stderr.encoding)}", file=sys.stderr)


def _shown(text: str, encoding: str | None) -> str:
    """A text with escapes for what an encoding lacks."""
    from pyro_pcflow.ops.reading import printable

    return printable(text).encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def choose_split(path: str, asked: str | None, default: str | None) -> str | None:
    """The split to take of a path, where several are never mixed unless that was asked for.

    Args:
        path: of data.
        asked: the option `--split`: the name of a split, `all`, or None.
        default: the split that is taken, and told of, if none was asked for and there are several; None for none.

    Returns:
        The split for `load_clouds`, or None for everything.

    Raises:
        ValueError: several splits, none asked for, and no default among them.
        OSError: nothing to read there.
    """
    if asked is not None:
        return None if asked == ALL else asked
    from pyro_pcflow.data.reading import find_splits

    splits = find_splits(path)
    if len(splits) < 2:
        return None
    there = f"{', '.join(splits[:-1])} and {splits[-1]}"
    if default not in splits:
        raise ValueError(f"{path} holds the splits {there}: name one with --split, or take them together with {ALL}")
    note(f"{path} holds the splits {there}: taking {default} alone; --split names another, or {ALL}")
    return default


def check_new_file(path: Path, suffixes: Sequence[str]) -> None:
    """See that a new file may be written, before the work for it is done.

    Raises:
        ValueError: a name that ends in none of the suffixes.
        FileExistsError: it is there already.
        OSError: no file can be made there.
    """
    from pyro_pcflow.ops.files import check_new

    if path.suffix not in suffixes:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
    check_new(path)
    check_parent(path)


def check_parent(path: Path) -> None:
    """See that something new can be made at a path, in folders that are there or can be made.

    Raises:
        OSError: a file where a folder should be, or one that may not be written to.
    """
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir():
        raise NotADirectoryError(f"{path} can't be made: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} can't be made: {folder} may not be written to")
