"""Options and their values, and what is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_pcflow.cli.shared import Result, assignments, model_file, table, tell

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_a_value_as_python_writes_it(value):
    assert assignments([f"a.b={value!r}", "c=1"]) == {"a": {"b": value}, "c": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("halves", "halves"),
        ("true", True),
        ("false", False),
        ("None", None),
        ("1e-3", 1e-3),
        ("a=b", "a=b"),
        ("1.5.2", "1.5.2"),
        ("[1, 2", "[1, 2"),
        ("{[]: 1}", "{[]: 1}"),
        ("__import__('os')", "__import__('os')"),
        ("[" * 500, "[" * 500),
    ],
)
def test_a_word_needs_no_quotes_and_nothing_is_run(text, value):
    assert assignments([f"a={text}"]) == {"a": value}


def test_names_that_a_terminal_lacks(models, tmp_path):
    """Where standard output is ASCII."""
    script = "import sys; from pyro_pcflow.cli.shared import note, say\n"
    script += (
        "for stream in ('stdout', 'stderr'): getattr(sys, stream).reconfigure(encoding='ascii', errors='strict')\n"
    )
    script += "say('caf\\u00e9'); note('caf\\u00e9\\n  and more')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "caf\\xe9\n"
    assert done.stderr == "pcflow: caf\\xe9; and more\n"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": 1, "b": [1.5, float("nan")], "c": {"d": (1, "x")}}, '{"a": 1, "b": [1.5, null], "c": {"d": [1, "x"]}}'),
        ({"out": Path("caf\u00e9")}, '{"out": "caf\\u00e9"}'),
        ({"out": Path(os.fsdecode(b"\xff"))}, '{"out": "\\udcff"}'),
    ],
)
def test_a_result_as_json(values, expected, capsys):
    tell(Result(values, ["never seen"]), as_json=True)
    assert capsys.readouterr().out == f"{expected}\n"


def test_lines_come_from_the_values(capsys):
    tell(Result.of({"score": 1.23456, "out": Path("a{b}.csv")}, "{score:.2f} nats", "{out}"), as_json=False)
    assert capsys.readouterr().out == "1.23 nats\na{b}.csv\n"


def test_a_table_is_as_wide_as_it_must_be():
    assert table([["a", "bb", "c"], ["aaa", "b", ""]]) == ["a    bb  c", "aaa  b"]


def test_the_file_of_a_model(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match="expected the folder of a run that has ended"):
        model_file(tmp_path / "run")
    (tmp_path / "run" / "model.pt").touch()
    assert model_file(tmp_path / "run") == tmp_path / "run" / "model.pt"
    with pytest.raises(FileNotFoundError, match="expected a run folder or a file"):
        model_file(tmp_path / "nothing.pt")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        model_file(Path(os.devnull))
