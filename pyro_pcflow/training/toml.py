"""Plain values as TOML, which Python reads but does not write."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from pyro_pcflow.ops.reading import read_small_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["dumps", "loads", "read"]

# A configuration has some kilobytes; the parser's time grows with the square of what one key can take up.
MOST_BYTES = 1 << 20
MOST_DOTS = 50
# Without its end where a line ends before, so that each character is looked at once.
_STRING = re.compile(r"""\"(?:[^"\\\n]|\\.)*"?|'[^'\n]*'?""")

loads = tomllib.loads


def read(path: Path) -> dict[str, Any]:
    """Read a file of TOML.

    Raises:
        ValueError: if it is damaged, too large, or no file.
        OSError: if it can't be read.
    """
    text = read_small_text(path, MOST_BYTES)
    if '"""' in text or "'''" in text:
        raise ValueError("a string of several lines, which no configuration has")
    keys = re.split(r"[=,\[\]{}\n]", _STRING.sub("", text))
    if max(key.count(".") for key in keys) > MOST_DOTS:
        raise ValueError(f"a key of more than {MOST_DOTS} parts")
    try:
        table = loads(text)
        dumps(table)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except TypeError as error:
        raise ValueError(str(error)) from error
    return table


def dumps(table: dict[str, Any]) -> str:
    """Write nested dicts, lists, strings, numbers and booleans as TOML; entries that are None are left out.

    Args:
        table: names to values; a dict becomes a table.

    Raises:
        TypeError: if a value has no form in TOML.

    Examples:
        >>> dumps({"lr": 0.001, "flow": {"hidden_dims": [64, 64], "base": "normal"}}).splitlines()
        ['lr = 0.001', '', '[flow]', 'hidden_dims = [64, 64]', 'base = "normal"']
    """
    return "\n".join(_lines(table, [])) + "\n"


def _lines(table: dict[str, Any], path: list[str]) -> list[str]:
    lines = [f"{_key(key)} = {_value(item)}" for key, item in table.items() if not isinstance(item, dict | None)]
    for key, item in table.items():
        if isinstance(item, dict):
            inner = [*path, _key(key)]
            lines += ["", f"[{'.'.join(inner)}]", *_lines(item, inner)]
    return lines


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for one character that JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):
        filled = {key: item for key, item in value.items() if item is not None}
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in filled.items()) + "}"
    raise TypeError(f"a {type(value).__name__} has no form in TOML")
