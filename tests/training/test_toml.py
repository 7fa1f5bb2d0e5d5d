"""Plain values as TOML and back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_pcflow.training import toml

plain_values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    # A surrogate is no character, and no file could hold it.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
tables = st.recursive(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), plain_values, max_size=4),
    lambda inner: st.dictionaries(st.text("abc.\"' \n", max_size=4), inner | plain_values, max_size=4),
    max_leaves=8,
)


@given(tables)
def test_toml_reads_back_as_it_was_written(table):
    assert toml.loads(toml.dumps(table)) == table


def test_toml_leaves_out_none_and_refuses_the_rest():
    assert toml.loads(toml.dumps({"a": None, "b": [{"c": 1, "d": None}]})) == {"b": [{"c": 1}]}
    assert math.isnan(toml.loads(toml.dumps({"a": math.nan}))["a"])
    with pytest.raises(TypeError, match="Tensor has no form"):
        toml.dumps({"a": torch.zeros(1)})
