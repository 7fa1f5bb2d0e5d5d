"""The command line: arguments, and calls of the functions that do the work.

Each command has a file. Torch and everything that needs it is imported inside the commands, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from pyro_pcflow import __version__
from pyro_pcflow.cli.convert import add_convert
from pyro_pcflow.cli.evaluate import add_evaluate
from pyro_pcflow.cli.sample import add_sample
from pyro_pcflow.cli.score import add_score
from pyro_pcflow.cli.train import add_train
from pyro_pcflow.ops.signals import interruptible

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0; 2 after an error that the user can mend, which is told on standard error; 128 and the number
        of the signal after an interruption, 130 for Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    try:
        with interruptible():
            parsed.command(parsed)
    except KeyboardInterrupt as error:
        print(f"pcflow: {str(error) or 'interrupted'}", file=sys.stderr)
        return 128 + int(getattr(error, "signum", signal.SIGINT))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pcflow: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcflow", description="Normalizing flows over point clouds: exact densities of surfaces."
    )
    parser.add_argument("--version", action="version", version=f"pyro-pcflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_sample(commands)
    add_score(commands)
    add_evaluate(commands)
    add_convert(commands)
    return parser
