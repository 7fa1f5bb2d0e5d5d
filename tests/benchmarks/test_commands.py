"""The commands that pages, the Makefile and the scripts themselves print are there, with their options."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("Makefile", "README.md", "CONTRIBUTING.md")
PLACES = [*(ROOT / name for name in NAMES), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.py")]
COMMAND = re.compile(r"python -m (benchmarks(?:\.\w+)+)((?:[^\n`]|\\\n)*)")


def commands(path):
    """Names of modules, each with the long options that follow."""
    for module, rest in COMMAND.findall(path.read_text(encoding="utf-8").replace("benchmarks.NAME", "")):
        yield module, re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.split("  #")[0])


USING = [path for path in PLACES if list(commands(path))]


@pytest.mark.parametrize("path", USING, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_printed_can_be_run(path):
    for module, options in commands(path):
        spec = find_spec(f"{module}.__main__") if (ROOT / module.replace(".", "/")).is_dir() else find_spec(module)
        assert spec is not None, module
        source = Path(spec.origin).read_text(encoding="utf-8")
        assert "def main(" in source
        assert [option for option in options if f'"{option}"' not in source] == [], module
