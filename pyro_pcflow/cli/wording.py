"""Errors and warnings of the library in the words of the command line: `--num-points` for `num_points`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["in_options", "keywords_of"]

# Keywords of functions whose option has another name, and phrases whose option says the contrary.
RENAMED = {"distances": "--distance", "labels": "--label", "grid": "--resolution", "path": "--cache"}
PHRASES = {"leave them out with drop_nan=True": ("--refuse-nan", "leave --refuse-nan out")}
# Of a value, quotes or brackets belong together; of a sentence, its signs do not belong to a value.
_VALUE = r"""(?:"[^"]*"|'[^']*'|\[[^]]*\]|\([^)]*\)|[^\s,;:()"']*[^\s,;:.()"'])?"""
# What the library says beside a keyword to those who use the command line.
_HINT = r"(?:,?\s*\((?:on the command line )?--[^)]*\))?"


def keywords_of(options: Iterable[str]) -> dict[str, str]:
    """Keywords of the library's functions, and the options of a command that stand for them.

    Examples:
        >>> keywords_of(["-h", "--num-points", "--label"])
        {'num_points': '--num-points', 'label': '--label', 'labels': '--label'}
    """
    long = [option for option in options if option.startswith("--")]
    renamed = {keyword: option for keyword, option in RENAMED.items() if option in long}
    return {**{option[2:].replace("-", "_"): option for option in long}, **renamed}


def in_options(text: str, keywords: Mapping[str, str]) -> str:
    """Put options in the place of keywords in what the library says.

    A keyword is known by its sign of equality, or by an underscore, which no English word has; what is a part of a path
    or stands in quotes is left alone, and so is a text that begins with an option: it is in the right words already.

    Args:
        text: of an error or a warning.
        keywords: from keywords to options.

    Examples:
        >>> in_options("continue with resume=True (on the command line --resume)", {"resume": "--resume"})
        'continue with --resume'
        >>> in_options("num_points must be at least 1, or give columns=", keywords_of(["--num-points", "--columns"]))
        '--num-points must be at least 1, or give --columns'
    """
    if text.startswith("--") or not keywords:
        return text
    for phrase, (option, replacement) in PHRASES.items():
        if option in keywords.values():
            text = text.replace(phrase, replacement)
    names = "|".join(sorted(map(re.escape, keywords), key=len, reverse=True))
    pattern = rf"""(?<![\w./\\'"=-])({names})(?:=({_VALUE})|(?![\w/\\'"=-]|\.\w)){_HINT}"""
    return re.sub(pattern, lambda found: _option(found, keywords), text)


def _option(found: re.Match[str], keywords: Mapping[str, str]) -> str:
    keyword, value = found[1], found[2]
    option = keywords[keyword]
    if value is None:
        return option if "_" in keyword else found[0]
    if value in ("None", "False"):
        return found[0]
    return option if value in ("", "True") else f"{option} {value.strip(chr(34) + chr(39))}"
