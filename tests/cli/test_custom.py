"""`--custom FILE.py:CLASS`: which files are run, and which classes are taken from them."""

from __future__ import annotations

import re

import pytest

from pyro_pcflow.cli import main
from pyro_pcflow.cli.custom import load_custom

FILE = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path

with open({counter!r}, "a") as file:
    file.write("run ")

@dataclass
class Bend:
    amount: float = 1.0

class Twist(Bend):
    pass

number = 7
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "my classes.py"
    path.write_text(FILE.format(counter=str(tmp_path / "counter")))
    return path


def test_classes_of_one_file_which_is_run_once(mine):
    bend, twist = load_custom([f"{mine}:Bend", f"{mine}:Twist"])
    assert (bend.__name__, twist.__name__) == ("Bend", "Twist")
    assert issubclass(twist, bend)
    assert bend(2.0) == bend(amount=2.0)
    assert (mine.parent / "counter").read_text() == "run "


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("{mine}", ValueError, "expected FILE.py:CLASS, got"),
        ("{mine}:", ValueError, "expected FILE.py:CLASS, got"),
        ("os:path", ValueError, "expected FILE.py:CLASS, got 'os:path'"),
        ("{mine}:Bent", ValueError, "defines no class Bent; it has Bend, Twist"),
        ("{mine}:number", ValueError, "defines no class number"),
        ("{mine}.py:Bend", FileNotFoundError, "no such file"),
    ],
)
def test_what_names_no_class(spec, error, words, mine):
    with pytest.raises(error, match=re.escape(words)):
        load_custom([spec.format(mine=mine)])


def test_two_classes_of_one_name(mine, tmp_path):
    (tmp_path / "other.py").write_text("class Bend: ...")
    with pytest.raises(ValueError, match="two classes are called Bend"):
        load_custom([f"{mine}:Bend", f"{tmp_path / 'other.py'}:Bend"])


@pytest.mark.parametrize("text", ["1 / 0", "class Broken(:", "raise ValueError('mine')"])
def test_an_error_in_the_file_keeps_its_traceback(text, tmp_path, models):
    (tmp_path / "broken.py").write_text(text)
    words = ["sample", str(models["flow"]), "--out", str(tmp_path / "a.npy")]
    with pytest.raises(RuntimeError, match=r"broken.py could not be run") as raised:
        main([*words, "--custom", f"{tmp_path / 'broken.py'}:Broken"])
    assert raised.value.__cause__ is not None
