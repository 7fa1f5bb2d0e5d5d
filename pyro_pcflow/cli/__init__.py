"""The command line: arguments, and calls of the functions that do the work.

Each command has a file. Torch and everything that needs it is imported inside the commands, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from pyro_pcflow._version import __version__
from pyro_pcflow.cli.convert import add_convert
from pyro_pcflow.cli.evaluate import add_evaluate
from pyro_pcflow.cli.sample import add_sample
from pyro_pcflow.cli.score import add_score
from pyro_pcflow.cli.shared import note
from pyro_pcflow.cli.train import add_train
from pyro_pcflow.ops.signals import interruptible

__all__ = ["main"]

# As a shell reports a process that a signal ended.
SIGNALLED = 128
FAILED, NOBODY_READS = 2, SIGNALLED + 13  # SIGPIPE, which Windows lacks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0; 2 after an error that the user can mend; 128 and the number of the signal after an
        interruption, 130 for Ctrl-C. Both are told in one line on standard error. 141 where nobody reads standard
        output any more, as in `pcflow ... | head`.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        return NOBODY_READS


def _run(arguments: Sequence[str] | None) -> int:
    try:
        parsed = _parser().parse_args(arguments)
        with warnings.catch_warnings(), interruptible():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _tell
            parsed.command(parsed)
    except KeyboardInterrupt as interruption:
        told = str(interruption)
        if told in ("", *signal.Signals.__members__):
            told = f"interrupted{' by ' * bool(told)}{told}, and nothing was written that is not complete"
        note(told)
        return SIGNALLED + int(getattr(interruption, "signum", signal.SIGINT))
    except BrokenPipeError:
        raise
    except MemoryError as error:
        note(f"not enough memory: {error}" if str(error) else "not enough memory")
        return FAILED
    except (ValueError, TypeError, OSError, RuntimeError, OverflowError) as error:
        note(str(error) or type(error).__name__)
        return FAILED
    return 0


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pcflow", description="Normalizing flows over point clouds: exact densities of surfaces.")
    parser.add_argument("--version", action="version", version=f"pyro-pcflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_sample(commands)
    add_score(commands)
    add_evaluate(commands)
    add_convert(commands)
    return parser
