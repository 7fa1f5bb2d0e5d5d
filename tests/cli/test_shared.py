"""Options and their values, and what is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_pcflow.cli.shared import assignments

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
