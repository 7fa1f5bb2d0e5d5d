"""`python -m tests.mutate` tells a mutant that the tests notice from one that they do not, on a package of one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
SOURCE = """\
def least(a, b):
    while a > b: a, b = b, a
    return a
"""
TESTS = """\
import pytest
from small import least

def test_least():
    assert least(2, 1) == 1

def test_that_is_red():
    assert least(1, 1) == 2

@pytest.mark.exhaustive
def test_at_length():
    assert least("b", "a") == "a"
    assert type(least(True, 1)) is bool
"""
MUTANT = """\
[[mutant]]
file = "small.py"
old = '{old}'
new = '{new}'
tests = ["tests/test_small.py{test}"]
why = "{expected}"
limit = {limit}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no forks")
def test_what_the_runner_says_of_a_mutant(tmp_path):
    (tmp_path / "tests" / "mutants").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "small.py").write_text(SOURCE)
    (tmp_path / "tests" / "test_small.py").write_text(TESTS)
    tried = [
        ("while a > b", "while a != b", "::test_least", "caught"),
        ("def least", "def most", "::test_least", "caught"),
        ("a, b = b, a", "a, b = a, a", "::test_least", "caught"),
        ("return a", "return min(a, b)", "::test_least", "survived"),
        ("return a", "return 1", "::test_at_length", "caught"),
        ("return a", "return int(a)", '::test_least", "tests/test_small.py::test_at_length', "caught"),
        ("return a", "return min(a, b)", "::test_at_length", "survived"),
        ("return a", "return b", "::test_that_is_red", "red without it"),
        ("return a", "return b", "::test_not_there", "red without it"),
        ("a", "b", "", "does not apply"),
    ]
    entries = [
        MUTANT.format(old=old, new=new, test=test, expected=expected, limit=3 if "while" in new else 60)
        for old, new, test, expected in tried
    ]
    entries.append(entries[3].replace("survived", "equivalent") + 'equivalent = "the order is right by then"\n')
    (tmp_path / "tests" / "mutants" / "room.toml").write_text("\n".join(entries))
    # In a process of its own: it forks, which one with threads had better not do.
    call = f"import sys; from tests.mutate import main; sys.exit(main(sys.argv[1:], {str(tmp_path)!r}, warm=()))"
    command = [sys.executable, "-c", call, "--json", str(tmp_path / "found.json")]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1, run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["status"] for one in found] == [one["why"] for one in found], run.stdout
    assert len(found) == len(entries)
    assert (tmp_path / "small.py").read_text() == SOURCE


def test_every_mutant_applies():
    """What it changes occurs once, and its tests are there."""
    lost = []
    for path in sorted((ROOT / "tests" / "mutants").glob("*.toml")):
        for mutant in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
            file = ROOT / mutant["file"]
            count = file.read_text(encoding="utf-8").count(mutant["old"]) if file.is_file() else 0
            missing = [test for test in mutant["tests"] if not is_there(test)]
            if count != 1 or missing:
                lost.append(f"{path.name}, {mutant['why']}: `old` occurs {count} times, tests not there: {missing}")
    assert not lost, "\n".join(lost)


def is_there(test):
    file, *names = test.partition("[")[0].split("::")
    if not names:
        return (ROOT / file).exists()
    text = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
    return all(re.search(rf"(def|class) {name}\b", text) for name in names)
