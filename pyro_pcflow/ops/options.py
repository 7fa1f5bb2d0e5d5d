"""Words that a function takes: what is not one of them is an error that says so."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["check_options", "option_names"]


def option_names(*functions: Callable[..., Any], without: Iterable[str] = ()) -> tuple[str, ...]:
    """The names that functions or classes take as keywords, in their order.

    Args:
        *functions: those that share the options.
        without: names that are no options.

    Examples:
        >>> option_names(sorted, without=["reverse"])
        ('key',)
    """
    names: dict[str, None] = {}
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                names[parameter.name] = None
    return tuple(name for name in names if name not in set(without))


def check_options(given: Iterable[str], accepted: Iterable[str], what: str) -> None:
    """Raise unless every word that was given is one that is known.

    Args:
        given: the words, such as the keys of a dict of options.
        accepted: the words that are known.
        what: what takes them, for the error.

    Raises:
        TypeError: naming the words that are not known, those that come near to them, and all that are known.

    Examples:
        >>> check_options({"lables": 3}, ["labels", "mask"], "encode")
        Traceback (most recent call last):
        ...
        TypeError: encode: unknown option 'lables' (did you mean 'labels'?); it takes labels, mask
    """
    known = list(accepted)
    unknown = [word for word in given if word not in known]
    if not unknown:
        return
    named = []
    for word in unknown:
        near = difflib.get_close_matches(str(word), known, n=1)
        named.append(f"{word!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    options = "option" if len(unknown) == 1 else "options"
    raise TypeError(f"{what}: unknown {options} {', '.join(named)}; it takes {', '.join(known)}")
