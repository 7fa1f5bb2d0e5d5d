"""The command line: each command parses its arguments and calls functions of the package.

Each command has a file of its name, which is imported when the command is asked for:

- `add_arguments(parser)` adds its options;
- `check(arguments)`, where there is one, finds errors before torch is imported, which takes seconds;
- `run(arguments)` does the work, and returns a `Result`, which is printed as text or as JSON;
- `WITHOUT_TORCH = True` says that it may end without torch.

So ``--help`` and most errors answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any, NoReturn

from pyro_pcflow._version import __version__
from pyro_pcflow.cli.shared import Result, note, tell

__all__ = ["COMMANDS", "main", "make_parser"]

COMMANDS = {
    "info": "what is in a file, a folder, a run or a model",
    "view": "show clouds, or samples of a run, in the browser",
    "train": "fit a flow to a shape, or a model to many shapes",
    "sample": "draw clouds from a trained flow or model",
    "score": "log-density of every point and every cloud",
    "evaluate": "compare samples with held-out clouds",
    "complete": "whole clouds that agree with a partial scan",
    "register": "the pose of a known object in a scan",
    "convert": "gather clouds in one file that need not fit in memory",
    "completion": "a script that lets bash or zsh complete commands and options",
}
EXIT_STATUS = """exit status:
  0    all was done
  1    a fault of the program, or of a file of --custom, with its traceback
  2    an error that you can mend: one line on standard error says how
  130  interrupted by Ctrl-C (129 by SIGHUP, 143 by SIGTERM)
  141  standard output was closed, as in pcflow ... | head

`pcflow COMMAND --help` lists the options of a command."""
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
    parsed = argparse.Namespace(keywords={})

    def _tell(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        kind = "" if issubclass(category, UserWarning) else f"{category.__name__}: "
        note(f"{kind}{_worded(message, parsed)}")

    try:
        make_parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments, parsed)
        parsed.check(parsed)
        as_json = vars(parsed).get("json", False)
        with warnings.catch_warnings(), _signals(parsed), redirect_stdout(sys.stderr if as_json else sys.stdout):
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _tell
            result = parsed.command(parsed)
        if isinstance(result, Result):
            tell(result, as_json)
    except KeyboardInterrupt as interruption:
        return _interrupted(interruption, parsed)
    except BrokenPipeError:
        raise
    except _UsageError as error:
        note(str(error))
        return FAILED
    except MemoryError as error:
        note(f"not enough memory: {error}" if str(error) else "not enough memory")
        return FAILED
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_MEMORY):
            raise
        note(f"not enough memory: {error}")
        return FAILED
    except (ValueError, OSError, OverflowError) as error:
        note(_worded(error, parsed) or type(error).__name__)
        return FAILED
    return 0


def _signals(parsed: argparse.Namespace) -> AbstractContextManager[Any]:
    """What answers signals while a command runs; it imports torch, which must not be interrupted."""
    if parsed.without_torch:
        return nullcontext()
    from pyro_pcflow.ops.signals import interruptible

    return interruptible()


def _worded(message: object, parsed: argparse.Namespace) -> str:
    """What the library says, in the words of the command line."""
    from pyro_pcflow.cli.wording import in_options

    return in_options(str(message), parsed.keywords)


def _interrupted(interruption: KeyboardInterrupt, parsed: argparse.Namespace) -> int:
    import signal

    from pyro_pcflow.ops.signals import Interrupted

    told = _worded(interruption, parsed)
    if told in ("", *signal.Signals.__members__):
        told = f"interrupted{' by ' * bool(told)}{told}, and nothing was written that is not complete"
    note(told)
    return SIGNALLED + (interruption.signum if isinstance(interruption, Interrupted) else signal.SIGINT)


def _close_output() -> None:
    """Let the interpreter flush what is left to nowhere when it ends."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # no file of the system's, which has nothing left
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


class _UsageError(ValueError):
    """Arguments that the parser refuses, in words of the command line."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take one line, as all others."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


class _Formatter(argparse.HelpFormatter):
    """Wraps descriptions and epilogs to the terminal, but for indented lines, which are examples and tables."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Commands are indented deeper than argparse allows for.
        self._action_max_length = 4 + max(map(len, COMMANDS))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line if line.startswith("  ") else super(_Formatter, self)._fill_text(line, width, indent) for line in lines
        )


def _nothing(_: argparse.Namespace) -> None:
    """Check nothing."""


def make_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of some commands.

    Args:
        names: words of which those that are commands get their options, as those of a command line.
    """
    parser = _Parser(
        prog="pcflow",
        description="Normalizing flows over point clouds: exact densities of surfaces.",
        epilog=EXIT_STATUS,
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"pyro-pcflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, formatter_class=_Formatter)
        if name in names:
            module = importlib.import_module(f"{__name__}.{name}")
            module.add_arguments(command)
            offered = vars(module)
            command.set_defaults(
                command=module.run,
                check=offered.get("check", _nothing),
                without_torch=offered.get("WITHOUT_TORCH", False),
                keywords=_keywords(command),
            )
    return parser


def _keywords(command: argparse.ArgumentParser) -> dict[str, str]:
    from pyro_pcflow.cli.wording import keywords_of

    return keywords_of(option for action in command._actions for option in action.option_strings)
