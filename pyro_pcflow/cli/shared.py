"""Shared by several commands: options and their values, splits, and output."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pyro_pcflow.data.listing import FolderOptions

__all__ = [
    "ALL",
    "SCORE",
    "Result",
    "add_device",
    "add_json",
    "add_seed",
    "add_sensor",
    "assignments",
    "check_exists",
    "check_new_file",
    "check_parent",
    "check_sensor",
    "choose_split",
    "given",
    "model_file",
    "note",
    "number",
    "say",
    "table",
    "tell",
    "whole",
]

# The word that asks for the clouds of every split.
ALL = "all"
# The column that `pcflow score` writes.
SCORE = "log_density"


class Result(NamedTuple):
    """What a command found out: values, and the lines of text that say them.

    Attributes:
        values: by name: numbers, words, paths, and lists and dicts of these.
        lines: finished text.
    """

    values: dict[str, Any]
    lines: Sequence[str]

    @classmethod
    def of(cls, values: dict[str, Any], *templates: str) -> Result:
        """A result whose lines are the values, put into templates.

        Examples:
            >>> Result.of({"nats_per_point": 1.23456, "out": "a.csv"}, "{nats_per_point:.3f} nats per point", "{out}")
            Result(values={'nats_per_point': 1.23456, 'out': 'a.csv'}, lines=['1.235 nats per point', 'a.csv'])
        """
        return cls(values, [template.format(**values) for template in templates])


def tell(result: Result, as_json: bool) -> None:
    """Print what a command found out on standard output: its lines, or one JSON object of its values.

    JSON has no word for what is not finite, which is null there.
    """
    if not as_json:
        for line in result.lines:
            say(line)
        return
    import json

    # Escapes for all but ASCII: any terminal takes them, and names that are no UTF-8 come back as they were.
    print(json.dumps(_plain(result.values), allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {str(key): _plain(some) for key, some in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(some) for some in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, in columns that are as wide as they must be.

    Examples:
        >>> table([["points", "120"], ["x", "0 to 1"]])
        ['points  120', 'x       0 to 1']
    """
    widths: dict[int, int] = {}
    for row in rows:
        for place, cell in enumerate(row[:-1]):
            widths[place] = max(widths.get(place, 0), len(cell))
    return [
        "  ".join([*(cell.ljust(widths[place]) for place, cell in enumerate(row[:-1])), *row[-1:]]).rstrip()
        for row in rows
    ]


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


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add the option of all commands that print a result."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def add_seed(parser: argparse._ActionsContainer) -> None:
    """Add the seed of random numbers."""
    parser.add_argument("--seed", type=whole(0), default=0, help="of random numbers (%(default)s)")


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add the device to compute on."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (%(default)s)")


def add_sensor(parser: argparse.ArgumentParser) -> None:
    """Add the options of a sensor that sees one side of an object."""
    real = number("a number", lambda _: True)
    group = parser.add_argument_group("sensor")
    group.add_argument(
        "--direction",
        type=real,
        nargs="+",
        metavar="X",
        help="towards a sensor that sees one side of the object only, in the scan's coordinates (it sees all of it)",
    )
    group.add_argument("--offset", type=real, help="how far along --direction the visible side begins (0)")
    group.add_argument(
        "--softness", type=number("a positive number", lambda value: value > 0), help="width of that edge (0.05)"
    )


def check_sensor(arguments: argparse.Namespace) -> None:
    """See that options of a sensor have its direction.

    Raises:
        ValueError: they have not.
    """
    if arguments.direction is None and not (arguments.offset is None and arguments.softness is None):
        raise ValueError("--offset and --softness are of a sensor that sees one side: give --direction, too")


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


def choose_split(path: str, asked: str | None, default: str | None, options: FolderOptions | None = None) -> str | None:
    """The split to take of a path, where several are never mixed unless that was asked for.

    Args:
        path: of data.
        asked: the option `--split`: the name of a split, `all`, or None.
        default: the split that is taken, and told of, if none was asked for and there are several; None for none.
        options: which files of a folder are meant; None for all.

    Returns:
        The split for `load_clouds`, or None for everything.

    Raises:
        ValueError: several splits, none asked for, and no default among them.
        OSError: nothing to read there.
    """
    if asked is not None:
        return None if asked == ALL else asked
    from pyro_pcflow.data.reading import find_splits

    splits = find_splits(path) if options is None else find_splits(path, options)
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


def check_exists(path: str | Path) -> None:
    """See that something is at a path, before what reads it is imported.

    Raises:
        FileNotFoundError: nothing is there.
    """
    from pyro_pcflow.ops.reading import printable

    # What else may be wrong with a path is told by what reads it.
    try:
        os.stat(os.path.expanduser(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{printable(path)}: no such file or folder") from error
    except (OSError, ValueError):
        pass


def model_file(run: Path) -> Path:
    """The file of a model: the one of a run folder, or the path itself.

    Raises:
        ValueError: neither a file nor a folder.
        FileNotFoundError: nothing is there, or the run has not ended.
        OSError: it can't be looked at.
    """
    path = run / "model.pt" if run.is_dir() else run
    if not path.exists():
        expected = "expected the folder of a run that has ended" if run.is_dir() else "expected a run folder or a file"
        raise FileNotFoundError(f"{path}: no such file; {expected}, as pcf.save writes it")
    if not path.is_file():
        raise ValueError(f"{path}: neither a file nor a folder")
    return path
