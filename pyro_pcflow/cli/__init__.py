"""The command line: each command parses its arguments and calls functions of the package.

Each command has a file of its name, with `add_arguments` and `run`, which is imported when the command is asked for;
torch is imported while it runs. So ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from pyro_pcflow._version import __version__
from pyro_pcflow.cli.shared import note

__all__ = ["main"]

COMMANDS = {
    "train": "fit a flow to a shape, or a model to many shapes",
    "sample": "draw clouds from a trained flow or model",
    "score": "log-density of every point and every cloud",
    "evaluate": "compare samples with held-out clouds",
    "complete": "whole clouds that agree with a partial scan",
    "register": "the pose of a known object in a scan",
    "convert": "gather clouds in one file that need not fit in memory",
}
# As a shell reports a process that a signal ended.
SIGNALLED = 128
FAILED, OUTPUT_CLOSED = 2, SIGNALLED + 13  # SIGPIPE, which Windows lacks
# What torch says where memory is short, always as a RuntimeError.
NO_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory", "Storage size calculation overflowed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0; 2 after an error that the user can mend, which is a `ValueError`, an `OSError` or a lack of
        memory; 128 and the number of the signal after an interruption, 130 for Ctrl-C. Both are told in one line on
        standard error. 141 if standard output was closed, as in `pcflow ... | head`. Any other exception is a fault of
        the program, and leaves with its traceback.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        return OUTPUT_CLOSED


def _run(arguments: Sequence[str] | None) -> int:
    try:
        parsed = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
        from pyro_pcflow.ops.signals import interruptible

        with warnings.catch_warnings(), interruptible():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _tell
            parsed.command(parsed)
    except KeyboardInterrupt as interruption:
        return _interrupted(interruption)
    except BrokenPipeError:
        raise
    except MemoryError as error:
        note(f"not enough memory: {error}" if str(error) else "not enough memory")
        return FAILED
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_MEMORY):
            raise
        note(f"not enough memory: {error}")
        return FAILED
    except (ValueError, OSError, OverflowError) as error:
        note(str(error) or type(error).__name__)
        return FAILED
    return 0


def _interrupted(interruption: KeyboardInterrupt) -> int:
    import signal

    from pyro_pcflow.ops.signals import Interrupted

    told = str(interruption)
    if told in ("", *signal.Signals.__members__):
        told = f"interrupted{' by ' * bool(told)}{told}, and nothing was written that is not complete"
    note(told)
    return SIGNALLED + (interruption.signum if isinstance(interruption, Interrupted) else signal.SIGINT)


def _tell(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    note(f"{'' if issubclass(category, UserWarning) else category.__name__ + ': '}{message}")


def _close_output() -> None:
    """Let the interpreter flush what is left to nowhere when it ends."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # no file of the system's, which has nothing left
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take one line, as all others."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="pcflow", description="Normalizing flows over point clouds: exact densities of surfaces.")
    parser.add_argument("--version", action="version", version=f"pyro-pcflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in arguments:
            module = importlib.import_module(f"{__name__}.{name}")
            module.add_arguments(command)
            command.set_defaults(command=module.run)
    return parser
