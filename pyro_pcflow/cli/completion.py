"""`pcflow completion`."""

from __future__ import annotations

import argparse
from typing import Any

from pyro_pcflow.cli.shared import Result

__all__ = ["WITHOUT_TORCH", "add_arguments", "run"]

WITHOUT_TORCH = True
SHELLS = ("bash", "zsh")
# What names files, by the names of their arguments.
FILES = frozenset(
    {"cache", "config", "custom", "data", "flow", "model", "out", "path", "proposal", "reference", "run"}
    | {"samples", "scan", "train"}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = (
        "Print a script that lets a shell complete commands, options and their values. It knows those of this version: "
        "print it again after an upgrade. It needs the extra `completion`, but only while it is made."
    )
    parser.epilog = (
        "examples:\n"
        "  pcflow completion bash > ~/.local/share/bash-completion/completions/pcflow\n"
        "  pcflow completion zsh > ~/.zfunc/_pcflow\n"
        "For zsh, the folder of the script must be in fpath before compinit is called."
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def run(arguments: argparse.Namespace) -> Result:
    """Print the script."""
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ValueError("completion needs the package shtab: pip install 'pyro-pcflow[completion]'") from error
    from pyro_pcflow.cli import COMMANDS, make_parser

    parser = make_parser([*COMMANDS])
    _complete_files(parser, shtab.FILE)
    return Result({}, [shtab.complete(parser, shell=arguments.shell)])


def _complete_files(parser: argparse.ArgumentParser, files: Any) -> None:
    """Let the arguments that name files be completed by their names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, files)
        elif action.dest in FILES and not action.choices:
            action.complete = files  # type: ignore[attr-defined]
